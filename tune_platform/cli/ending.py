"""What is said when a run has ended: how, the best trial, what failed, where everything lies, what to do next."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tune_platform.cli.common import command_line, trial_json
from tune_platform.cli.format import COLOURS
from tune_platform.cli.forms import as_python
from tune_platform.cli.repeats import best_config, mean_text
from tune_platform.errors import ExperimentError
from tune_platform.progress.notes import where
from tune_platform.progress.text import counts, duration, number, shorten, values
from tune_platform.protocol.text import COST_IS_UP, DEADLINE_IS_UP, GPU_TIME_IS_UP, TIME_IS_UP

if TYPE_CHECKING:
    from tune_platform.results import Results, TrialResult


def exit_code(results: Results) -> int:
    """Return the exit code that a run deserves; see `docs/cli.md`."""
    finish = results.finish
    if finish.status == "interrupted":
        return 130
    if finish.status == "failed":
        allowed = (results.spec.get("budget") or {}).get("failures")
        return 3 if allowed is not None and results.counts.get("FAILED", 0) > allowed else 1
    return 0 if _best(results) is not None else 1


def end_screen(results: Results) -> str:
    """Return the last screen of a run."""
    finish, row = results.finish, results.row()
    title = click.style(finish.status, fg=COLOURS.get(finish.status), bold=True)
    lines = [
        f"{title}: {finish.reason}",
        f"trials  {counts(row.counts, driven=False)}",
        f"time    {duration(row.heartbeat - row.created)} since it was created",
    ]
    best = _best(results)
    config = best_config(results) if best is not None else None
    if config is not None:
        lines.append(f"config  {mean_text(config, results.metric)}")
    if best is not None:
        lines.append(f"best    trial {best.number}: {results.metric} {number(best.best)} at step {best.best_step}")
        others = {name: value for name, value in best.metrics.items() if name != results.metric}
        if others:
            lines.append(f"        {values(others)}")
    lines += _failures(results)
    lines.append(f"files   {_files(results)}")
    if best is not None:
        lines += ["", as_python(best.config)]
    return "\n".join([*lines, "", "next:", *(f"  {command}" for command in _next(results, best))])


def end_json(results: Results) -> dict[str, Any]:
    """Return the same for programs."""
    best, finish = _best(results), results.finish
    return {
        "event": "end",
        "experiment": results.name,
        "storage": _files(results),
        "status": finish.status,
        "reason": finish.reason,
        "counts": results.counts,
        "best": None if best is None else trial_json(best),
    }


def _best(results: Results) -> TrialResult | None:
    try:
        return results.best()
    except ExperimentError:
        return None


def _failures(results: Results) -> list[str]:
    """Each distinct error once, with how often it came."""
    failed = results.trials(status="FAILED")
    causes = Counter((trial.message or trial.reason, where(trial.error)) for trial in failed)
    lines = [
        f"errors  {count} x {shorten(message, 160)}" + (f" [{frame}]" if frame else "")
        for (message, frame), count in causes.most_common(5)
    ]
    if len(causes) > 5:
        lines.append(f"        and {len(causes) - 5} other kinds; see `show --status failed`")
    return lines


def _files(results: Results) -> str:
    from tune_platform.store.sql import open_store

    with open_store(results.storage) as store:
        return store.location if "://" in store.location else str(Path(store.location) / results.name)


def _next(results: Results, best: TrialResult | None) -> list[str]:
    name, storage = results.name, results.storage
    commands = [] if best is None else [command_line("best", name, storage, "--as", "yaml")]
    commands.append(command_line("show", name, storage))
    if best is not None:
        commands.append(command_line("export", name, storage, "--format", "csv", "-o", f"{name}.csv"))
    more = () if results.finish.status == "interrupted" else ("--extend", "trials=10")
    budget, reason = results.spec.get("budget") or {}, results.finish.reason
    if more and reason.startswith(TIME_IS_UP):
        more = ("--extend", f"time={budget['time']:g}s")
    elif more and reason.startswith(GPU_TIME_IS_UP):
        more = ("--extend", f"gpu_hours={budget['gpu_hours']:g}")
    elif more and reason.startswith(COST_IS_UP):
        more = ("--extend", f"cost={budget['cost']['limit']:g}")
    elif more and reason.startswith(DEADLINE_IS_UP):
        more = ("--extend", f"deadline={datetime.now().astimezone() + timedelta(days=1):%Y-%m-%dT%H:%M%z}")
    return [*commands, command_line("resume", name, storage, *more)]
