"""Parameters and values: parallel coordinates, slices, importance, contour and rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.plots import bridge
from tune_platform.plots.columns import Floats
from tune_platform.plots.effects import borders, effect, strongest
from tune_platform.plots.progress import wants_log
from tune_platform.plots.registry import figure
from tune_platform.plots.theme import PALETTE, nothing, number, scatter, text
from tune_platform.plots.view import View

_SHOWN = 12
_FEW = 4  # trials, below which there is nothing to say of parameters
_LINES = 5_000
_LEVEL = 6  # axes whose names have room beside one another
#: Trials that an evaluator is given at most.
_GRID = 200  # Optuna's contour has a cell for each pair of values
_JUDGED = {"ped_anova": 1_000, "fanova": 300}


def values_there(view: View) -> str:
    """Need trials with a value of the first objective, and a parameter that varies."""
    if not len(view.trials):
        return "There are no trials yet."
    if not np.isfinite(view.objective(0)).any():
        return f"No trial has a finite value of {view.metric} yet."
    return "" if view.varied else "No parameter varies."


def _enough(view: View) -> str:
    why = values_there(view)
    count = int(np.isfinite(view.objective(0)).sum()) if not why else 0
    return why or ("" if count >= _FEW else f"Too few trials with a value: {count}, at least {_FEW} are needed.")


def _two(view: View) -> str:
    return _enough(view) or ("" if len(view.varied) > 1 else "There is only one parameter.")


def _picked(view: View, given: Sequence[str] | None, most: int) -> list[str]:
    if given is None:
        return strongest(view, most)
    for name in given:
        if name not in view.trials.parameters:
            known = list(view.trials.parameters)
            raise SpecError(f"no trial has a parameter {name!r}{did_you_mean(name, known)}: {', '.join(known)}")
    return list(given)


# ------------------------------------------------------------------------------------------ parallel coordinates


def _parallel_summary(view: View) -> str:
    names = strongest(view, _SHOWN)
    more = f", the {len(names)} that tell most of {len(view.varied)}" if len(names) < len(view.varied) else ""
    count = int(np.isfinite(view.objective(0)).sum())
    return f"{count} trials over {len(names)} parameters{more}; drag along an axis to select."


@figure("parallel", "Parallel coordinates", _parallel_summary, values_there)
def parallel(
    view: View,
    *,
    parameters: Sequence[str] | None = None,
    top: float = 1.0,
    invert: str | None = None,
    log: bool | None = None,
) -> go.Figure:
    """Draw each trial as a line over its parameters to its value; of the best share `top` of the trials.

    `invert`: a parameter, or the metric, whose axis has its least value above. `log`: whether the value's axis is
    logarithmic; None: where the values span 3 powers of ten. Raises SpecError for a share outside of (0, 1].
    """
    if not 0 < top <= 1:
        raise SpecError(f"top: got {top!r}; allowed are shares above 0 and up to 1")
    values = view.objective(0)
    rows = bridge.chosen(view, values, _LINES)
    rows = rows[np.argsort(view.sign * values[rows], kind="stable")[: max(1, round(top * len(rows)))]]
    dimensions = [_axis(view, name, rows) for name in _picked(view, parameters, _SHOWN)]
    logged = wants_log(values[rows]) if log is None else log and bool((values[rows] > 0).all())
    shown = np.log10(values[rows]) if logged else values[rows]
    dimensions.append({"label": text(view.metric, 24), "values": shown, **(_powers(shown) if logged else {})})
    for each in dimensions:
        if invert is not None and each["label"] == text(invert, 24):
            each["range"] = [float(np.max(each["values"])), float(np.min(each["values"]))]
    colour = view.sign * shown
    return go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={"color": colour, "reversescale": True},
            customdata=view.trials.number[rows],
            labelangle=0 if len(dimensions) <= _LEVEL else -20,
        )
    ).update_layout(margin={"l": 60, "r": 60, "t": 90})


def _axis(view: View, name: str, rows: Any) -> dict[str, Any]:
    at, names = bridge.positions(view, name)
    at = at[rows]
    dimension = view.space.get(name)
    found: dict[str, Any] = {"label": text(name, 24)}
    if names:
        absent = float(len(names))
        places = np.where(np.isnan(at), absent, at)
        words = [text(each, 16) for each in names] + (["(none)"] if np.isnan(at).any() else [])
        return {**found, "values": places, "tickvals": list(range(len(words))), "ticktext": words}
    logged = dimension is not None and dimension.log and bool(np.nanmin(at, initial=np.inf) > 0)
    shown = np.log10(at) if logged else at
    gap = np.isnan(shown)
    if gap.any():  # below the axis: a line cannot be broken
        low, high = (np.nanmin(shown), np.nanmax(shown)) if not gap.all() else (0.0, 1.0)
        shown = np.where(gap, low - 0.1 * ((high - low) or 1.0), shown)
    return {**found, "values": shown, **(_powers(shown) if logged else {})}


def _powers(shown: Floats) -> dict[str, Any]:
    ticks = np.linspace(shown.min(), shown.max(), 5).tolist() if len(shown) else []
    return {"tickvals": ticks, "ticktext": [number(float(10**each), 2) for each in ticks]}


# ------------------------------------------------------------------------------------------ slices


def _slice_summary(view: View) -> str:
    found = borders(view)
    if not found:
        count = min(_SHOWN, len(view.varied))
        return f"{view.metric} over each of {count} parameters on the declared space; the best trials are at no border."
    words = ", ".join(
        f"{each.share:.0%} at the {each.side} border of {each.name} ({number(each.bound)})" for each in found
    )
    return f"Of the best trials {words}: the best values may lie outside of the space."


def _decades(low: float, high: float) -> int:
    """Return the powers of ten from tick to tick of a log axis: three or four ticks, which have room side by side."""
    return max(1, math.ceil(math.log10(high / low) / 3))


@figure("slice", "Slices", _slice_summary, values_there)
def slices(view: View, *, parameters: Sequence[str] | None = None) -> go.Figure:
    """Draw the value over each parameter on the declared space; borders are marked, colour is the trial's number.

    Of more than 5,000 trials the best and others spread evenly.
    """
    names = _picked(view, parameters, _SHOWN)
    values = view.objective(0)
    across = min(3, len(names))
    down = -(-len(names) // across)
    drawn = make_subplots(
        down, across, shared_yaxes=True, vertical_spacing=min(0.12, 0.8 / down), horizontal_spacing=0.04
    )
    hit = {each.name for each in borders(view)}
    rows = bridge.chosen(view, values, _LINES)
    for index, name in enumerate(names):
        place = {"row": index // across + 1, "col": index % across + 1}
        at, categories = bridge.positions(view, name)
        mine = rows[np.isfinite(at[rows])]
        drawn.add_trace(
            scatter(len(mine))(
                x=at[mine], y=values[mine], mode="markers", showlegend=False, name=text(name),
                customdata=view.trials.number[mine],
                marker={"size": 5, "color": view.trials.number[mine], "opacity": 0.8},
                hovertemplate="trial %{customdata}<br>%{x}<br>%{y:.6g}",
            ), **place,
        )  # fmt: skip
        title = text(name, 30) + (" (best at the border)" if name in hit else "")
        drawn.update_xaxes(title_text=title, **place)
        dimension = view.space.get(name)
        if categories:
            words = [text(each, 16) for each in categories]
            drawn.update_xaxes(tickvals=list(range(len(words))), ticktext=words, **place)
        elif dimension is not None and dimension.low is not None and dimension.high is not None:
            if dimension.log:
                drawn.update_xaxes(
                    type="log",
                    dtick=_decades(dimension.low, dimension.high),
                    tickangle=0,
                    tickfont={"size": 11},
                    **place,
                )
            for bound in (dimension.low, dimension.high):
                drawn.add_vline(
                    x=bound, line={"dash": "dot", "color": PALETTE[5 if name in hit else 7], "width": 1}, **place
                )
    if wants_log(values):
        drawn.update_yaxes(type="log")
    drawn.update_yaxes(title_text=text(view.metric), col=1)
    drawn.update_layout(height=max(380, 230 * down))
    return drawn


# ------------------------------------------------------------------------------------------ importance


def _importance_summary(view: View) -> str:
    names = strongest(view, _SHOWN)
    strength = sorted(((effect(view, name), name) for name in names), reverse=True)
    best, name = strength[0]
    if best < 0.05:
        return "No parameter alone tells more than 5 % of the order of the trials."
    idle = [each for share, each in strength if share < 0.02]
    told = f"{name} alone tells {best:.0%} of the order of the trials"
    return f"{told}; {', '.join(idle[:5])} next to nothing." if idle else f"{told}."


def importances(
    view: View, names: Sequence[str], values: Floats, evaluator: str = "ped_anova", resamples: int = 5
) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation of each parameter's importance over bootstrap samples of the trials.

    Evaluators: ped_anova (Watanabe et al. 2023), fanova (Hutter et al. 2014); both Optuna's. Draws are seeded.
    """
    bridge.load()
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    rng = np.random.default_rng(0)
    rows = np.flatnonzero(np.isfinite(values))
    most = _JUDGED[evaluator]
    if len(rows) > most:  # evenly over the search: the best alone would be another distribution
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(int)]
    found = []
    for _ in range(resamples):
        sample = np.sort(rng.choice(rows, len(rows)))
        with bridge.quiet():
            judge = (
                PedAnovaImportanceEvaluator()
                if evaluator == "ped_anova"
                else FanovaImportanceEvaluator(seed=0, n_trees=16)
            )
            try:
                shares = get_param_importances(
                    bridge.study(view, names, values, sample), evaluator=judge, params=[escape(name) for name in names]
                )
            except (ValueError, RuntimeError):  # all values of this sample are the same
                continue
        found.append([shares.get(escape(name), 0.0) for name in names])
    if not found:
        return np.zeros(len(names)), np.zeros(len(names))
    return np.mean(found, axis=0), np.std(found, axis=0)


def at_budget(view: View, step: int) -> Floats:
    """Return the value that each trial had at its report `step`, NaN where it did not come so far."""
    out = np.full(len(view.trials), np.nan)
    rows = np.flatnonzero(view.reports.step == step)
    out[np.searchsorted(view.trials.number, view.reports.trial[rows])] = view.reports.column(view.metric)[rows]
    return np.where(np.isfinite(out), out, np.nan)


@figure("importance", "Importance of the parameters", _importance_summary, _enough)
def importance(
    view: View,
    *,
    evaluator: Literal["ped_anova", "fanova"] = "ped_anova",
    budgets: Sequence[int] | None = None,
    parameters: Sequence[str] | None = None,
) -> go.Figure:
    """Draw how much each parameter matters, with the standard deviation over bootstrap samples of the trials.

    `budgets`: also by the values at these reports. Parameters that not all trials have are left out: Optuna's
    evaluators know none such.
    """
    names = [
        name
        for name in _picked(view, parameters, _SHOWN)
        if all(value is not None for value in view.parameter(name))
        and len(set(bridge.labels_of(view.parameter(name)))) > 1
    ]
    if not names:
        return nothing("No parameter that all trials have varies.")
    drawn = go.Figure()
    given = [
        ("best value", view.objective(0)),
        *((f"at report {step}", at_budget(view, step)) for step in budgets or ()),
    ]
    order: Any = None
    for place, (word, values) in enumerate(given):
        if np.isfinite(values).sum() < _FEW:
            continue
        mean, spread = importances(view, names, values, evaluator)
        order = np.argsort(mean, kind="stable") if order is None else order
        drawn.add_trace(
            go.Bar(
                x=mean[order], y=[text(names[at], 30) for at in order], orientation="h", name=word,
                error_x={"array": spread[order], "color": PALETTE[7]}, marker={"color": PALETTE[place % len(PALETTE)]},
                hovertemplate="%{y}: %{x:.3f}",
            )
        )  # fmt: skip
    drawn.update_layout(xaxis_title=f"importance ({evaluator})", barmode="group", yaxis={"type": "category"})
    return drawn


# ------------------------------------------------------------------------------------------ two parameters


def _pair_summary(view: View) -> str:
    one, other = strongest(view, 2)[:2]
    return f"{view.metric} over {one} and {other}, the two parameters that are shown first."


def _pair(view: View, x: str | None, y: str | None) -> list[str]:
    given = [name for name in (x, y) if name is not None]
    free = [name for name in strongest(view, 3) if name not in given]
    return [*_picked(view, given, 2), *free][:2]


def _optuna(view: View, names: list[str], draw: str, most: int = bridge.MOST) -> go.Figure:
    bridge.load()
    import optuna.visualization

    try:
        with bridge.quiet():
            values = view.objective(0)
            made = bridge.study(view, names, values, bridge.chosen(view, values, most))
            found = getattr(optuna.visualization, draw)(
                made, params=[escape(name) for name in names], target=lambda trial: trial.values[0],
                target_name=text(view.metric),
            )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        return nothing(f"Optuna cannot draw it: {error}")
    return go.Figure(found)


@figure("contour", "Contour of two parameters", _pair_summary, _two)
def contour(view: View, *, x: str | None = None, y: str | None = None) -> go.Figure:
    """Draw the value over two parameters as a contour (Optuna's); by default over the two that tell most."""
    return _optuna(view, _pair(view, x, y), "plot_contour", _GRID)


@figure("rank", "Ranks over two parameters", _pair_summary, _two)
def rank(view: View, *, x: str | None = None, y: str | None = None) -> go.Figure:
    """Draw the ranks of the trials over two parameters (Optuna's); by default over the two that tell most."""
    return _optuna(view, _pair(view, x, y), "plot_rank")
