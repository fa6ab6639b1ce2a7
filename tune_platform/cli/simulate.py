"""`simulate`: what searches would find, how soon and at what cost, from learning curves that are known."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from tune_platform.cli.common import json_option, offer, pairs, print_json, storage_option, talk
from tune_platform.cli.format import table, width
from tune_platform.cli.run import overrides_of
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.location import default_storage
from tune_platform.progress.text import number

if TYPE_CHECKING:
    from tune_platform.curves.table import CurveTable
    from tune_platform.simulation import Outcome


def _curves(given: Mapping[str, Any]) -> Iterator[str]:
    from tune_platform.store.sql import open_store

    yield from sorted(str(path) for ending in ("npz", "parquet") for path in Path().glob(f"*.{ending}"))
    with open_store(given.get("storage") or default_storage()) as store:
        yield from store.names()


@click.command()
@click.argument("specs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--curves",
    required=True,
    metavar="FILE|EXPERIMENT",
    shell_complete=offer(_curves),
    help="Learning curves: a table (.npz, .parquet), or what the trials of an experiment did.",
)
@click.option(
    "--between",
    type=click.Choice(["nearest", "surrogate"]),
    default="nearest",
    show_default=True,
    help="What a config that the curves do not have is answered with: its nearest, or trees that are fitted to them.",
)
@click.option(
    "--workers",
    multiple=True,
    type=click.IntRange(min=1),
    default=(8,),
    show_default=True,
    help="Trials that train at a time. Repeat it to compare.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of each, to see a band.")
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any key of the specs. Repeatable.")
@click.option("--vary", multiple=True, metavar="KEY=A,B,...", help="Compare values of a key, as schedule.eta=2,4.")
@click.option("--start-up", type=click.FloatRange(min=0), default=0.0, help="Seconds from a launch to the first step.")
@click.option("--failures", type=click.FloatRange(0, 1), default=0.0, help="Share of steps in which the worker dies.")
@click.option("--stragglers", type=click.FloatRange(0, 1), default=0.0, help="Share of configs that are slow.")
@click.option(
    "--slowdown",
    type=click.FloatRange(min=0, min_open=True),
    default=4.0,
    show_default=True,
    help="How many times as long a straggler takes.",
)
@click.option("--price", type=click.FloatRange(min=0), default=0.0, help="Of a worker for an hour.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw the best value over time.")
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the best value over time, a row for each improvement.",
)
@storage_option
@json_option
def simulate(
    specs: Sequence[Path], curves: str, between: str, workers: Sequence[int], seeds: int, trials: int | None,
    sets: tuple[str, ...], vary: tuple[str, ...], png: Path | None, csv_file: Path | None, storage: str | None,
    as_json: bool, **conditions: float,
) -> None:  # fmt: skip
    """Run searches on a virtual clock over known learning curves; nothing is trained.

    Answers with the best value over time, the time that workers were busy, the cost, and why trials ended.

    \b
    Example: tune-platform simulate examples/digits.yaml --curves digits --workers 2 --workers 18
    """
    from tune_platform.simulation import Conditions
    from tune_platform.simulation import simulate as simulated
    from tune_platform.spec import resolve

    given = overrides_of({"sets": sets, "trials": trials})
    known = load_curves(curves, storage)
    runs: dict[str, list[Outcome]] = {}
    mode = "min"
    for spec, count, varied in itertools.product(specs, workers, _varied(vary)):
        search, _ = resolve(spec, overrides={**given, **varied})
        mode = search.modes[0]
        words = [search.name or spec.stem] + [f"{key}={value}" for key, value in varied.items()]
        label = ", ".join(words + [f"{count} workers"] * (len(workers) > 1))
        if label in runs:
            label = f"{spec}: {label}"
        runs[label] = simulated(
            search, known, seeds=seeds, conditions=Conditions(workers=count, **conditions), between=between
        )
    if csv_file is not None:
        _write_csv(csv_file, runs)
        talk(f"{csv_file}: the best value over simulated time")
    if png is not None:
        draw(png, runs, metric=known.metric, mode=mode)
        talk(f"{png}: the best value over simulated time")
    if as_json:
        print_json({label: [_as_json(each) for each in outcomes] for label, outcomes in runs.items()})
        return
    click.echo(_report(runs, mode, priced=conditions["price"] > 0))


def load_curves(curves: str, storage: str | None) -> CurveTable:
    """Return a table of a file or of an experiment. Raises SpecError where there is neither."""
    from tune_platform.curves.experiment import table_of
    from tune_platform.curves.table import CurveTable

    if Path(curves).suffix in (".npz", ".parquet"):
        return CurveTable.load(curves)
    try:
        return table_of(curves, storage=storage)
    except ExperimentError as error:
        raise SpecError(f"--curves {curves}: neither a table (.npz, .parquet) nor an experiment: {error}") from error


def _varied(vary: tuple[str, ...]) -> list[dict[str, str]]:
    choices = [[(key, each) for each in values.split(",")] for key, values in pairs(vary, "--vary").items()]
    return [dict(picked) for picked in itertools.product(*choices)]


def _report(runs: Mapping[str, Sequence[Outcome]], mode: str, *, priced: bool) -> str:
    head = ["search", "best", "found at", "seconds", "busy", *(["cost"] if priced else []), "trials", "steps"]
    rows = []
    for label, outcomes in runs.items():
        values = [each.value for each in outcomes if each.value is not None]
        found = [each.best[-1][0] for each in outcomes if each.best]
        columns = [values, found, *([each.__dict__[key] for each in outcomes] for key in ("seconds", "busy"))]
        columns += [[each.cost for each in outcomes]] if priced else []
        counts = (f"{median(each.__dict__[key] for each in outcomes):.0f}" for key in ("trials", "steps"))
        rows.append([label, *(number(float(median(column))) if column else "-" for column in columns), *counts])
    several = max(len(outcomes) for outcomes in runs.values())
    lines = [table(head, rows, width())]
    if several > 1:
        lines.append(f"medians of {several} seeds; best is the {mode} of each run")
    for label, outcomes in runs.items():
        lines += ["", f"{label}: how trials ended" + (f" (seed {outcomes[0].seed})" if several > 1 else "")]
        lines += [f"{count:>7}  {reason}" for reason, count in outcomes[0].ends.items()]
    return "\n".join(lines)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    names = ("seed", "value", "seconds", "busy", "cost", "trials", "steps", "ends", "best")
    return {name: getattr(outcome, name) for name in names}


def _write_csv(path: Path, runs: Mapping[str, Sequence[Outcome]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("search", "seed", "seconds", "best"))
        for label, outcomes in runs.items():
            writer.writerows((label, each.seed, when, value) for each in outcomes for when, value in each.best)


def draw(path: Path, runs: Mapping[str, Sequence[Outcome]], *, metric: str, mode: str) -> None:
    """Draw the median best value over time, with a band from the lower to the upper quartile of the seeds."""
    from tune_platform.extras import require

    require("a figure", "matplotlib")
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for label, outcomes in runs.items():
        times = sorted({when for each in outcomes for when, _ in each.best} | {each.seconds for each in outcomes})
        values = np.array(
            [[np.nan if (found := each.at(time)) is None else found for time in times] for each in outcomes]
        )
        known = np.isfinite(values).all(axis=0)  # before the last seed's first report there is no median
        low, middle, high = np.quantile(values[:, known], (0.25, 0.5, 0.75), axis=0)
        when = np.array(times)[known]
        (line,) = axes.step(when, middle, where="post", label=label)
        if len(outcomes) > 1:
            axes.fill_between(when, low, high, step="post", alpha=0.2, color=line.get_color(), linewidth=0)
    axes.set(xlabel="simulated seconds", ylabel=f"best {metric} so far ({mode})", xscale="log")
    axes.legend()
    figure.savefig(path, dpi=120, format="png")
