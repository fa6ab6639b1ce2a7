"""The trials as columns of plain values, which travel in half the room of rows."""

from __future__ import annotations

import base64
import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tune_platform.plots.columns import take
from tune_platform.plots.view import View

#: Columns that each table has, in order.
FIRST = ("trial", "state", "best", "step", "seconds", "worker", "reason")
#: What the table can have of each metric.
AGGREGATES = {
    "last": "last report", "best": "at the best report", "min": "least", "max": "greatest", "mean": "mean",
}  # fmt: skip
LAST = "last"
#: So many columns are shown until somebody picks others.
_SHOWN = 12


class Table:
    """The trials of a view as `columns`; a cell is a number, a text, a truth value or None."""

    def __init__(self, view: View) -> None:
        self.view = view

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """Return one list a column, all of one length: the first ones, parameters (`config/lr`), metrics."""
        return columns_of(self.view)

    @cached_property
    def fractions(self) -> frozenset[str]:
        """The columns of numbers that need not be whole: they are shown with the digits that count."""
        return frozenset(name for name, cells in self.columns.items() if any(type(cell) is float for cell in cells))

    @cached_property
    def shown(self) -> list[str]:
        """The columns that are shown at first: those that are not the same everywhere."""
        many = len(self.view.trials) > 1
        varied = [
            name
            for name, cells in self.columns.items()
            if name in FIRST[:4] or not many or any(cell != cells[0] for cell in cells)
        ]
        # Why it ended stands beside what came of it, so that nobody has to move the table; where it ran comes last.
        order = {"reason": 1, "seconds": 3, "worker": 3}
        return sorted(varied[:_SHOWN], key=lambda name: order.get(name, 0 if name in FIRST else 2))


def pack(cells: list[Any]) -> Any:
    """Return a column as it travels: numbers as bytes, few different texts as a list and places in it.

    The bytes are base64, little-endian; `t` says of what: f8 (NaN stands for None), or the narrowest of i1, i2 and i4
    that holds them all. Of a column that is the same everywhere the one value and `n` travel.
    """
    kinds = set(map(type, cells))
    if len(kinds) == 1 and len(cells) > 1 and all(each == cells[0] for each in cells):
        return {"of": cells[:1], "n": len(cells)}
    if kinds == {int} and (found := _narrow(cells)):
        return found
    if kinds <= {int, float, type(None)} and kinds != {type(None)}:
        if int not in kinds or all(type(each) is not int or abs(each) < 2**53 for each in cells):
            return _bytes("f8", [math.nan if each is None else each for each in cells])
    elif kinds == {str}:
        known = {each: place for place, each in enumerate(dict.fromkeys(cells))}
        if len(known) <= len(cells) // 2:
            return {"of": list(known), **(_narrow([known[each] for each in cells]) or {})}
    return cells


def _narrow(cells: list[int]) -> dict[str, str] | None:
    least, most = min(cells), max(cells)
    for bits in (8, 16, 32):
        if -(2 ** (bits - 1)) <= least and most < 2 ** (bits - 1):
            return _bytes(f"i{bits // 8}", cells)
    return None


def _bytes(kind: str, cells: list[Any]) -> dict[str, str]:
    return {"t": kind, "b": base64.b64encode(np.array(cells, f"<{kind}").tobytes()).decode("ascii")}


def columns_of(view: View) -> dict[str, list[Any]]:
    """Return the trials of a view as lists by the names of their columns."""
    trials = view.trials
    return {
        "trial": trials.number.tolist(),
        "state": trials.state.tolist(),
        "best": _plain(view.values),
        "step": trials.step.tolist(),
        "seconds": _plain(np.round(np.where(np.isnan(trials.ended), np.nan, trials.seconds), 3)),
        "worker": trials.worker.tolist(),
        "reason": trials.reason.tolist(),
        **{f"config/{name}": list(map(_cell, cells)) for name, cells in trials.parameters.items()},
        **{f"metrics/{name}": _plain(cells) for name, cells in trials.last.items()},
    }


def ways(by: str) -> dict[str, str]:
    """Return what is wanted of which metric, of "" for all others: lines such as `min` or `max:accuracy`."""
    told = (each.partition(":") for each in by.split("\n"))
    return {metric: how for how, _, metric in told if how in AGGREGATES}


def aggregated(view: View, by: str) -> dict[str, list[Any]]:
    """Return the columns of the metrics of which another than the last report is wanted; None for no finite number.

    `by`: see `ways`. Of long experiments not all reports are held (`Reports.stride`): least, greatest and mean are over
    those.
    """
    wanted = ways(by)
    if set(wanted.values()) <= {LAST}:
        return {}
    reports, trials = view.reports, view.trials
    first = np.searchsorted(reports.trial, trials.number)
    past = np.searchsorted(reports.trial, trials.number, side="right")
    there = np.flatnonzero(past > first)
    found = {}
    for name in trials.last:
        how = wanted.get(name, wanted.get("", LAST))
        if how == LAST:
            continue
        column = reports.column(name)
        out = np.full(len(trials), np.nan)
        if how == "best":
            mine = np.flatnonzero(np.isin(reports.trial, trials.number))
            at = np.searchsorted(trials.number, reports.trial[mine])
            hit = reports.step[mine] == trials.best_step[at]
            out[at[hit]] = column[mine[hit]]
        elif len(there):
            finite = np.isfinite(column)
            least = {"min": np.inf, "max": -np.inf, "mean": 0.0}[how]
            fold = {"min": np.minimum, "max": np.maximum, "mean": np.add}[how]
            # Every second part is what lies between two trials.
            edges = np.stack([first[there], past[there]], axis=1).ravel()
            out[there] = fold.reduceat(np.r_[np.where(finite, column, least), least], edges)[::2]
            if how == "mean":
                with np.errstate(invalid="ignore", divide="ignore"):
                    out[there] /= np.add.reduceat(np.r_[finite, False].astype(float), edges)[::2]
        found[f"metrics/{name}"] = _plain(out)
    return found


def only(view: View, numbers: list[int] | None) -> View:
    """Return the view of some of its trials; of all for None."""
    if numbers is None:
        return view
    chosen = np.array(numbers, np.int64)
    trials = take(view.trials, np.isin(view.trials.number, chosen))
    return replace(view, trials=trials, reports=take(view.reports, np.isin(view.reports.trial, chosen)))


def _plain(values: np.ndarray) -> list[Any]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _cell(value: Any) -> Any:
    """Return a value as JSON has it; an infinite one is a text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
