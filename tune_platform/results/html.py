"""Results in a notebook: small tables of HTML in the page's own colours, no scripts. All text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from tune_platform.protocol.configs import shown
from tune_platform.results.tables import flatten

if TYPE_CHECKING:
    from tune_platform.results.core import Results
    from tune_platform.results.trials import TrialResult

#: Rows of the table of trials, and parameters in it.
_TRIALS, _PARAMETERS = 10, 8


def results_html(results: Results) -> str:
    """Return how an experiment stands, and its best trials."""
    row = results.row()
    order = "-best" if results.mode == "max" else "best"
    trials = results.trials(order=order, limit=_TRIALS)
    configs = [flatten(shown(trial.config)) for trial in trials]
    names = list(dict.fromkeys(name for config in configs for name in config))
    varied = [name for name in names if len({repr(config.get(name)) for config in configs}) > 1 or len(trials) == 1]
    columns = varied[:_PARAMETERS]
    head = ["trial", "status", "step", f"best {results.metric}", "at step", *columns]
    lines = [
        [trial.number, trial.status, trial.step, trial.best, trial.best_step, *(config.get(name) for name in columns)]
        for trial, config in zip(trials, configs, strict=True)
    ]
    counts = ", ".join(f"{count} {status.lower()}" for status, count in row.counts.items()) or "no trials yet"
    title = f"<b>{escape(row.name)}</b> {escape(row.status)}; {escape(counts)}"
    reason = f"<div>{escape(row.reason)}</div>" if row.reason else ""
    return f"<div>{title}</div>{reason}{_table(head, lines)}"


def trial_html(trial: TrialResult) -> str:
    """Return what is known of one trial."""
    facts: Mapping[str, Any] = {
        "status": f"{trial.status}, {trial.reason}" if trial.reason else trial.status,
        "best": None if trial.best is None else f"{_text(trial.best)} at step {trial.best_step}",
        "checkpoint": trial.checkpoint and repr(trial.checkpoint),
        "error": trial.message or None,
        **flatten(shown(trial.config), "config"),
        **flatten(trial.metrics, "metrics"),
    }
    lines = [[name, value] for name, value in facts.items() if value is not None]
    return f"<div><b>trial {trial.number}</b></div>{_table((), lines)}"


def _table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    rows = ["".join(f"<td>{escape(_text(cell))}</td>" for cell in line) for line in lines]
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in (titles, *rows) if row)}</table>"


def _text(cell: Any) -> str:
    return "" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell)
