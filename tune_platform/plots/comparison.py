"""Several things beside one another: trials by what differs between them, experiments by their best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from tune_platform.errors import SpecError
from tune_platform.plots.columns import Floats
from tune_platform.plots.progress import best_so_far, wants_log
from tune_platform.plots.registry import figure
from tune_platform.plots.theme import PALETTE, number, text, themed
from tune_platform.plots.view import View

_MOST = 8


def _two(view: View) -> str:
    return "" if len(view.trials) > 1 else "There are no two trials yet."


def compared(view: View, trials: Sequence[int] | None) -> list[int]:
    """Return the trials to compare: those given, else the best four. Raises SpecError for an unknown one, or nine."""
    chosen = (
        list(trials) if trials else (view.ranking[:4] if len(view.ranking) > 1 else view.trials.number[:4].tolist())
    )
    unknown = sorted(set(chosen) - set(view.trials.number.tolist()))
    if unknown or len(chosen) > _MOST:
        what = f"experiment {view.name!r} has no trial {unknown[0]}" if unknown else f"got {len(chosen)} trials"
        raise SpecError(f"compare: {what}; allowed are 2 to {_MOST} trials of it")
    return chosen


def differences(view: View, trials: Sequence[int]) -> dict[str, list[str]]:
    """Return the rows of a comparison, with a cell for each trial: only what differs between them."""
    rows = [view.trials.place(trial) for trial in trials]
    table: dict[str, list[str]] = {
        "state": [str(view.trials.state[row]) for row in rows],
        f"best {view.metric}": [number(float(view.trials.best[row]), 6) for row in rows],
        "step": [str(view.trials.step[row]) for row in rows],
    }
    for name, column in view.trials.parameters.items():
        table[name] = ["" if column[row] is None else number(column[row], 6) for row in rows]
    for name, last in view.trials.last.items():
        if name not in view.metrics or len(view.metrics) > 1:
            table[f"last {name}"] = [number(float(last[row]), 6) for row in rows]
    return {name: cells for name, cells in table.items() if len(set(cells)) > 1}


def _summary(view: View) -> str:
    chosen = compared(view, None)
    what = ", ".join(list(differences(view, chosen))[:12]) or "nothing"
    return f"Trials {', '.join(map(str, chosen))} differ in {what}."


@figure("compare", "Comparison of trials", _summary, _two)
def compare(view: View, *, trials: Sequence[int] | None = None) -> go.Figure:
    """Show 2 to 8 trials (the best four) beside one another: what differs."""
    chosen = compared(view, trials)
    rows = differences(view, chosen)
    columns = [
        [text(name) for name in rows],
        *([text(cells[at]) for cells in rows.values()] for at in range(len(chosen))),
    ]
    head = ["", *(f"trial {trial}" for trial in chosen)]
    return go.Figure(go.Table(header={"values": head, "align": "left"}, cells={"values": columns, "align": "left"}))


# ------------------------------------------------------------------------------------------ experiments


def compare_experiments(
    views: Sequence[View] | Mapping[str, Sequence[View]],
    *,
    x: Literal["trials", "time", "cost"] = "trials",
    theme: Literal["light", "dark"] = "light",
) -> go.Figure:
    """Draw the best so far of several experiments of one metric; a group of several seeds as its median with a band.

    `x`: the number of trials that ended, hours since it was created, or cost: hours of all trials together. The band is
    from the least to the greatest of the group. Raises SpecError where they do not optimise the same metric.
    """
    by = views if isinstance(views, Mapping) else {view.name: [view] for view in views}
    flat = [view for each in by.values() for view in each]
    kinds = {(view.metric, view.mode) for view in flat}
    if len(kinds) > 1:
        raise SpecError(
            f"compare: the experiments optimise different things: {', '.join(f'{m} {n}' for n, m in sorted(kinds))}"
        )
    drawn = go.Figure()
    for place, (name, group) in enumerate(by.items()):
        colour = PALETTE[place % len(PALETTE)]
        lines = [line for view in group if len((line := _progress(view, x))[0])]
        if not lines:
            continue
        grid = np.unique(np.concatenate([at for at, _ in lines]))
        if len(grid) > 1000:
            grid = grid[np.linspace(0, len(grid) - 1, 1000).astype(int)]
        table = np.array([_step(grid, at, value) for at, value in lines])
        kept = ~np.isnan(table).any(axis=0) if len(lines) > 1 else ~np.isnan(table[0])
        grid, table = grid[kept], table[:, kept]
        if len(lines) > 1 and len(grid):
            drawn.add_trace(
                go.Scatter(
                    x=np.r_[grid, grid[::-1]], y=np.r_[table.min(axis=0), table.max(axis=0)[::-1]], fill="toself",
                    fillcolor=colour, opacity=0.2, line={"width": 0}, hoverinfo="skip", showlegend=False,
                )
            )  # fmt: skip
        label = text(name) + (f" ({len(lines)} seeds, median)" if len(lines) > 1 else "")
        drawn.add_trace(
            go.Scatter(
                x=grid, y=np.median(table, axis=0), mode="lines", name=label, line={"color": colour, "shape": "hv"}
            )
        )
    metric = flat[0].metric if flat else ""
    logged = bool(flat) and all(wants_log(view.values) for view in flat)
    words = {"trials": "trials that ended", "time": "hours", "cost": "hours of all trials together"}
    drawn.update_layout(
        title_text="Best so far", xaxis_title=words[x],
        yaxis={"title": text(metric), "type": "log" if logged else "linear"},
        meta={"name": "compare_experiments", "summary": summary_of(by)},
    )  # fmt: skip
    return themed(drawn, theme)


def _progress(view: View, x: str) -> tuple[Floats, Floats]:
    ended = np.flatnonzero(~np.isnan(view.trials.ended))
    order = ended[np.argsort(view.trials.ended[ended], kind="stable")]
    best = best_so_far(view, view.values[order])
    if x == "trials":
        return np.arange(1, len(order) + 1, dtype=float), best
    if x == "time":
        return (view.trials.ended[order] - view.created) / 3600, best
    return np.cumsum(np.nan_to_num(view.trials.seconds[order])) / 3600, best


def _step(grid: Floats, at: Floats, value: Floats) -> Floats:
    place = np.searchsorted(at, grid, side="right") - 1
    return np.where(place >= 0, value[np.maximum(place, 0)], np.nan)


def summary_of(by: Mapping[str, Sequence[View]]) -> str:
    """Return in one sentence which experiment found the best value."""
    found = [
        (view.sign * float(np.nanmin(view.sign * view.values)), name, view)
        for name, g in by.items()
        for view in g
        if view.ranking
    ]
    if not found:
        return "None of the experiments has a value yet."
    value, name, view = min(found, key=lambda each: each[2].sign * each[0])
    if len(by) == 1:
        return f"{name} found as its best {view.metric} {number(value)}."
    return f"Of {len(by)} experiments {name} found the best {view.metric}: {number(value)}."
