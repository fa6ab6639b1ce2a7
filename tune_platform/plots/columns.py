"""What a `View` holds: tables as columns, so that ten thousand trials are some arrays and not as many objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_platform.plots.space import Cell

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
#: Text, or cells of any kind.
Objects = NDArray[np.object_]

#: Kinds of log rows that are shown; the others bring reports and checkpoints.
KINDS = (
    "launched", "started", "verdict", "awaits", "moved", "failed", "requested", "resumed", "interrupted", "capacity",
    "exhausted", "supply_ended", "ending", "finished",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """One row a trial, by number. Times are seconds since the epoch; NaN, -1 or "" where there is none.

    `state`: pending | starting | running | pausing | paused | completed | stopped | failed. `best` is the best value of
    the first metric and `best_step` the report that had it. `parameters` and `last` (the metrics of the last report)
    are columns by name; a parameter that a trial does not have is None.
    """

    number: Whole
    state: Objects
    reason: Objects
    origin: Objects
    attempt: Whole
    step: Whole
    best: Floats
    best_step: Whole
    error: Objects
    created: Floats
    started: Floats
    ended: Floats
    seconds: Floats  #: from its first start to its end, or to the newest row of the log
    worker: Objects
    node: Objects  #: the node or nodes of its last launch, as text
    parent: Whole  #: the trial whose checkpoint it went on from last, -1: none
    parameters: Mapping[str, Objects]
    last: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.number)

    def place(self, trial: int) -> int:
        """Return the row of a trial. Raises KeyError where there is none."""
        at = int(np.searchsorted(self.number, trial))
        if at == len(self.number) or self.number[at] != trial:
            raise KeyError(trial)
        return at

    def config(self, trial: int) -> dict[str, Cell]:
        """Return the flat config of a trial."""
        at = self.place(trial)
        return {name: column[at] for name, column in self.parameters.items() if column[at] is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """One row a report, by trial and step. `metrics`: a column each, NaN where a report has no number.

    Of long experiments only every `stride`-th step is here, and each trial's first and last.
    """

    trial: Whole
    step: Whole
    time: Floats
    metrics: Mapping[str, Floats]
    stride: int = 1

    def __len__(self) -> int:
        return len(self.trial)

    def of(self, trial: int) -> slice:
        """Return the rows of one trial."""
        first, last = np.searchsorted(self.trial, [trial, trial + 1])
        return slice(int(first), int(last))

    def column(self, metric: str) -> Floats:
        """Return the values of a metric; all NaN where nobody reported it."""
        found = self.metrics.get(metric)
        return np.full(len(self.trial), np.nan) if found is None else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The decisions, and the facts beside the reports, in order; see `KINDS`.

    `verdict`: of a verdict continue | stop | pause | clone | resize, of any other row its kind.
    """

    seq: Whole
    time: Floats
    elapsed: Floats  #: search time in seconds, over all drivers
    trial: Whole  #: -1: of none in particular
    kind: Objects
    verdict: Objects
    step: Whole  #: after which report, -1: unknown
    reason: Objects
    by: Objects  #: scheduler | person | stop | budget | engine, of verdicts
    until: Floats  #: the next milestone, NaN: none
    source: Whole  #: of a clone
    place: Objects  #: of a launch its nodes, of a start its worker

    def __len__(self) -> int:
        return len(self.seq)


def take(table: Any, rows: Any) -> Any:
    """Return some rows of a table."""
    values: dict[str, Any] = {}
    for field in fields(table):
        column: Any = getattr(table, field.name)
        if isinstance(column, np.ndarray):
            column = column[rows]
        elif isinstance(column, Mapping):
            column = {name: each[rows] for name, each in column.items()}
        values[field.name] = column
    return type(table)(**values)


def join(*tables: Any) -> Any:
    """Return the rows of tables, one after the other; columns that some lack are filled there (NaN, None)."""
    values: dict[str, Any] = {}
    for field in fields(tables[0]):
        parts = [getattr(table, field.name) for table in tables]
        if isinstance(parts[0], np.ndarray):
            values[field.name] = np.concatenate(parts)
        elif isinstance(parts[0], Mapping):
            names = dict.fromkeys(name for part in parts for name in part)
            values[field.name] = {name: _joined([part.get(name) for part in parts], tables) for name in names}
        else:
            values[field.name] = parts[0]
    return type(tables[0])(**values)


def exchanged(table: Any, part: Any, key: str) -> Any:
    """Return a table with the rows of `part` in place of all those of the same `key`, in whose order both are.

    Nothing is sorted: it takes as long as copying the table.
    """
    kept = np.flatnonzero(np.isin(getattr(table, key), getattr(part, key), invert=True))
    at = np.searchsorted(getattr(table, key)[kept], getattr(part, key))
    return take(join(table, part), np.insert(kept, at, len(table) + np.arange(len(part))))


def _joined(columns: Sequence[Any], tables: Sequence[Any]) -> Any:
    kind = next(column.dtype for column in columns if column is not None)
    empty = np.nan if np.issubdtype(kind, np.floating) else None
    return np.concatenate(
        [np.full(len(t), empty, kind) if c is None else c for c, t in zip(columns, tables, strict=True)]
    )


def objects(values: Any) -> Objects:
    """Return a column of any cells: NumPy would make a table of equally long lists."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def floats(values: list[Any]) -> Floats:
    """Return numbers as a column; what is no number, text that looks like one too, is NaN."""
    if set(map(type, values)) <= {float}:
        return np.array(values, np.float64)
    return np.array([_float(value) for value in values], np.float64)


def _float(value: Any) -> float:
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    return float("nan")
