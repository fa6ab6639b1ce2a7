"""What parameters do: how much of the ranks a parameter tells, what lies at the borders of the space."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tune_platform.plots.bridge import positions
from tune_platform.plots.columns import Floats
from tune_platform.plots.view import View

_BINS = 8
_NEAR = 0.05  # of the declared range


def ranks(view: View, values: Floats | None = None) -> Floats:
    """Return the rank of each trial's value from 0 (best) to 1, NaN without one; ties have one rank."""
    given = view.sign * (view.objective(0) if values is None else values)
    out = np.full(len(given), np.nan)
    there = np.isfinite(given)
    if there.sum() > 1:
        _, group, count = np.unique(given[there], return_inverse=True, return_counts=True)
        middle = np.cumsum(count) - (count + 1) / 2
        out[there] = middle[group] / (there.sum() - 1)
    return out


def effect(view: View, name: str) -> float:
    """Return the share, 0 to 1, of the variance of the ranks that eight groups of equal size (or the categories) tell.

    It is eta squared less what chance gives it (Kelley 1935, epsilon squared); quick, of one parameter at a time.
    """
    at, names = positions(view, name)
    rank = ranks(view)
    there = np.isfinite(at) & np.isfinite(rank)
    at, rank = at[there], rank[there]
    if len(rank) < 4 or at.min() == at.max():
        return 0.0
    if not names and len(np.unique(at)) > _BINS:
        order = np.argsort(np.argsort(at, kind="stable"), kind="stable")
        at = (order * _BINS // len(order)).astype(float)
    _, group = np.unique(at, return_inverse=True)
    count = np.bincount(group)
    means = np.bincount(group, rank) / count
    total = ((rank - rank.mean()) ** 2).sum()
    within = ((rank - means[group]) ** 2).sum()
    n, k = len(rank), len(count)
    if total <= 0 or n <= k:
        return 0.0
    return float(max(0.0, 1 - (within / (n - k)) / (total / (n - 1))))


def strongest(view: View, most: int) -> list[str]:
    """Return the parameters that tell most, strongest first; of few parameters all, in the order of the space."""
    if len(view.varied) <= most:
        return list(view.varied)
    strength = {name: effect(view, name) for name in view.varied}
    return sorted(view.varied, key=lambda name: -strength[name])[:most]


class Border(NamedTuple):
    """`share` of the best trials lie at one border of a parameter."""

    name: str
    side: str  #: low | high
    bound: float
    share: float


def borders(view: View) -> list[Border]:
    """Return where at least half of the best tenth (five at least) lie within 5 % of a declared border."""
    found: list[Border] = []
    best = view.ranking[: max(5, len(view.ranking) // 10)]
    if len(view.ranking) < 10:
        return found
    rows = np.searchsorted(view.trials.number, best)
    for name, dimension in view.space.items():
        low, high = dimension.low, dimension.high
        if low is None or high is None or not low < high:
            continue
        at, names = positions(view, name)
        if names:
            continue
        at = at[rows]
        if dimension.kind == "int" and high - low < 10:
            continue  # of few values some are always at a border
        if dimension.log and low > 0:
            at, low, high = np.log(np.maximum(at, low)), math.log(low), math.log(high)
        place = (at - low) / (high - low)
        for side, near, bound in (("low", place <= _NEAR, dimension.low), ("high", place >= 1 - _NEAR, dimension.high)):
            share = float(near.mean())
            if share >= 0.5 and bound is not None:
                found.append(Border(name, side, bound, share))
    return found


def range_text(cells: list[Any]) -> str:
    """Return which values there are, in words: a range of numbers, or the categories."""
    from tune_platform.plots.bridge import is_number, label
    from tune_platform.plots.theme import number

    there = [cell for cell in cells if cell is not None]
    if there and all(map(is_number, there)):
        low, high = float(min(there)), float(max(there))
        return number(low) if low == high else f"{number(low)} to {number(high)}"
    return ", ".join(dict.fromkeys(map(label, there)))
