"""`import`: experiments of others become experiments of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tune_platform.cli.common import storage_option, talk
from tune_platform.errors import ExperimentError, SpecError, did_you_mean
from tune_platform.location import Location, default_storage


@click.command("import")
@click.argument("source", metavar="DIR|FILE|URL")
@click.option("--name", help="What the experiment is to be called.  [default: as it is there]")
@click.option("--metric", help="What is judged, where the source does not say.")
@click.option("--mode", type=click.Choice(["min", "max"]), help="... and whether less or more of it is better.")
@click.option("--study", help="Of an Optuna storage: which study.")
@click.option("--parameters", metavar="NAME,NAME", help="Of a table whose columns do not say: which are parameters.")
@storage_option
def import_(
    source: str,
    name: str | None,
    metric: str | None,
    mode: str | None,
    study: str | None,
    parameters: str | None,
    storage: str | None,
) -> None:
    """Read a finished experiment of another program, so that show, why, best and export work on it.

    A folder of Ray Tune's (nothing in it is unpickled), the URL of an Optuna storage, or a table of runs in CSV or
    JSON that W&B, MLflow or this program exported.

    \b
    Example: tune-platform import ~/ray_results/train_2026-01-31 --metric loss --mode min
    """
    from tune_platform.recording import open_recording

    found, title, what = _open(source, study, parameters)
    metrics, modes = _objective(found, metric, mode)
    where = Location(source) if "://" in source else Path(source).expanduser().resolve()
    with open_recording(
        name or title,
        storage=storage or default_storage(),
        metrics=metrics,
        modes=modes,
        began=found.began,
        source=f"{what} {where}",
    ) as recording:
        found.record(recording)
    talk(f"{recording.name}: {recording.trials} trials of {what}")


def _open(source: str, study: str | None, parameters: str | None) -> tuple[Any, str, str]:
    """Return the reader of a source, a name for it, and what it is."""
    if "://" in source:
        from tune_platform.recording.optuna_study import OptunaStudy

        found = OptunaStudy(source, study)
        return found, _name(found.name), "the Optuna study"
    path = Path(source).expanduser()
    if path.is_dir():
        from tune_platform.recording.ray_experiment import RayExperiment

        return RayExperiment(path.resolve()), _name(path.resolve().name), "Ray Tune's experiment"
    if path.is_file():
        from tune_platform.recording.run_table import RunTable

        return RunTable(path, [each for each in (parameters or "").split(",") if each]), _name(path.stem), "the table"
    raise ExperimentError(f"there is no {source!r}: a folder of Ray Tune's, a CSV or JSON file, or an Optuna URL")


def _objective(found: Any, metric: str | None, mode: str | None) -> tuple[Sequence[str], Sequence[str]]:
    if hasattr(found, "metrics"):
        return found.metrics, found.modes
    metric = metric or getattr(found, "metric", None)
    names = found.metric_names()
    if metric is None or metric not in names:
        said = f"no metric {metric!r} was reported{did_you_mean(metric, names)}" if metric else "say what was judged"
        raise SpecError(f"--metric: {said}; reported were: {', '.join(names) or 'none'}")
    if mode is None:
        raise SpecError(f"--mode: say whether less (min) or more (max) of {metric!r} is better")
    return [metric], [mode]


def _name(text: str) -> str:
    """Return a name that an experiment may have."""
    return (
        "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in text).strip("._-")
        or "imported"
    )
