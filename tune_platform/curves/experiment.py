"""The learning curves of a finished experiment, as a table: what its trials reported, and when.

A trial that a scheduler stopped has no curve after that. It goes on as the nearest trial that got further did, from
where it stood: a guess, and the only one in the table; a trial that came to its own end ends there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tune_platform.curves.nearest import Nearest
from tune_platform.curves.table import CurveTable
from tune_platform.errors import ExperimentError
from tune_platform.location import Location, default_storage
from tune_platform.protocol.configs import from_json
from tune_platform.protocol.reports import finite
from tune_platform.space import Space
from tune_platform.store.sql import SqlExperiment, open_store

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rows of the log after which a trial trains: the seconds of its next step count from there.
_BEGINS = ("launched", "started", "verdict")


def table_of(name: str, *, storage: str | Path | None = None) -> CurveTable:
    """Return the curves of an experiment of the store.

    The seconds of a step are those from the report before it, or from the launch or the verdict that let the trial
    go on, so that waiting is not counted. Raises ExperimentError where there is no such experiment, where it has
    several objectives, or where no trial has reported.
    """
    with open_store(Location(storage or default_storage())) as store, store.open(name) as experiment:
        return _table(experiment)


def _table(experiment: SqlExperiment) -> CurveTable:
    objective = experiment.spec["objective"]
    if not isinstance(objective, Mapping):
        raise ExperimentError(f"experiment {experiment.name!r} has several objectives; one is simulated at a time")
    metric, resource = str(objective["metric"]), str(_schedule(experiment).get("resource", "step"))
    reports, seconds = _read(experiment)
    trials = [row for row in experiment.trials() if row.trial in reports]
    if not trials:
        raise ExperimentError(f"experiment {experiment.name!r} has no reports, so there are no curves to simulate with")
    steps = max(max(reports[row.trial]) for row in trials)
    names = {metric: None} | {
        key: None for row in trials for key, value in row.metrics.items() if isinstance(value, (int, float))
    }
    names.pop(resource, None)

    def gathered(of: Mapping[int, Mapping[int, Any]], key: str | None = None) -> NDArray[np.float32]:
        array = np.full((len(trials), steps), np.nan, dtype=np.float32)
        for i, row in enumerate(trials):
            for step, found in of[row.trial].items():
                number = finite(found.get(key) if key is not None else found)
                array[i, step - 1] = math.nan if number is None else number
        return array

    table = CurveTable(
        space=Space(_space(experiment)),
        metric=metric,
        mode=str(objective["mode"]),
        configs=[from_json(row.config) for row in trials],
        values={key: gathered(reports, key) for key in names},
        seconds=gathered(seconds),
        resource=resource,
        name=experiment.name,
    )
    _go_on(table, [row.status != "COMPLETED" for row in trials])
    return table


def _schedule(experiment: SqlExperiment) -> Mapping[str, Any]:
    found = experiment.spec.get("schedule", {})
    return found if isinstance(found, Mapping) else {}


def _space(experiment: SqlExperiment) -> Any:
    from tune_platform.space.files import space_from_dict

    return space_from_dict(experiment.spec.get("space", {}))


def _read(experiment: SqlExperiment) -> tuple[dict[int, dict[int, Mapping[str, Any]]], dict[int, dict[int, float]]]:
    """Return for each trial the metrics and the seconds by step."""
    metrics: dict[int, dict[int, Mapping[str, Any]]] = {}
    seconds: dict[int, dict[int, float]] = {}
    since: dict[int, float] = {}
    for row, reports in experiment.read_log():
        for report in reports:
            metrics.setdefault(report.trial, {})[report.step] = report.metrics
            took = report.time - since.get(report.trial, report.time)
            seconds.setdefault(report.trial, {})[report.step] = max(took, 0.0)
            since[report.trial] = report.time
        if row.trial is not None and row.kind in _BEGINS:
            since[row.trial] = max(row.time, since.get(row.trial, row.time))
    return metrics, seconds


def _go_on(table: CurveTable, stopped: list[bool]) -> None:
    """Write behind the end of each stopped curve how the nearest longer one went on."""
    known = np.isfinite(table.values[table.metric]).cumprod(axis=1).sum(axis=1)
    before = {name: array.copy() for name, array in table.values.items()}
    seconds = table.seconds.copy()
    longest_first = [int(i) for i in np.argsort(-known, kind="stable")]
    for i in range(len(known)):
        while stopped[i] and known[i] and (further := [j for j in longest_first if known[j] > known[i]]):
            near = further[Nearest(table.space, [table.configs[j] for j in further])(table.configs[i])]
            at, end = int(known[i]), int(known[near])
            for name, array in table.values.items():
                array[i, at:end] = array[i, at - 1] + before[name][near, at:end] - before[name][near, at - 1]
            # Its own seconds, by which it is faster or slower than the other.
            own, other = float(np.mean(seconds[i, :at])), float(np.mean(seconds[near, :at]))
            table.seconds[i, at:end] = seconds[near, at:end] * (own / other if own > 0 and other > 0 else 1.0)
            known[i] = end
            if not stopped[near]:
                break
        table_known = int(known[i])
        table.seconds[i, table_known:] = np.nan
