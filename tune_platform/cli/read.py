"""The commands that read: ls, show, best, why, export. They work while a search runs and after it crashed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tune_platform.cli.common import (
    command_line,
    complete_metric,
    experiment_argument,
    is_population,
    json_option,
    load,
    offer,
    print_json,
    storage_option,
    talk,
    trial_json,
)
from tune_platform.cli.format import fit, table, width
from tune_platform.cli.forms import FORMS, as_python, as_yaml
from tune_platform.cli.repeats import best_config, config_json, configs_table, mean_text
from tune_platform.extras import require
from tune_platform.location import Location, default_storage
from tune_platform.progress.text import counts, duration, finite, number, status_word, values
from tune_platform.protocol.text import choices_of

if TYPE_CHECKING:
    import pandas as pd

    from tune_platform.results import Reason, Results, Spent, TrialResult
    from tune_platform.results.lineage import Lineage
    from tune_platform.store.records import ExperimentRow


def _orders(given: Mapping[str, Any]) -> Sequence[str]:
    from tune_platform.store.reader import ORDERS

    return ORDERS


def _statuses(given: Mapping[str, Any]) -> Sequence[str]:
    from tune_platform.results import STATUSES

    return [status.lower() for status in STATUSES]


# ------------------------------------------------------------------------------------------ ls


@click.command()
@storage_option
@json_option
def ls(storage: str | None, as_json: bool) -> None:
    """List the experiments.

    \b
    Example: tune-platform ls --storage ~/tune_results
    """
    from tune_platform.store.sql import open_store

    with open_store(storage or default_storage()) as store:
        rows, where = store.experiments(), store.location
    if as_json:
        print_json([_experiment_json(row) for row in rows])
        return
    if not rows:
        talk(f"no experiments in {where}")
        return
    now = time.time()
    tags = any(row.tags for row in rows)  # a column that few need
    lines = [
        (row.name, row.status, str(sum(row.counts.values())), _age(row.created, now),
         *([", ".join(row.tags)] if tags else []), _ls_note(row))
        for row in rows
    ]  # fmt: skip
    click.echo(
        table(("experiment", "status", "trials", "started", *(["tags"] if tags else []), "note"), lines, width())
    )


def _age(then: float, now: float) -> str:
    return f"{duration(now - then)} ago" if then else "-"


def _ls_note(row: ExperimentRow) -> str:
    return counts(row.counts) if row.status == "running" else row.reason or counts(row.counts, driven=False)


def _experiment_json(row: ExperimentRow) -> dict[str, Any]:
    objective = row.spec.get("objective", [])
    return {
        "name": row.name,
        "status": row.status,
        "reason": row.reason,
        "objective": [objective] if isinstance(objective, Mapping) else objective,
        "counts": dict(row.counts),
        "tags": list(row.tags),
        "created": row.created,
        "heartbeat": row.heartbeat,
        "driver": row.driver,
    }


# ------------------------------------------------------------------------------------------ show


@click.command()
@experiment_argument
@click.argument("trial", type=int, required=False)
@click.option(
    "--sort",
    default="best",
    show_default=True,
    shell_complete=offer(_orders),
    help="best, trial, step, created, started or ended; with - before it, descending.",
)
@click.option("--status", shell_complete=offer(_statuses), help="Only the trials in this status.")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="0 shows all.")
@storage_option
@json_option
def show(
    experiment: str,
    trial: int | None,
    sort: str,
    status: str | None,
    limit: int,
    storage: str | None,
    as_json: bool,
) -> None:
    """Show an experiment, or one trial of it.

    The trials come best first; one TRIAL comes with all that is known of it.

    \b
    Example: tune-platform show digits 42
    """
    results = load(experiment, storage)
    if trial is not None:
        one, reasons = results.trial(trial), results.why(trial)
        family = _family(results, results.row())
        if as_json:
            history = [_reason_json(reason) for reason in reasons]
            print_json({**trial_json(one), **_place_json(family, trial), "history": history})
        else:
            click.echo(_trial_text(results, one, reasons, family, driven=results.status == "running"))
        return
    row = results.row()
    if sort.lstrip("-") == "best":
        sort = "-best" if (results.mode == "max") != sort.startswith("-") else "best"
    trials = results.trials(status=status, order=sort, limit=limit or None)
    family = _family(results, row)
    if as_json:
        spent = _spent_json(results.spent())
        rows = [{**trial_json(each), **_place_json(family, each.number)} for each in trials]
        configs = {"configs": [config_json(each) for each in results.configs()]} if results.replicates > 1 else {}
        print_json({**_experiment_json(row), "spent": spent, **configs, "trials": rows})
        return
    click.echo(_summary(results, row))
    if results.replicates > 1 and sort in ("best", "-best") and status is None:
        click.echo("\n" + configs_table(results, limit))
    elif trials:
        click.echo("\n" + _trials_table(results, trials, family, driven=row.status == "running"))
    total = sum(row.counts.values()) if status is None else row.counts.get(status.upper(), 0)
    if results.replicates > 1 and sort in ("best", "-best") and status is None:
        talk("each config is tried several times, and ranked by its mean; --sort trial shows the trials")
    elif len(trials) < total:
        talk(f"{len(trials)} of {total} trials are shown; --limit 0 shows all")
    if row.status in ("crashed", "interrupted"):
        talk(f"to go on: {command_line('resume', results.name, results.storage)}")


def _summary(results: Results, row: ExperimentRow) -> str:
    ended = time.time() if row.status == "running" else row.heartbeat
    objectives = ", ".join(f"{mode} {name}" for name, mode in zip(results.metrics, results.modes, strict=True))
    lines = [
        f"{click.style(row.name, bold=True)}  {row.status}" + (f": {row.reason}" if row.reason else ""),
        f"objective  {objectives or '-'}",
        f"trials     {counts(row.counts, driven=row.status == 'running')}",
        f"time       {duration(ended - row.created)}, from {_clock(row.created)}",
    ]
    if (spent := results.spent()) is not None:
        lines.append(f"spent      {_spent(spent)}")
    if (found := results.out_of_places()) is not None:
        since, nodes = found
        have = "; ".join(", ".join(f"{amount:g} {name}" for name, amount in node.items()) for node in nodes if node)
        lines.append(f"waits      for places: since {since:%H:%M:%S} the nodes have {have or 'nothing'}")
    lines += [f"choices    {choices_of(more)}: tried since {_clock(since)}" for since, more in results.choices_added()]
    return "\n".join(lines)


def _spent(spent: Spent) -> str:
    """Return "1.2 of 10 GPU hours, cost 3.4 of 50; at this rate until 2026-12-01 18:00 (cost)"."""
    of = spent.of
    parts = [f"{spent.gpu_hours:.3g} of {of['gpu_hours']:g} GPU hours"] if "gpu_hours" in of else []
    if spent.cost is not None:
        parts.append(f"cost {spent.cost:.3g} of {of['cost']:g}")
    if not parts:
        parts.append(f"{spent.cpu_hours:.3g} CPU hours, {spent.gpu_hours:.3g} GPU hours")
    if "deadline" in of:
        parts.append(f"until {of['deadline']:%Y-%m-%d %H:%M:%S}")
    ends = (
        "" if spent.ends is None or spent.by == "deadline" else f"; at this rate until {spent.ends:%Y-%m-%d %H:%M:%S}"
    )
    return ", ".join(parts) + ends


def _spent_json(spent: Spent | None) -> dict[str, Any] | None:
    if spent is None:
        return None
    of = {name: bound.timestamp() if isinstance(bound, datetime) else bound for name, bound in spent.of.items()}
    ends = spent.ends and spent.ends.timestamp()
    return {"cpu_hours": spent.cpu_hours, "gpu_hours": spent.gpu_hours, "cost": spent.cost, "of": of, "ends": ends}


def _family(results: Results, row: ExperimentRow) -> Lineage | None:
    """Return who went on from whose checkpoint, where the scheduler has them do so: it takes reading the whole log."""
    return results.family() if is_population(row) else None


def _place_json(family: Lineage | None, trial: int) -> dict[str, Any]:
    if family is None:
        return {}
    parent = family.parent(trial)
    return {"generation": family.generation(trial), "parent": parent.source if parent else None}


def _trials_table(results: Results, trials: Sequence[TrialResult], family: Lineage | None, *, driven: bool) -> str:
    from tune_platform.protocol.configs import shown
    from tune_platform.results import flatten

    configs = [flatten(shown(trial.config)) for trial in trials]
    names = list(dict.fromkeys(name for config in configs for name in config))
    # What is the same in all of them tells nothing; `show EXP TRIAL` has it.
    if len(trials) > 1:
        names = [name for name in names if len({repr(config.get(name)) for config in configs}) > 1]
    first = ["trial", "status", "step", f"best {results.metric}".strip(), "at"]  # in this order, see `fit` below
    places: dict[int, list[str]] = {}
    if family is not None:
        first += ["generation", "parent"]
        found = {t.number: _place_json(family, t.number) for t in trials}
        places = {trial: [str(at["generation"]), number(at["parent"])] for trial, at in found.items()}
    rows = [
        [str(t.number), status_word(t.status, driven), str(t.step), number(t.best), number(t.best_step)]
        + places.get(t.number, [])
        + [number(config.get(name)) for name in names]
        + [t.reason if t.status != "FAILED" else t.message or t.reason]
        for t, config in zip(trials, configs, strict=True)
    ]
    head = [*first, *names, "reason"]
    # On a narrow terminal the parameters stay longest, of them those that most trials have.
    if len(fit(head, rows, range(len(head)), width())) < len(head):
        head[3] = "best"  # the summary has the metric
    parameters = range(len(first), len(head) - 1)
    rare = sorted(parameters, key=lambda index: (sum(head[index] in config for config in configs), -index))
    kept = fit(head, rows, (4, 2, len(head) - 1, 1, *range(5, len(first)), *rare), width())
    missing = [name for index, name in enumerate(head) if index not in kept]
    if missing:
        talk(f"does not fit into {width()} columns: {', '.join(missing)}; widen the terminal, or see --json and export")
    head, *rows = [[line[index] for index in kept] for line in (head, *rows)]
    return table(head, rows, width())


def _trial_text(
    results: Results, trial: TrialResult, reasons: Sequence[Reason], family: Lineage | None, *, driven: bool
) -> str:
    status = status_word(trial.status, driven)
    best = "-" if trial.best is None else f"{results.metric} {number(trial.best)} at step {trial.best_step}"
    lines = [
        f"trial {trial.number} of {results.name}: {status}" + (f", {trial.reason}" if trial.reason else ""),
        f"reports     {trial.step}, attempt {trial.attempt}" + (f", on {trial.worker}" if trial.worker else ""),
        f"best        {best}",
        f"last        {values(trial.last) or '-'}",
        f"created     {_clock(trial.created)} ({trial.origin})",
        f"started     {_clock(trial.started)}",
        f"ended       {_clock(trial.ended)}"
        + (f" after {duration(trial.duration)}" if trial.duration is not None else ""),
        f"checkpoint  {_saved(trial) or '-'}",
        f"log         {trial.log_file or '-'}",
        *([] if family is None else _place(family, trial.number)),
        "config",
        *(f"  {line}" for line in as_yaml(trial.config).splitlines()),
    ]
    if trial.error:
        lines += ["error", *(f"  {line}" for line in trial.error.rstrip().splitlines())]
    return "\n".join([*lines, "history", *(f"  {line}" for line in _history(reasons))])


def _place(family: Lineage, trial: int) -> list[str]:
    """Say how many clones its weights have gone through, and whose they were before the last."""
    parent = family.parent(trial)
    at = "?" if parent is None or parent.source_step is None else parent.source_step
    whose = "-" if parent is None else f"trial {parent.source}, its weights of step {at} taken at step {parent.step}"
    return [f"generation  {family.generation(trial)}", f"parent      {whose}"]


def _saved(trial: TrialResult) -> str:
    """Where its checkpoint lies, and of which step it is where that is not the best one."""
    kept = trial.checkpoint
    if kept is None:
        return ""
    return kept.location + (f" (of step {kept.step}; that of the best is not kept)" if kept.nearest_to else "")


# ------------------------------------------------------------------------------------------ best


@click.command()
@experiment_argument
@click.option("--as", "form", type=click.Choice(list(FORMS)), help="Print only the config, in this form.")
@click.option("--scope", type=click.Choice(["best", "last"]), default="best", show_default=True,
              help="Rank by the best value of each trial, or by its last.")  # fmt: skip
@click.option("--metric", shell_complete=complete_metric, help="Rank by this metric.  [default: that of the search]")
@click.option("--mode", type=click.Choice(["min", "max"]), help="... and whether less or more is better.")
@storage_option
@json_option
def best(
    experiment: str,
    form: str | None,
    scope: str,
    metric: str | None,
    mode: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Print the best trial and its config. With several objectives, the first one ranks.

    \b
    Example: tune-platform best digits --as args
    """
    results = load(experiment, storage)
    trial = results.best("last" if scope == "last" else "best", metric, mode)
    if form is not None:
        click.echo(FORMS[form](trial.config))
        return
    name = metric or results.metric
    config = best_config(results, "last" if scope == "last" else "best", metric, mode)
    if as_json:
        extra = {"experiment": results.name, "metric": name, "scope": scope}
        mean = {"mean_of_config": config_json(config)} if config is not None else {}
        print_json({**trial_json(trial), **extra, **mean})
        return
    if config is not None:
        click.echo(f"config    {mean_text(config, name)}")
    click.echo(f"trial {trial.number}: {name} {number(trial.best)} at step {trial.best_step}")
    others = {key: value for key, value in trial.metrics.items() if key != name}
    if others:
        click.echo(f"there     {values(others)}")
    click.echo(f"status    {trial.status}" + (f", {trial.reason}" if trial.reason else ""))
    if trial.checkpoint is not None:
        click.echo(f"saved at  {_saved(trial)}")
    click.echo(as_python(trial.config))


# ------------------------------------------------------------------------------------------ why


@click.command()
@experiment_argument
@click.argument("trial", type=int)
@storage_option
@json_option
def why(experiment: str, trial: int, storage: str | None, as_json: bool) -> None:
    """Say what became of a trial, and why: what was decided, and (after <-) the fact that it was decided on.

    \b
    Example: tune-platform why digits 42
    """
    reasons = load(experiment, storage).why(trial)
    if as_json:
        print_json([_reason_json(reason) for reason in reasons])
    else:
        click.echo("\n".join(_history(reasons)))


def _history(reasons: Sequence[Reason]) -> list[str]:
    wide = max((len(each.verdict) for each in reasons), default=0)
    return [
        f"{_clock(each.time)}  {'' if each.step is None else f'step {each.step}':<10}  {each.verdict:<{wide}}  "
        f"{each.reason}{f'  <- {each.cause}' if each.cause else ''}".rstrip()
        for each in reasons
    ]


def _reason_json(reason: Reason) -> dict[str, Any]:
    return {
        "time": reason.time.timestamp(),
        "step": reason.step,
        "verdict": reason.verdict,
        "reason": reason.reason,
        "cause": reason.cause,
    }


def _clock(then: datetime | float | None) -> str:
    if isinstance(then, datetime):
        then = then.timestamp()
    return "-" if then is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then))


# ------------------------------------------------------------------------------------------ export


@click.command()
@experiment_argument
@click.option(
    "--format", "form", type=click.Choice(["csv", "parquet", "json", "html"]), default="csv", show_default=True
)
@click.option("--reports", is_flag=True, help="One row for each report, not for each trial.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="[default: stdout]")
@click.option("--to", nargs=2, type=(click.Choice(["optuna"]), str), metavar="optuna URL",
              help="Write a study of this Optuna storage, which optuna-dashboard opens.")  # fmt: skip
@storage_option
def export(
    experiment: str, form: str, reports: bool, output: Path | None, to: tuple[str, str] | None, storage: str | None
) -> None:
    """Write the trials, or every report, as a table; or the experiment as a page (html), or as a study of Optuna.

    The page holds figures and the table of trials, and opens without a server.

    \b
    Example: tune-platform export digits --format parquet --reports -o digits.parquet
    """
    if to is not None:
        from tune_platform.integrations.optuna_study import export_study

        results = load(experiment, storage)
        talk(f"{export_study(results, to[1])} trials in the study {results.name} of {Location(to[1])}")
        return
    if output == Path("-"):  # as other commands call stdout
        output = None
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("parquet is not for a terminal: give a file with -o")
    if form == "parquet":
        require("--format parquet", "pyarrow")
    if form == "html":
        _write_page(load(experiment, storage), output)
        return
    frame = load(experiment, storage).dataframe(reports)
    data = _encode(frame, form)
    if output is None:
        click.echo(data, nl=False)
        return
    output.write_bytes(data)
    talk(f"{len(frame)} rows, {len(frame.columns)} columns in {output}")


def _write_page(results: Results, output: Path | None) -> None:
    from tune_platform.plots import View
    from tune_platform.plots.report import page

    text = page(View.of(results))
    if output is None:
        click.echo(text)
        return
    output.write_text(text, encoding="utf-8")
    talk(f"{output} opens in any browser, without a server")


def _encode(frame: pd.DataFrame, form: str) -> bytes:
    if form == "csv":
        return frame.to_csv(index=False).encode()
    if form == "json":
        records = [finite(_told(record)) for record in frame.to_dict("records")]
        return (json.dumps(records, ensure_ascii=False, indent=1) + "\n").encode()
    for name in frame.columns:
        cells = frame[name]
        # A column of parquet has one type: what is mixed, or nested, is written as JSON text.
        if cells.dtype == object and any(not isinstance(cell, (str, type(None))) for cell in cells):
            frame[name] = [None if _missing(cell) else json.dumps(finite(cell)) for cell in cells]
    data: bytes = frame.to_parquet(index=False)
    return data


def _told(record: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row for JSON: times in ISO 8601, what is missing as None."""
    return {
        str(name): None if _missing(cell) else cell.isoformat() if isinstance(cell, datetime) else cell
        for name, cell in record.items()
    }


def _missing(cell: Any) -> bool:
    import pandas as pd

    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and cell != cell)


COMMANDS = (ls, show, best, why, export)
