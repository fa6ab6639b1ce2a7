"""What happens on the page: each callback asks the source and says what is to be shown. State is in the browser."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

from dash import ALL, MATCH, ClientsideFunction, Dash, Input, Output, State, ctx, no_update
from flask import request
from plotly.io.json import to_json_plotly

from tune_platform.dashboard import layout, listing, parts, versus
from tune_platform.dashboard.actions import ask, extension, retry, tag
from tune_platform.dashboard.drawing import draw
from tune_platform.dashboard.live import pass_told
from tune_platform.dashboard.options import read
from tune_platform.dashboard.sections import SECTIONS, STILL, Scene
from tune_platform.dashboard.source import Source
from tune_platform.dashboard.table import LAST
from tune_platform.errors import ExperimentError, SpecError, TunePlatformError


def add_callbacks(app: Dash, source: Source, may_control: Callable[[], bool]) -> None:
    """Connect the page to its source; `may_control` says of a request whether it may steer."""
    _pages(app, source)
    _live(app, source)
    _drawings(app, source, may_control)
    _steering(app, source, may_control)
    _in_the_browser(app)


def _pages(app: Dash, source: Source) -> None:
    @app.callback(Output("content", "children"), Input("url", "pathname"), State("url", "search"))
    def content(path: str, search: str) -> Any:
        words = [unquote(each) for each in (path or "/").strip("/").split("/") if each]
        try:
            match words:
                case []:
                    return listing.page(source)
                case ["compare"]:
                    return versus.page(source, dict(parse_qsl((search or "").lstrip("?"))))
                case ["e", name]:
                    query = dict(parse_qsl((search or "").lstrip("?")))
                    theme = "dark" if request.cookies.get("scheme") == "dark" else "light"
                    return layout.experiment_page(source.picture(name), query, theme)
                case ["e", name, "t", number] if number.isdigit():
                    view = source.picture(name).view
                    view.trials.place(int(number))
                    return layout.trial_page(view, int(number))
        except KeyError:
            return parts.alert(f"{words[1]} has no trial {words[3]}.")
        except TunePlatformError as error:
            return parts.alert(str(error))
        return parts.alert("There is no such page.")

    @app.callback(
        Output("body", "children"), Input("tabs", "value"), State("where", "data"), State("scheme", "data"),
        State("filtered", "data"), State("selection", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def body(tab: str, where: Mapping[str, Any], theme: str, text: str, chosen: list[int]) -> Any:
        return layout.body(tab, source.known(where["name"]), theme or "light", text or "", chosen or ())

    @app.callback(
        Output("experiments", "children"), Output("list-marks", "data"), Input("list-tick", "n_intervals"),
        Input("search", "value"), State("list-marks", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def found(_: int, text: str, marks: Mapping[str, str]) -> Any:
        return listing.lines(source, text or "", marks or {})

    @app.callback(
        Output("versus-figure", "figure"), Output("versus-said", "children"),
        Input("versus-names", "value"), Input("versus-by", "value"), Input("scheme", "data"),
    )  # fmt: skip
    def beside(names: list[str], by: str, theme: str) -> Any:
        return versus.drawn(source, names or [], by, "dark" if theme == "dark" else "light")


def _live(app: Dash, source: Source) -> None:
    """What changes of itself the browser asks for, see `live`; here is what changes because somebody chose it."""

    @app.callback(
        Output("news", "data"), Input("aggregate", "value"), State("where", "data"), prevent_initial_call=True
    )
    def news(by: list[str] | None, where: Mapping[str, Any]) -> Any:
        if where["trial"] is not None:
            return no_update  # the page of a trial has no table
        return layout.news(source.known(where["name"]), 0, "\n".join(by or ()) or LAST) or no_update

    @app.callback(
        Output("passing", "data"), Output("filter-said", "children"), Output("filtered", "data"),
        Input("filter", "value"), State("where", "data"), State("filtered", "data"),
    )  # fmt: skip
    def choose(text: str, where: Mapping[str, Any], before: str) -> Any:
        picture = source.known(where["name"])
        try:
            found = picture.passing(text or "")
        except SpecError as error:
            return no_update, parts.alert(str(error).removeprefix("constraint ")), no_update
        return found, pass_told(picture, found), no_update if (text or "") == before else text or ""

    @app.callback(
        Output("table", "columnDefs"), Input("columns", "value"), Input("grouped", "value"), State("where", "data"),
        prevent_initial_call=True,
    )  # fmt: skip
    def columns(names: list[str], grouped: str, where: Mapping[str, Any]) -> Any:
        return layout.column_defs(source.known(where["name"]).table, names, grouped) if names else no_update


def _drawings(app: Dash, source: Source, may_control: Callable[[], bool]) -> None:
    """What was chosen draws figures anew; those of the type `follow` follow the selection too."""

    def redrawn(
        name: str, before: str | None, theme: str, where: Mapping[str, Any], text: str, given: list[Any],
        places: list[Mapping[str, str]], trials: Sequence[int] = (),
    ) -> Any:  # fmt: skip
        chosen = {each["of"]: value for each, value in zip(places, given, strict=True)}
        made = draw(source.known(where["name"]), name, theme or "light", text=text, trials=trials, **read(name, chosen))
        if made.key == before:
            return (no_update,) * 5
        address = layout.data_address(where["name"], name, text, chosen, trials)
        return made.figure, made.summary, made.key, address, layout.size(made)

    def outputs(kind: str) -> Any:
        return (
            Output({"type": kind, "name": MATCH}, "figure"),
            Output({"type": f"{kind}-said", "name": MATCH}, "children"),
            Output({"type": f"{kind}-drawn", "name": MATCH}, "data"),
            Output({"type": f"{kind}-data", "name": MATCH}, "href"), Output({"type": kind, "name": MATCH}, "style"),
        )  # fmt: skip

    def known(kind: str) -> Any:
        return (
            Input("filtered", "data"), Input("scheme", "data"),
            Input({"type": "option", "name": MATCH, "of": ALL}, "value"),
            State({"type": "option", "name": MATCH, "of": ALL}, "id"), State("where", "data"),
            State({"type": f"{kind}-drawn", "name": MATCH}, "data"), State({"type": kind, "name": MATCH}, "id"),
        )  # fmt: skip

    @app.callback(*outputs("figure"), *known("figure"))
    def figure(
        text: str, theme: str, given: list[Any], places: list[Any], where: Mapping[str, Any],
        before: str | None, place: Mapping[str, str],
    ) -> Any:  # fmt: skip
        return redrawn(place["name"], before, theme, where, text or "", given, places)

    @app.callback(*outputs("follow"), Input("selection", "data"), *known("follow"))
    def follow(
        chosen: list[int], text: str, theme: str, given: list[Any], places: list[Any], where: Mapping[str, Any],
        before: str | None, place: Mapping[str, str],
    ) -> Any:  # fmt: skip
        return redrawn(place["name"], before, theme, where, text or "", given, places, chosen or ())

    @app.callback(
        Output({"type": "section", "name": MATCH}, "children"), Output({"type": "section-mark", "name": MATCH}, "data"),
        Input("revision", "data"), Input("selection", "data"), State("where", "data"),
        State({"type": "section", "name": MATCH}, "id"), State({"type": "section-mark", "name": MATCH}, "data"),
    )  # fmt: skip
    def section(_: int, chosen: list[int], where: Mapping[str, Any], place: Mapping[str, str], mark: str | None) -> Any:
        if place["name"] in STILL and mark:
            return no_update, no_update
        view = source.known(where["name"]).view
        made = SECTIONS[place["name"]](Scene(source, view, where["trial"], chosen or [], may_control()))
        now = hashlib.sha256(to_json_plotly(made).encode()).hexdigest()[:16]
        return (no_update, no_update) if now == mark else (made, now)


def _steering(app: Dash, source: Source, may_control: Callable[[], bool]) -> None:
    @app.callback(
        Output("said", "children"), Input({"type": "act", "action": ALL, "trial": ALL}, "n_clicks"),
        State({"type": "field", "name": ALL}, "value"), State({"type": "field", "name": ALL}, "id"),
        State({"type": "more", "name": ALL}, "value"), State({"type": "more", "name": ALL}, "id"),
        State({"type": "tags", "name": ALL}, "value"), State("where", "data"), prevent_initial_call=True,
    )  # fmt: skip
    def act(
        _: Any, values: list[Any], ids: list[Mapping[str, str]], more: list[Any], extras: list[Mapping[str, str]],
        tags: list[list[str]], where: Mapping[str, Any],
    ) -> Any:  # fmt: skip
        place = ctx.triggered_id
        if not place or not ctx.triggered or not ctx.triggered[0]["value"]:
            return no_update  # the buttons have come, nobody has pressed one
        if not may_control():
            return parts.alert("This page may not steer: open the address with the token.")
        action, trial = place["action"], None if place["trial"] < 0 else place["trial"]
        data: dict[str, Any] = {}
        try:
            if action == "enqueue":
                given = {each["name"]: text for each, text in zip(ids, values, strict=True) if text not in (None, "")}
                data = {"config": {name: parsed(text) for name, text in given.items()}}
            elif action == "extend":
                data = extension({each["name"]: text for each, text in zip(extras, more, strict=True)})
                if not data:
                    return parts.alert("Say by how much.")
            if action == "tag":
                said = tag(source.storage, source.check(where["name"]), tags[0] or [])
            elif action.startswith("retry"):
                said = retry(source, where["name"], trial, group=action == "retry-group")
            else:
                said = ask(source.storage, source.check(where["name"]), action, trial, data)
        except (ExperimentError, SpecError) as error:
            return parts.alert(str(error))
        return parts.done(said)

    @app.callback(Output("chosen", "children"), Input("selection", "data"), State("where", "data"))
    def links(chosen: list[int], where: Mapping[str, Any]) -> Any:
        if not chosen:
            return "Select trials to see their curves and to compare them."
        some = [each for n in chosen[:8] for each in (parts.link(f"trial {n}", where["name"], n), " ")]
        return [f"{len(chosen)} selected: ", *some]


def parsed(text: Any) -> Any:
    """Return what somebody typed as a value: a number where it reads as one, a truth value, else the text."""
    for word, value in (("true", True), ("false", False), ("null", None), ("none", None)):
        if str(text).strip().lower() == word:
            return value
    for number in (int, float):
        try:
            return number(text)
        except (TypeError, ValueError):
            continue
    return text


def _in_the_browser(app: Dash) -> None:
    def client(name: str, *what: Any, **options: Any) -> None:
        app.clientside_callback(ClientsideFunction("page", name), *what, **options)

    client(
        "rows", Output("table", "rowData"), Input("news", "data"), Input("passing", "data"),
        Input("grouped", "value"),
    )  # fmt: skip
    for kind in ("figure", "follow"):
        client(
            "hovered", Output({"type": f"{kind}-row", "name": MATCH}, "children"),
            Input({"type": kind, "name": MATCH}, "hoverData"), State("columns", "value"), prevent_initial_call=True,
        )  # fmt: skip
    client("complete", Output("filter", "data"), Input("filter", "value"), State("names", "data"))
    client("watch", Output("watched", "data"), Input("where", "data"), State("revision", "data"))
    drawn = [{"type": f"{kind}-drawn", "name": ALL} for kind in ("figure", "follow")]
    client(
        "noted",
        Output("noted", "data"),
        *(Input(each, "data") for each in drawn),
        *(State(each, "id") for each in drawn),
    )
    client("chosen", Output("selection", "data"), Input("table", "selectedRows"), prevent_initial_call=True)
    client(
        "brushed", Output("table", "selectedRows"), Input({"type": "figure", "name": "parallel"}, "restyleData"),
        prevent_initial_call=True,
    )  # fmt: skip
    client(
        "marked", Output("table", "selectedRows", allow_duplicate=True),
        Input({"type": "figure", "name": ALL}, "selectedData"), prevent_initial_call=True,
    )  # fmt: skip
    client(
        "address", Output("address", "data"), Input("tabs", "value"), Input("filter", "value"),
        Input("selection", "data"), Input("columns", "value"), Input("aggregate", "value"),
        Input("grouped", "value"), Input({"type": "option", "name": ALL, "of": ALL}, "value"),
        State({"type": "option", "name": ALL, "of": ALL}, "id"), State("shown", "data"), State("where", "data"),
    )  # fmt: skip
    client(
        "save", Output({"type": "save-said", "name": MATCH}, "data"),
        Input({"type": "save", "name": MATCH, "as": ALL}, "n_clicks"), prevent_initial_call=True,
    )  # fmt: skip
    client("versus", Output("versus-address", "data"), Input("versus-names", "value"), Input("versus-by", "value"))
    client("scheme", Output("scheme", "data"), Input("toggle", "n_clicks"))
