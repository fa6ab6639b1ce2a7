"""Values by themselves: their distribution, and the trade between several objectives."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from tune_platform.plots import bridge
from tune_platform.plots.progress import wants_log
from tune_platform.plots.registry import figure
from tune_platform.plots.theme import BEST, PALETTE, nothing, number, scatter, text
from tune_platform.plots.view import View


def _valued(view: View) -> str:
    if not len(view.trials):
        return "There are no trials yet."
    return "" if np.isfinite(view.objective(0)).any() else f"No trial has a finite value of {view.metric} yet."


def _several(view: View) -> str:
    if len(view.metrics) < 2:
        return "The search has only one objective."
    if not len(view.trials):
        return "There are no trials yet."
    return "" if len(_complete(view)) else "No trial has values of all objectives yet."


def _complete(view: View) -> Any:
    return np.flatnonzero(np.isfinite([view.objective(at) for at in range(len(view.metrics))]).all(axis=0))


def _edf_summary(view: View) -> str:
    values = view.objective(0)
    values = values[np.isfinite(values)]
    return f"Half of {len(values)} trials have a {view.metric} below {number(float(np.median(values)))}."


@figure("edf", "Distribution of the values", _edf_summary, _valued)
def edf(view: View) -> go.Figure:
    """Draw the share of the trials that have at most a value (the empirical distribution function)."""
    values = np.sort(view.objective(0))
    values = values[np.isfinite(values)]
    share = np.arange(1, len(values) + 1) / len(values)
    drawn = go.Figure(
        scatter(len(values))(x=values, y=share, mode="lines", name=text(view.name), line={"color": PALETTE[0]})
    )
    drawn.update_layout(
        xaxis={"title": text(view.metric), "type": "log" if wants_log(values) else "linear"},
        yaxis={"title": "share of the trials", "range": [0, 1.02]},
    )
    return drawn


def front(view: View) -> Any:
    """Return the rows of the trials that no other one beats in every objective, by their last values."""
    rows = _complete(view)
    signs = [-1.0 if mode == "max" else 1.0 for mode in view.modes]
    points = np.array([sign * view.objective(at)[rows] for at, sign in enumerate(signs)]).T
    order = np.lexsort(points.T[::-1])
    kept: list[int] = []
    for at in order:  # what comes later in this order beats nothing in the front
        others = points[kept]
        if not len(kept) or not ((others <= points[at]).all(axis=1) & (others < points[at]).any(axis=1)).any():
            kept.append(int(at))
    return rows[sorted(kept)]


def _pareto_summary(view: View) -> str:
    names = ", ".join(view.metrics)
    return f"{len(front(view))} of {len(_complete(view))} trials are beaten by no other one in all of {names}."


@figure("pareto", "Pareto front", _pareto_summary, _several)
def pareto(view: View) -> go.Figure:
    """Draw the trials over their first two objectives (three: in space), with those that none beats."""
    rows, best = _complete(view), front(view)
    three = len(view.metrics) == 3
    drawn = go.Figure()
    for word, mine, look in (
        ("beaten", np.setdiff1d(rows, best), {"color": PALETTE[7], "size": 5, "symbol": "circle-open"}),
        ("Pareto front", best, {"color": BEST, "size": 7, "symbol": "diamond"}),
    ):
        axes = {"x": view.objective(0)[mine], "y": view.objective(1)[mine]}
        kind: Any = go.Scatter3d if three else scatter(len(mine))
        if three:
            axes["z"] = view.objective(2)[mine]
        drawn.add_trace(
            kind(**axes, mode="markers", name=word, marker=look, customdata=view.trials.number[mine],
                 hovertemplate="trial %{customdata}<br>%{x:.6g}<br>%{y:.6g}")
        )  # fmt: skip
    if not three:
        drawn.update_layout(xaxis_title=text(view.metrics[0]), yaxis_title=text(view.metrics[1]))
    return drawn


def _volume_summary(view: View) -> str:
    names = ", ".join(view.metrics)
    return f"The volume that the front of {names} dominates, after each of {len(_complete(view))} trials."


@figure("hypervolume", "Hypervolume", _volume_summary, _several)
def hypervolume(view: View, *, reference: list[float] | None = None) -> go.Figure:
    """Draw the hypervolume after each trial (Optuna's). `reference`: a tenth of the range beyond the worst if None."""
    bridge.load()
    import optuna.visualization

    rows = _complete(view)
    if reference is None:
        reference = []
        for at, mode in enumerate(view.modes):
            values = view.objective(at)[rows]
            room = 0.1 * (float(np.ptp(values)) or 1.0)
            reference.append(float(values.max()) + room if mode == "min" else float(values.min()) - room)
    try:
        with bridge.quiet():
            made = bridge.study(view, [], rows=rows[: bridge.MOST])
            return go.Figure(optuna.visualization.plot_hypervolume_history(made, reference))
    except (ValueError, RuntimeError) as error:
        return nothing(f"Optuna cannot draw it: {error}")
