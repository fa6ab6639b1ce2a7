"""The page that puts experiments beside one another: the best so far of each, by trials, time or cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from tune_platform.dashboard.source import Source
from tune_platform.errors import TunePlatformError
from tune_platform.plots import View, compare_experiments
from tune_platform.plots.comparison import summary_of
from tune_platform.plots.theme import nothing, themed

#: Experiments at most, and what they are compared by.
MOST = 16
BY = {"trials": "Trials", "time": "Time", "cost": "Cost"}


def page(source: Source, query: Mapping[str, str]) -> list[Any]:
    """Return the page, with the experiments that the query of its address names, else the newest ones of one metric."""
    rows = source.experiments()
    names = [row.name for row in rows]
    alike = [row.name for row in rows if row.spec.get("objective") == rows[0].spec.get("objective")]
    given = [name for name in query.get("of", "").split(",") if name in names]
    by = query.get("by", "trials")
    drawing = dcc.Graph(
        id="versus-figure", config={"displaylogo": False, "responsive": True}, style={"height": "34rem"}
    )
    inner = html.Div(drawing, id="versus-drawing", role="group", **{"aria-label": "Best so far of the experiments"})
    return [
        dmc.Title("Compare experiments", order=2, mt="xs"),
        dmc.Group(
            [
                dmc.MultiSelect(
                    id="versus-names", label="Experiments", data=names, value=given or alike[:2], searchable=True,
                    maxValues=MOST, style={"flex": "1 1 20rem"},
                ),
                dmc.Select(
                    id="versus-by", label="By", data=[{"value": key, "label": word} for key, word in BY.items()],
                    value=by if by in BY else "trials", allowDeselect=False, w="10rem",
                ),
            ],
            align="start", mb="sm",
        ),
        dmc.Paper(
            html.Figure([inner, html.Figcaption(id="versus-said")], className="figure"), withBorder=True, radius="md"
        ),
        dcc.Store(id="versus-address"),
    ]  # fmt: skip


def drawn(source: Source, names: Sequence[str], by: Any, theme: Any) -> tuple[Any, str]:
    """Return the figure and its sentence; where it cannot be drawn, a figure that says why."""
    try:
        if not names:
            return themed(nothing("Choose experiments above."), theme), ""
        groups = families([source.picture(name).view for name in names[:MOST]])
        return compare_experiments(groups, x=by, theme=theme), summary_of(groups)
    except TunePlatformError as error:
        return themed(nothing(str(error)), theme), str(error)


def families(views: Sequence[View]) -> dict[str, list[View]]:
    """Return the views by what they are runs of: those whose specs differ in seed and name alone are one family."""
    found: dict[str, list[View]] = {}
    for view in views:
        found.setdefault(json.dumps(_seedless(view.spec), sort_keys=True, default=str), []).append(view)
    return {each[0].name: each for each in found.values()}


def _seedless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _seedless(each) for key, each in value.items() if key not in ("seed", "name")}
    return value
