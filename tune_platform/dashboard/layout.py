"""The frame of the page, and what stands in it: the list of experiments, one experiment, one trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import dcc, html

from tune_platform.dashboard.drawing import Drawing, draw
from tune_platform.dashboard.filtering import names
from tune_platform.dashboard.options import controls, in_address, read
from tune_platform.dashboard.parts import SIGNS, address, alert, card, link
from tune_platform.dashboard.source import Picture
from tune_platform.dashboard.table import AGGREGATES, LAST, Table, aggregated, pack
from tune_platform.plots import FIGURES, View
from tune_platform.plots.observations import is_seed
from tune_platform.plots.theme import nothing, themed

#: The tabs of an experiment: word, then its sections (s:), places of words (w:) and figures in order. Figures that
#: follow the selection are drawn anew when it changes.
TABS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "overview": ("Overview", ("w:facts", "s:overview", "history", "curves", "w:insights")),
    "parameters": ("Parameters", ("parallel", "importance", "slice", "contour", "rank")),
    "objectives": ("Objectives", ("pareto", "hypervolume", "edf")),
    "timeline": ("Timeline", ("timeline", "workers", "utilisation")),
    "scheduler": ("Scheduler", ("rungs", "lineage", "schedules", "decisions")),
    "failures": ("Failures", ("s:failures", "failures")),
    "compare": ("Compare", ("s:compare", "curves", "s:repeated")),
    "control": ("Control", ("s:control", "s:audit")),
    "export": ("Share", ("s:share",)),
}
FOLLOW = ("curves",)
#: Figures that take the whole width.
BROAD = ("parallel", "decisions", "timeline", "utilisation")
#: Figures that need a population, and those that need several objectives: others have no place for them.
_OF_POPULATIONS, _OF_SEVERAL = ("lineage", "schedules"), ("pareto", "hypervolume")
_POPULATIONS = ("pbt", "pb2", "mf_pbt", "freeze_thaw")


def frame() -> Any:
    """Return the frame around all pages; the address decides what stands in it."""
    return dmc.MantineProvider(
        html.Div(
            [
                html.A("Skip to the content", href="#content", className="skip"),
                dcc.Location(id="url", refresh="callback-nav"),
                dcc.Store(id="scheme"),
                html.Header(
                    dmc.Group(
                        [
                            dcc.Link(dmc.Title("tune-platform", order=1, size="h4"), href="/"),
                            dmc.Button("Light or dark", id="toggle", variant="default", size="compact-sm"),
                        ],
                        justify="space-between",
                    )
                ),
                html.Main(html.Div(id="content", tabIndex="-1"), id="main"),
            ],
            className="page",
        )
    )


def experiment_page(picture: Picture, query: Mapping[str, str], theme: str = "light") -> list[Any]:
    """Return the page of an experiment, in the state that the query of its address tells, with what is seen first."""
    view, table = picture.view, picture.table
    tab = query.get("tab", "overview") if query.get("tab") in TABS else "overview"
    if query.get("show") in FIGURES:  # a figure was asked for: the tab that has it
        tab = next(key for key, (_, inside) in TABS.items() if query["show"] in inside)
    text = query.get("filter", "")
    columns = [name for name in query.get("columns", "").split(",") if name in table.columns] or table.shown
    metrics = ways(view)
    by = [each for each in query.get("metrics", "").split("\n") if any(each == x["value"] for x in metrics)]
    grouped = "configs" if query.get("rows") == "configs" else "trials"
    chosen = [int(each) for each in query.get("trials", "").split(",") if each.isdigit()]
    return [
        dcc.Store(id="where", data={"name": view.name, "trial": None, "metrics": len(view.metric_names)}),
        dcc.Store(id="revision", data=view.revision),
        dcc.Store(id="news", data=news(picture, 0, "\n".join(by) or LAST)),
        dcc.Store(id="filtered", data=text),
        dcc.Store(id="passing"),
        dcc.Store(id="selection", data=chosen),
        dcc.Store(id="shown", data=table.shown),
        dcc.Store(id="names", data=list(names(table))),
        *(dcc.Store(id=name) for name in ("address", "watched", "noted")),
        dmc.Group([dmc.Title(view.name, order=2), html.Div(id="status", role="status")], mt="xs"),
        html.Div(id="said", className="said"),
        dmc.Tabs(
            [
                dmc.TabsList([dmc.TabsTab(word, value=key) for key, (word, _) in TABS.items()]),
                *[dmc.TabsPanel("", value=key) for key in TABS],  # what the tabs say that they control
            ],
            id="tabs", value=tab, mt="xs", mb="sm",
        ),
        html.Div(body(tab, picture, theme, text, chosen, in_address(query)), id="body"),
        dmc.Title("Trials", order=3, size="h5", mt="md"),
        dmc.Group(
            [
                dmc.Autocomplete(
                    id="filter", label="Filter", value=text, debounce=120, data=list(names(table)),
                    placeholder='such as: loss < 0.2 and state == "completed"', style={"flex": "2 1 20rem"},
                ),
                dmc.Select(
                    id="grouped", label="Rows", data=ROWS, value=grouped, allowDeselect=False, w="10rem",
                ),
                dmc.MultiSelect(
                    id="aggregate", label="Metrics", data=metrics, value=by, searchable=True,
                    placeholder="" if by else AGGREGATES[LAST], style={"flex": "0 1 14rem"},
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
        grid(table, columns, chosen, grouped),
    ]  # fmt: skip


def ways(view: View) -> list[dict[str, str]]:
    """Return what can be wanted of all metrics or of one, as the choices of the table."""
    every = [{"value": how, "label": f"all: {word}"} for how, word in AGGREGATES.items() if how != LAST]
    return every + [
        {"value": f"{how}:{name}", "label": f"{name}: {word}"}
        for name in view.metric_names[:_CHOICES]
        for how, word in AGGREGATES.items()
    ]


#: Metrics of which it can be chosen by itself what is shown of them.
_CHOICES = 40
#: What a row of the table is. Runs whose configs differ in their seed alone are of one config.
ROWS = [{"value": "trials", "label": "trials"}, {"value": "configs", "label": "configs (seeds)"}]


def grid(table: Table, columns: Sequence[str], chosen: Sequence[int], grouped: str = "trials") -> Any:
    """Return the table of trials; it draws the rows that are seen, sorts in the browser, and keeps its selection."""
    return dag.AgGrid(
        id="table",
        columnDefs=column_defs(table, columns, grouped),
        rowData=[],
        getRowId="params.data.trial + ''",
        selectedRows={"ids": [str(each) for each in chosen]},
        defaultColDef={
            "sortable": True, "resizable": True, "filter": True, "minWidth": 80,
            "comparator": {"function": "missingLast"},
        },
        columnSize="responsiveSizeToFit" if len(columns) <= 8 else None,
        dashGridOptions={
            "rowSelection": {"mode": "multiRow", "enableClickSelection": True},
            "animateRows": False,
            "suppressFieldDotNotation": True,
        },
        style={"height": "28rem"},
    )  # fmt: skip


#: Pixels of the columns that have less or more to say than a number.
_WIDTHS = {"trial": 90, "step": 90, "state": 140, "reason": 280}


def column_defs(table: Table, columns: Sequence[str], grouped: str = "trials") -> list[dict[str, Any]]:
    """Return the columns as the table of the page wants them; of configs also how many runs, and how they differ."""
    digits = {"function": "params.value == null ? '' : d3.format('.5~g')(params.value)"}
    means = grouped == "configs"
    drawn = {
        "trial": {"cellRenderer": "TrialLink", "cellRendererParams": {"path": address(table.view.name)}},
        "state": {} if means else {"cellRenderer": "State", "cellRendererParams": {"signs": SIGNS}},
    }
    found: list[dict[str, Any]] = [
        {
            "field": name,
            "headerName": name.removeprefix("config/").removeprefix("metrics/"),
            "headerTooltip": name,
            **({"valueFormatter": digits} if name in table.fractions or (means and name not in drawn) else {}),
            "width": _WIDTHS.get(name, 120),
            **drawn.get(name, {}),
        }
        for name in columns
        if not (means and is_seed(name))
    ]
    if means:
        runs = {"field": "runs", "headerTooltip": "how many trials ran this config", "width": 90}
        spread = {
            "field": "deviation", "headerTooltip": "standard deviation of the best values", "width": 130,
            "valueFormatter": digits,
        }  # fmt: skip
        at = next((place for place, each in enumerate(found) if each["field"] == "best"), 0)
        found[at + 1 : at + 1] = [spread]
        found[min(1, len(found)) : min(1, len(found))] = [runs]
    return found


def news(picture: Picture, since: int, by: str = LAST) -> dict[str, Any] | None:
    """Return the rows of the table that have changed since a revision, packed; None where there are none.

    `by`: what of which metric, see `ways`.
    """
    view = picture.view
    if view.revision <= since:
        return None
    table = picture.since(since) if since else picture.table
    columns = {**table.columns, **aggregated(table.view, by)}
    packed = {name: pack(cells) for name, cells in columns.items()}
    return {
        "name": view.name, "since": since, "revision": view.revision, "by": by, "metric": view.metric,
        "mode": view.mode, "columns": packed,
    }  # fmt: skip


#: Figures that are drawn at once: they come with their tab.
QUICK = ("history", "curves")


def body(
    tab: str, picture: Picture, theme: str = "light", text: str = "", chosen: Sequence[int] = (),
    options: Mapping[str, Mapping[str, str]] | None = None,
) -> Any:  # fmt: skip
    """Return the places of the sections and figures of a tab; those that are quickly drawn come with it.

    `options`: what was chosen of each figure, by its name.
    """
    parts = [each for each in TABS.get(tab, TABS["overview"])[1] if _has_place(each, picture.view)]
    first = next((at for at, each in enumerate(parts) if each in FIGURES), len(parts))
    above = [_PLACES[each[0]](each[2:]) for each in parts[:first]]
    below = [_PLACES[each[0]](each[2:]) for each in parts[first:] if each not in FIGURES]
    figures, broad = [], _broad([each for each in parts if each in FIGURES])
    for each in (each for each in parts if each in FIGURES):
        drawing, given = None, (options or {}).get(each, {})
        if each in QUICK:
            trials = chosen if each in FOLLOW else ()
            drawing = draw(picture, each, theme, text=text, trials=trials, **read(each, given))
        figures.append(figure(each, picture.view, given, drawing, theme, broad=each in broad))
    if not above and not figures:
        figures = [alert("There is no figure of this kind yet.")]
    return [*above, html.Div(figures, className="figures"), *below]


def _has_place(name: str, view: View) -> bool:
    if name in _OF_SEVERAL:
        return len(view.metrics) > 1
    scheduler = str((view.spec.get("schedule") or {}).get("name", ""))
    return name not in _OF_POPULATIONS or view.family is not None or scheduler in _POPULATIONS


def _broad(names: Sequence[str]) -> set[str]:
    """Return the figures that take the whole width: those that need it, and those with none beside them."""
    found, left = set(BROAD), ""
    for name in (*names, BROAD[0]):
        if name not in BROAD:
            left = "" if left else name
        elif left:
            found.add(left)
            left = ""
    return found


def section(name: str) -> Any:
    """Return the place of a section."""
    place = {"type": "section", "name": name}
    return html.Div([html.Div(id=place), dcc.Store(id={"type": "section-mark", "name": name})])


def words(name: str) -> Any:
    """Return the place of words, which come with what is asked for again and again."""
    if name == "facts":
        return html.Div(id=name, className="facts")
    return card(html.Ul(id=name), title="Insights")


_PLACES = {"s": section, "w": words}


def size(made: Drawing | None) -> dict[str, str]:
    """Return how high a figure is: as high as it says; what cannot be drawn takes little room."""
    if made is not None and not made.figure.data:
        return {"height": "11rem"}
    height = made.figure.layout.height if made is not None else None
    return {"height": f"{height}px" if height else "24rem"}


def figure(
    name: str, view: View, given: Mapping[str, str], made: Drawing | None = None, theme: str = "light", *,
    broad: bool = False,
) -> Any:  # fmt: skip
    """Return the place of a figure: its choices, its drawing, its sentence, and ways to take it away."""
    kind = FIGURES[name]
    how = "follow" if name in FOLLOW else "figure"
    drawing = dcc.Graph(
        id={"type": how, "name": name},
        config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["toImage"]},
        style=size(made),
        figure=made.figure if made else themed(nothing("Being drawn ..."), "dark" if theme == "dark" else "light"),
    )
    caption = [
        html.Figcaption(made.summary if made else "", id={"type": f"{how}-said", "name": name}),
        dcc.Store(id={"type": f"{how}-drawn", "name": name}, data=made.key if made else None),
        html.Div(className="age"),
        html.Div(id={"type": f"{how}-row", "name": name}, className="row"),
    ]
    inner = html.Div(drawing, id=name, role="group", **{"aria-label": kind.title})
    head = html.H3(kind.title, className="figure-title")
    box = html.Figure(
        [head, controls(name, view, given), inner, *caption, _taken(name, how, view.name)], className="figure"
    )
    return dmc.Paper(box, withBorder=True, radius="md", className="broad" if broad else "")


def _taken(name: str, how: str, experiment: str) -> Any:
    title = FIGURES[name].title
    saves = [
        html.Button(form.upper(), id={"type": "save", "name": name, "as": form}, className="save",
                    **{"aria-label": f"{title} as {form.upper()}"})
        for form in ("svg", "png")
    ]  # fmt: skip
    data = html.A(
        "CSV", id={"type": f"{how}-data", "name": name}, href=data_address(experiment, name), className="save",
        **{"aria-label": f"{title}: its data as CSV"},
    )  # fmt: skip
    return html.Div(["Save as ", *saves, data, dcc.Store(id={"type": "save-said", "name": name})], className="saves")


def data_address(
    experiment: str, name: str, text: str = "", given: Mapping[str, Any] | None = None, trials: Sequence[int] = ()
) -> str:
    """Return the address of a figure's data."""
    query = {key: value for key, value in (given or {}).items() if value}
    if text:
        query["filter"] = text
    if trials:
        query["trials"] = ",".join(map(str, trials[:50]))
    return f"/files/{quote(experiment, safe='')}/figure/{name}.csv" + (f"?{urlencode(query)}" if query else "")


def trial_page(view: View, trial: int) -> list[Any]:
    """Return the page of a trial."""
    name = view.name
    return [
        dcc.Store(id="where", data={"name": name, "trial": trial}),
        dcc.Store(id="revision", data=view.revision),
        dmc.Group([link(name, name), dmc.Title(f"Trial {trial}", order=2), html.Div(id="status", role="status")]),
        html.Div(id="said", className="said"),
        section("trial"),
        html.Div([figure("curves", view, {})], className="figures"),
        section("why"),
        card(html.Pre(id="log", tabIndex=0), html.Div(id="log-link"), title="Log"),
        dcc.Store(id="selection", data=[trial]),
        html.Div(absent(), hidden=True),
    ]


def absent() -> list[Any]:
    """Return what callbacks of an experiment's page take, empty, for a page that has the rest of what they take."""
    kept = ("passing", "news", "shown", "names", "address", "table", "filtered", "watched", "noted")
    stores = [dcc.Store(id=name) for name in kept]
    inputs = [dcc.Input(id=name) for name in ("filter", "tabs", "columns", "aggregate", "grouped")]
    return [*stores, *inputs, *(html.Div(id=name) for name in ("filter-said", "chosen", "body"))]
