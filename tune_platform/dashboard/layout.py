"""The frame of the page, and what stands in it: the list of experiments, one experiment, one trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import dcc, html

from tune_platform.dashboard.drawing import Drawing, draw
from tune_platform.dashboard.filtering import names
from tune_platform.dashboard.parts import alert, card, link
from tune_platform.dashboard.source import Picture
from tune_platform.dashboard.table import Table, pack
from tune_platform.plots import FIGURES

#: Milliseconds between two looks at whether something has changed.
PERIOD = 1000
#: The tabs of an experiment: word, then its sections (s:) and figures in order. Figures that follow the selection are
#: drawn anew when it changes.
TABS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "overview": ("Overview", ("s:overview", "history", "curves", "s:insights")),
    "parameters": ("Parameters", ("parallel", "importance", "slice", "contour", "rank")),
    "objectives": ("Pareto", ("pareto", "hypervolume", "edf")),
    "timeline": ("Timeline", ("timeline", "workers", "utilisation")),
    "scheduler": ("Scheduler", ("rungs", "lineage", "schedules", "decisions")),
    "failures": ("Failures", ("s:failures", "failures")),
    "compare": ("Compare", ("s:compare", "curves", "parallel")),
    "control": ("Control", ("s:control", "s:audit")),
    "export": ("Share", ("s:share",)),
}
FOLLOW = ("curves",)
#: Figures that take the whole width.
BROAD = ("parallel", "decisions", "timeline")


def frame() -> Any:
    """Return the frame around all pages; the address decides what stands in it."""
    return dmc.MantineProvider(
        html.Div(
            [
                html.A("Skip to the content", href="#content", className="skip"),
                dcc.Location(id="url", refresh="callback-nav"),
                dcc.Store(id="scheme"),
                dmc.Group(
                    [
                        dcc.Link(dmc.Title("tune-platform", order=1, size="h4"), href="/"),
                        dmc.Button("Light or dark", id="toggle", variant="default", size="compact-sm"),
                    ],
                    justify="space-between",
                ),
                html.Main(html.Div(id="content"), id="main"),
            ],
            className="page",
        )
    )


def experiment_page(picture: Picture, query: Mapping[str, str], theme: str = "light") -> list[Any]:
    """Return the page of an experiment, in the state that the query of its address tells, with what is seen first."""
    view, table = picture.view, picture.table
    tab = query.get("tab", "overview") if query.get("tab") in TABS else "overview"
    text = query.get("filter", "")
    columns = [name for name in query.get("columns", "").split(",") if name in table.columns] or table.shown
    chosen = [int(each) for each in query.get("trials", "").split(",") if each.isdigit()]
    return [
        dcc.Interval(id="tick", interval=PERIOD),
        dcc.Store(id="where", data={"name": view.name, "trial": None}),
        dcc.Store(id="revision", data=view.revision),
        dcc.Store(id="news", data=news(picture, 0)),
        dcc.Store(id="filtered", data=text),
        dcc.Store(id="had"),  # the revision that the browser has the rows of
        dcc.Store(id="passing"),
        dcc.Store(id="selection", data=chosen),
        dcc.Store(id="shown", data=table.shown),
        dcc.Store(id="address"),
        dmc.Group([dmc.Title(view.name, order=2), html.Div(id="status", role="status")], mt="xs"),
        html.Div(id="said", className="said"),
        dmc.Tabs(
            [dmc.TabsList([dmc.TabsTab(word, value=key) for key, (word, _) in TABS.items()])],
            id="tabs", value=tab, mt="xs", mb="sm",
        ),
        html.Div(body(tab, picture, theme, text, chosen), id="body"),
        dmc.Title("Trials", order=3, size="h5", mt="md"),
        dmc.Group(
            [
                dmc.Autocomplete(
                    id="filter", label="Filter", value=text, debounce=120, data=list(names(table)),
                    placeholder='such as: loss < 0.2 and state == "completed"', style={"flex": "2 1 20rem"},
                ),
                dmc.MultiSelect(
                    id="columns", label="Columns", data=list(table.columns), value=columns, searchable=True,
                    style={"flex": "1 1 16rem"}, maxValues=40,
                ),
            ],
            align="start",
        ),
        html.Div(id="filter-said", role="status"),
        html.Div(id="chosen"),
        grid(table, columns, chosen),
    ]  # fmt: skip


def grid(table: Table, columns: Sequence[str], chosen: Sequence[int]) -> Any:
    """Return the table of trials; it draws the rows that are seen, sorts in the browser, and keeps its selection."""
    return dag.AgGrid(
        id="table",
        columnDefs=column_defs(table, columns),
        rowData=[],
        getRowId="params.data.trial + ''",
        selectedRows={"ids": [str(each) for each in chosen]},
        defaultColDef={"sortable": True, "resizable": True, "filter": True, "minWidth": 80},
        columnSize="responsiveSizeToFit" if len(columns) <= 8 else None,
        dashGridOptions={
            "rowSelection": {"mode": "multiRow", "enableClickSelection": True},
            "animateRows": False,
            "suppressFieldDotNotation": True,
        },
        style={"height": "28rem"},
    )


def column_defs(table: Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the columns as the table of the page wants them."""
    digits = {"function": "params.value == null ? '' : d3.format('.5~g')(params.value)"}
    return [
        {
            "field": name,
            "headerName": name.removeprefix("config/").removeprefix("metrics/"),
            "headerTooltip": name,
            **({"valueFormatter": digits} if name in table.fractions else {}),
            "width": 90 if name in ("trial", "step") else 320 if name == "reason" else 130,
        }
        for name in columns
    ]


def news(picture: Picture, since: int) -> dict[str, Any] | None:
    """Return the rows of the table that have changed since a revision, packed; None where there are none."""
    if picture.view.revision <= since:
        return None
    rows = (picture.changed > since).nonzero()[0].tolist()
    columns = picture.table.columns if since == 0 else picture.table.since(rows)
    packed = {name: pack(cells) for name, cells in columns.items()}
    return {"name": picture.view.name, "since": since, "revision": picture.view.revision, "columns": packed}


#: Figures that are drawn at once: they come with their tab.
QUICK = ("history", "curves")


def body(
    tab: str, picture: Picture | None = None, theme: str = "light", text: str = "", chosen: Sequence[int] = ()
) -> Any:
    """Return the places of the sections and figures of a tab; those that are quickly drawn come with it."""
    parts = TABS.get(tab, TABS["overview"])[1]
    sections = [html.Div(id={"type": "section", "name": each[2:]}) for each in parts if each.startswith("s:")]
    figures = []
    for each in (each for each in parts if each in FIGURES):
        drawing = None
        if picture is not None and each in QUICK:
            drawing = draw(picture, each, theme, text=text, trials=chosen if each in FOLLOW else ())
        figures.append(figure(each, drawing))
    if not sections and not figures:
        figures = [alert("There is no figure of this kind yet.")]
    return [*sections[:1], html.Div(figures, className="figures"), *sections[1:]]


def figure(name: str, made: Drawing | None = None) -> Any:
    """Return the place of a figure, with its name and its sentence; its modebar saves it as SVG."""
    kind = FIGURES[name]
    how = "follow" if name in FOLLOW else "figure"
    drawing = dcc.Graph(
        id={"type": how, "name": name},
        config={"displaylogo": False, "toImageButtonOptions": {"format": "svg", "filename": name}, "responsive": True},
        style={"height": "24rem"},
        **({} if made is None else {"figure": made.figure}),
    )
    caption = [
        html.Figcaption(made.summary if made else "", id={"type": f"{how}-said", "name": name}),
        dcc.Store(id={"type": f"{how}-drawn", "name": name}, data=made.key if made else None),
    ]
    inner = html.Div(drawing, id=name, role="img", **{"aria-label": kind.title})
    box = html.Figure([inner, *caption], className="figure")
    return dmc.Paper(box, withBorder=True, radius="md", className="broad" if name in BROAD else "")


def trial_page(name: str, trial: int) -> list[Any]:
    """Return the page of a trial."""
    return [
        dcc.Interval(id="tick", interval=PERIOD),
        dcc.Store(id="where", data={"name": name, "trial": trial}),
        dcc.Store(id="revision", data=0),
        dmc.Group([link(name, name), dmc.Title(f"Trial {trial}", order=2), html.Div(id="status", role="status")]),
        html.Div(id="said", className="said"),
        html.Div(id={"type": "section", "name": "trial"}),
        html.Div([figure("curves")] if "curves" in FIGURES else [], className="figures"),
        html.Div(id={"type": "section", "name": "why"}),
        card(html.Pre(id="log", tabIndex=0), html.Div(id="log-link"), title="Log"),
        dcc.Store(id="selection", data=[trial]),
        html.Div(absent(), hidden=True),
    ]


def absent() -> list[Any]:
    """Return what callbacks of an experiment's page take, empty, for a page that has the rest of what they take."""
    stores = [dcc.Store(id=name) for name in ("passing", "news", "shown", "address", "table", "filtered", "had")]
    inputs = [dcc.Input(id=name) for name in ("filter", "tabs", "columns")]
    return [*stores, *inputs, *(html.Div(id=name) for name in ("filter-said", "chosen", "body"))]
