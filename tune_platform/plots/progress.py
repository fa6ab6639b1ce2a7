"""How the search and its trials came on: the history with the best so far, and the learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from tune_platform.errors import SpecError
from tune_platform.plots.columns import Floats
from tune_platform.plots.registry import figure, some_trial
from tune_platform.plots.theme import BEST, MANY, PALETTE, number, scatter, state_style, text
from tune_platform.plots.view import View

#: Curves in one figure at most, and points of a curve: more are neither told apart nor drawn quickly.
CURVES, POINTS = 200, 500
_SVG = 20_000
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def best_so_far(view: View, values: Floats | None = None) -> Floats:
    """Return, for each trial by number, the best value until then; NaN before the first."""
    given = view.sign * (view.values if values is None else values)
    filled = np.where(np.isnan(given), np.inf, given)
    least = np.minimum.accumulate(filled) if len(filled) else filled
    return view.sign * np.where(np.isinf(least), np.nan, least)


def wants_log(values: Floats) -> bool:
    """Whether positive values span so many powers of ten that a log axis shows them better."""
    finite = values[np.isfinite(values)]
    return len(finite) > 1 and bool(finite.min() > 0) and bool(finite.max() / finite.min() > 1000)


def _history_summary(view: View) -> str:
    if view.best is None:
        return f"{len(view.trials)} trials, none with a value of {view.metric} yet."
    value = float(view.values[view.trials.place(view.best)])
    there = int(np.isfinite(view.values).sum())
    behind = len(view.trials) - view.trials.place(view.best) - 1
    since = f"; the {behind} trials after it found nothing better" if behind else ""
    return f"The best of {there} trials with a value is {view.metric} {number(value)} of trial {view.best}{since}."


@figure("history", "Optimization history", _history_summary, some_trial)
def history(view: View, *, x: Literal["trial", "time"] = "trial", log: bool | None = None) -> go.Figure:
    """Draw each trial's best value, and the best so far; trials without a value are marked at the lower edge.

    `x`: by number, or by the time in hours at which a trial ended. `log` None: where the values span 3 powers of ten.
    """
    trials, values = view.trials, view.values
    at: Any = trials.number
    if x == "time":
        at = (np.where(np.isnan(trials.ended), trials.created, trials.ended) - view.created) / 3600
    drawn = go.Figure()
    there = np.isfinite(values)
    for state in sorted(view.counts):
        colour, symbol, word = state_style(state)
        mine = (trials.state == state) & there
        if mine.any():
            drawn.add_trace(
                scatter(len(trials))(
                    x=at[mine], y=values[mine], customdata=trials.number[mine], mode="markers", name=word, meta=state,
                    marker={"color": colour, "symbol": symbol, "size": 6},
                    hovertemplate="trial %{customdata}<br>%{y:.6g}",
                )
            )  # fmt: skip
        without = (trials.state == state) & ~there
        if without.any():
            drawn.add_trace(
                scatter(len(trials))(
                    x=at[without], y=np.full(int(without.sum()), 0.02), customdata=trials.number[without], yaxis="y2",
                    mode="markers", name=f"{word}, no value", marker={"color": colour, "symbol": symbol, "size": 6},
                    hovertemplate="trial %{customdata}: no value",
                )
            )  # fmt: skip
    order = np.argsort(at, kind="stable")
    best = best_so_far(view, values[order])
    kept = np.flatnonzero(np.isfinite(best))
    if len(kept) > MANY:  # between two corners the line is straight
        kept = np.union1d(kept[np.r_[True, np.diff(best[kept]) != 0]], kept[-1:])
    drawn.add_trace(
        go.Scatter(
            x=at[order][kept], y=best[kept], mode="lines", name="best so far", meta=view.mode,
            line={"color": BEST, "width": 2, "shape": "hv"},
        )
    )  # fmt: skip
    logged = wants_log(values) if log is None else log
    # Room for those that come until it is drawn anew: a page puts them over it.
    room = {"autorangeoptions": {"include": [1.1 * len(trials)]}} if view.running and x == "trial" else {}
    drawn.update_layout(
        xaxis={"title": "trial" if x == "trial" else "hours", **(room if len(trials) > MANY else {})},
        yaxis={"title": text(view.metric), "type": "log" if logged else "linear"},
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    )
    return drawn


# ------------------------------------------------------------------------------------------ curves


def _some_report(view: View) -> str:
    if not len(view.trials):
        return "There are no trials yet."
    return "" if len(view.reports) else "No trial has reported yet."


def _curves_summary(view: View) -> str:
    count = int(np.count_nonzero(np.diff(view.reports.trial))) + 1  # they are in order
    longest = int(view.trials.step.max()) if len(view.trials) else 0
    times = int(view.trials.step.sum())
    if count == 1:
        told = f"One trial has reported {times} {'time' if times == 1 else 'times'}"
    else:
        told = f"{count} trials have reported {times} times, the longest {longest} times"
    if view.best is not None:
        at = view.trials.place(view.best)
        value = number(float(view.values[at]))
        told += f"; trial {view.best} has the best {view.metric}, {value}, at its report {view.trials.best_step[at]}"
    return f"{told}."


@figure("curves", "Learning curves", _curves_summary, _some_report)
def curves(
    view: View,
    *,
    metric: str | None = None,
    trials: Sequence[int] | None = None,
    top: int = 20,
    bands: bool = False,
    x: str = "step",
    smoothing: float = 0.0,
    log: bool | None = None,
) -> go.Figure:
    """Draw a metric over the reports: of the `top` best trials, or of `trials`; with `bands` all as quantiles.

    `x`: step, time (seconds since a trial's first report), or the name of any metric, such as epoch. `smoothing` from
    0 to below 1 is the weight of the past in an exponential mean (corrected for its beginning). Raises SpecError for a
    smoothing outside, and for an `x` that nobody reported.
    """
    if not 0 <= smoothing < 1:
        raise SpecError(f"smoothing: got {smoothing!r}; allowed are numbers from 0 to below 1")
    if x not in ("step", "time", *view.reports.metrics):
        raise SpecError(f"x: got {x!r}; allowed: step, time, {', '.join(view.reports.metrics)}")
    metric = metric or view.metric
    drawn = go.Figure()
    if bands:
        _bands(drawn, view, metric, x)
    chosen = list(trials) if trials is not None else _top(view, top)
    # Lines alone are quick as SVG, and need no context of the graphics card, of which a browser has few.
    held = sum(min(POINTS, len(range(*view.reports.of(each).indices(len(view.reports))))) for each in chosen[:CURVES])
    kind = go.Scatter if held <= _SVG else go.Scattergl
    for place, trial in enumerate(chosen[:CURVES]):
        rows = view.reports.of(trial)
        at, values = _axis(view, rows, x), smoothed(view.reports.column(metric)[rows], smoothing)
        step = view.reports.step[rows]
        thin = slice(None, None, max(1, -(-len(at) // POINTS)))
        index = np.union1d(np.arange(len(at))[thin], [len(at) - 1]) if len(at) else np.arange(0)
        drawn.add_trace(
            kind(
                x=at[index], y=values[index], customdata=step[index], name=f"trial {trial}", meta=trial,
                mode="lines+markers" if len(at) < 30 else "lines", marker={"size": 4 if len(at) > 1 else 8},
                line={"width": 1.5, "color": PALETTE[place % len(PALETTE)],
                      "dash": ("solid", "dash", "dot", "dashdot")[place // len(PALETTE) % 4]},
                hovertemplate=f"trial {trial}, step %{{customdata}}<br>%{{y:.6g}}<extra></extra>",
            )
        )  # fmt: skip
    logged = wants_log(view.reports.column(metric)) if log is None else log
    names = {"step": "step", "time": "seconds since the first report"}
    drawn.update_layout(
        xaxis_title=names.get(x, text(x)), yaxis={"title": text(metric), "type": "log" if logged else "linear"}
    )
    return drawn


def _top(view: View, top: int) -> list[int]:
    if view.ranking:
        return view.ranking[:top]
    return list(map(int, np.unique(view.reports.trial)[:top]))


def _axis(view: View, rows: slice, x: str) -> Floats:
    if x == "step":
        return view.reports.step[rows].astype(float)
    if x == "time":
        time = view.reports.time[rows]
        return time - time[0] if len(time) else time
    return view.reports.metrics[x][rows]


def smoothed(values: Floats, weight: float) -> Floats:
    """Return the exponential mean of the finite values, corrected for its beginning; NaN stays where it is."""
    if not weight:
        return values
    out, mean, norm = np.full(len(values), np.nan), 0.0, 0.0
    for place, value in enumerate(values):
        if np.isfinite(value):
            mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
            out[place] = mean / norm
    return out


def quantiles(at: Floats, values: Floats, bins: int = 100) -> tuple[Floats, np.ndarray[Any, Any]]:
    """Return places and, in one row each, the quantiles 10, 25, 50, 75 and 90 % of the values there.

    Where there are more than `bins` places, neighbours are put together.
    """
    there = np.isfinite(at) & np.isfinite(values)
    at, values = at[there], values[there]
    places, group = np.unique(at, return_inverse=True)
    if len(places) > bins:
        edges = np.linspace(places[0], places[-1], bins + 1)
        group = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, bins - 1)
        places = (edges[:-1] + edges[1:]) / 2
    order = np.argsort(group, kind="stable")
    cuts = np.searchsorted(group[order], np.arange(len(places) + 1))
    rows = [
        np.quantile(values[order[first:last]], _QUANTILES) if last > first else np.full(len(_QUANTILES), np.nan)
        for first, last in pairwise(cuts)
    ]
    found = np.array(rows).reshape(len(places), len(_QUANTILES))
    full = ~np.isnan(found[:, 0])
    return places[full], found[full]


def _bands(drawn: go.Figure, view: View, metric: str, x: str) -> None:
    at = _axis(view, slice(None), x)
    if x == "time":
        first = np.flatnonzero(np.r_[True, np.diff(view.reports.trial) != 0])
        at = view.reports.time - np.repeat(view.reports.time[first], np.diff(np.r_[first, len(view.reports)]))
    places, found = quantiles(at, view.reports.column(metric))
    for low, high, opacity in ((0, 4, 0.15), (1, 3, 0.25)):
        word = f"{_QUANTILES[low]:.0%} to {_QUANTILES[high]:.0%} of all"
        drawn.add_trace(
            go.Scatter(
                x=np.r_[places, places[::-1]], y=np.r_[found[:, low], found[::-1, high]], fill="toself", name=word,
                fillcolor=f"rgba(0,114,178,{opacity})", line={"width": 0}, hoverinfo="skip",
            )
        )  # fmt: skip
    drawn.add_trace(
        go.Scatter(x=places, y=found[:, 2], name="median of all", line={"color": PALETTE[0], "dash": "dash"})
    )
