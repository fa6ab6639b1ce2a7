"""Reads the columns of a `View` from the store: in chunks, so that no object a report outlives its chunk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from tune_platform.plots import columns
from tune_platform.plots.columns import Log, Reports, Trials, floats, join, objects
from tune_platform.plots.space import cells
from tune_platform.store.reader import ExperimentReader
from tune_platform.store.records import LogRow, TrialRow

NONE = -1
_ROWS = 5_000
"""Rows of the log that are objects at once."""


def read_trials(chunks: Iterable[Sequence[TrialRow]], log: Log, now: float, before: Trials | None = None) -> Trials:
    """Return rows of the trials table as columns; `log` knows where they ran and whom they were cloned from.

    With `before`, the trials as they were, `log` need have but what came since.
    """
    found: Trials = join(*([_columns(rows, now) for rows in chunks] or [_columns((), now)]))
    node, parent = _places(found.number, log, before)
    return replace(found, node=node, parent=parent)


def _columns(rows: Sequence[TrialRow], now: float) -> Trials:
    started = _maybe([row.started for row in rows])
    ended = _maybe([row.ended for row in rows])
    seconds = np.where(np.isnan(ended), now, ended) - started
    configs = [cells(row.config) for row in rows]
    names = dict.fromkeys(name for config in configs for name in config)
    last = [_flat(row.metrics) for row in rows]
    metrics = dict.fromkeys(name for values in last for name in values)
    return Trials(
        number=np.array([row.trial for row in rows], np.int64),
        state=_same([row.status.lower() for row in rows]),
        reason=_same([row.reason for row in rows]),
        origin=_same([row.origin for row in rows]),
        attempt=np.array([row.attempt for row in rows], np.int64),
        step=np.array([row.step for row in rows], np.int64),
        best=_maybe([row.best for row in rows]),
        best_step=np.array([NONE if row.best_step is None else row.best_step for row in rows], np.int64),
        error=objects([row.error for row in rows]),
        created=np.array([row.created for row in rows], np.float64),
        started=started,
        ended=ended,
        seconds=np.maximum(seconds, 0.0),  # a clock that was put back gives no negative time
        worker=_same([row.worker for row in rows]),
        node=np.full(len(rows), "", object),
        parent=np.full(len(rows), NONE, np.int64),
        parameters={name: objects([config.get(name) for config in configs]) for name in names},
        last={name: floats([values.get(name) for values in last]) for name in metrics},
    )


def _same(texts: Sequence[str]) -> columns.Objects:
    """Return texts as a column; of those that are equal, one is kept."""
    known: dict[str, str] = {}
    return objects([known.setdefault(each, each) for each in texts])


def _maybe(values: Sequence[float | None]) -> columns.Floats:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _places(number: columns.Whole, log: Log, before: Trials | None) -> tuple[columns.Objects, columns.Whole]:
    node, parent = np.full(len(number), "", object), np.full(len(number), NONE, np.int64)
    if before is not None:
        mine, theirs = _both(number, before.number)
        node[mine], parent[mine] = before.node[theirs], before.parent[theirs]
    for values, rows, of in ((node, log.kind == "launched", log.place), (parent, log.verdict == "clone", log.source)):
        chosen = np.flatnonzero(rows)
        of_these, at = _both(log.trial[chosen], number)
        values[at] = of[chosen[of_these]]  # the last one wins
    return node, parent


def _both(wanted: columns.Whole, numbers: columns.Whole) -> tuple[columns.Whole, columns.Whole]:
    """Return the places of those wanted that are among `numbers`, which are in order, and their places there."""
    at = np.searchsorted(numbers, wanted)
    there = np.flatnonzero(at < len(numbers))
    there = there[numbers[at[there]] == wanted[there]]
    return there, at[there]


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in metrics.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        found.update(_flat(value, name) if isinstance(value, Mapping) else {name: value})
    return found


# ------------------------------------------------------------------------------------------ reports


def read_reports(reader: ExperimentReader, stride: int, after: int | None = None, until: int | None = None) -> Reports:
    """Return the reports of every `stride`-th step, and first ones; with `after`, those of the log rows above it."""
    none = np.zeros(0)
    parts = [Reports(trial=none.astype(np.int64), step=none.astype(np.int64), time=none, metrics={}, stride=stride)]
    for trial, step, time, metrics in reader.report_chunks(stride, after, until):
        parts.append(
            Reports(
                trial=np.array(trial, np.int64),
                step=np.array(step, np.int64),
                time=np.array(time, np.float64),
                metrics=_metric_columns(metrics),
                stride=stride,
            )
        )
    found: Reports = join(*parts)
    return found


def read_curve(reader: ExperimentReader, trial: int, until: int, stride: int, above: int = 0) -> Reports:
    """Return all reports of one trial above a step, as rows of a table of `stride`."""
    rows = [row for row in reader.reports(trial, above) if row.seq <= until]
    return Reports(
        trial=np.full(len(rows), trial, np.int64),
        step=np.array([row.step for row in rows], np.int64),
        time=np.array([row.time for row in rows], np.float64),
        metrics=_metric_columns([row.metrics for row in rows]),
        stride=stride,
    )


def _metric_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, columns.Floats]:
    names = dict.fromkeys(name for row in rows for name in row)
    found: dict[str, columns.Floats] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if any(isinstance(value, Mapping) for value in values):
            return _metric_columns([_flat(row) for row in rows])
        found[name] = floats(values)
    return found


# ------------------------------------------------------------------------------------------ the log


def read_log(rows: Iterable[LogRow]) -> Log:
    """Return rows of the log as columns."""
    left = iter(rows)
    parts = [_lines(chunk) for chunk in iter(lambda: list(islice(left, _ROWS)), [])]
    found: Log = join(*(parts or [_lines(())]))
    return found


def _lines(rows: Sequence[LogRow]) -> Log:
    kind, data = [row.kind for row in rows], [row.data for row in rows]
    both = list(zip(kind, data, strict=True))
    until = [each.get("until") for each in data]
    return Log(
        seq=np.array([row.seq for row in rows], np.int64),
        time=np.array([row.time for row in rows], np.float64),
        elapsed=np.array([row.elapsed for row in rows], np.float64),
        trial=np.array([NONE if row.trial is None else row.trial for row in rows], np.int64),
        kind=_same(kind),
        verdict=_same([_verdict(*each) for each in both]),
        step=_number([each.get("step") for each in data]),
        reason=_same([_reason(*each) for each in both]),
        by=_same([str(of.get("by", "scheduler")) if each in ("verdict", "awaits") else "" for each, of in both]),
        until=np.array([each if isinstance(each, (int, float)) else math.nan for each in until], np.float64),
        source=_number([each.get("source") for each in data]),
        place=_same([_place(*each) for each in both]),
    )


def _number(values: Sequence[Any]) -> columns.Whole:
    return np.array([value if isinstance(value, int) else NONE for value in values], np.int64)


def _verdict(kind: str, data: Mapping[str, Any]) -> str:
    return str(data.get("verdict", "")) if kind == "verdict" else str(data.get("status", "")).lower() or kind


def _reason(kind: str, data: Mapping[str, Any]) -> str:
    if kind == "failed":
        return f"{data.get('cause', '')}: {data.get('message', '')}"
    if kind == "requested":
        return f"a person asked: {data.get('action', '')}" + (f" ({data['refused']})" if data.get("refused") else "")
    if kind == "launched":
        return f"attempt {data.get('attempt', '')}"
    if kind == "capacity":
        return f"{len(data.get('nodes', ()))} nodes"
    return str(data.get("reason") or "")


def _place(kind: str, data: Mapping[str, Any]) -> str:
    if kind == "launched":
        return ", ".join(f"node {node}" for node in sorted(set(data.get("nodes") or ())))
    return str(data.get("worker", "")) if kind == "started" else ""
