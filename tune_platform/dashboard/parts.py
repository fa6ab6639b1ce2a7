"""Small parts that the pages are made of. All text goes in as children, which Dash shows as text."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import dash_mantine_components as dmc
from dash import dcc, html

from tune_platform.plots.theme import STATES

#: A state is told by a word, a sign, and the colour that it has in the figures; an experiment has some more states.
_LIKE = {"finished": "completed", "interrupted": "stopped", "crashed": "failed"}
SIGNS: Mapping[str, tuple[str, str]] = {
    word: (sign, STATES[_LIKE.get(word, word)][0])
    for word, sign in (
        ("pending", "○"), ("starting", "◔"), ("running", "▶"), ("pausing", "◫"), ("paused", "❚❚"), ("completed", "✓"),
        ("finished", "✓"), ("stopped", "■"), ("interrupted", "■"), ("failed", "✕"), ("crashed", "✕"),
    )
}  # fmt: skip


def sign(word: str) -> tuple[str, str]:
    """Return the sign and the colour of a state."""
    return SIGNS.get(word.lower(), ("?", "#777777"))


def state(word: str) -> Any:
    """Return a state as sign, word and colour."""
    mark, colour = sign(word)
    style = {"borderLeft": f"0.3rem solid {colour}", "paddingLeft": "0.4rem", "whiteSpace": "nowrap"}
    return html.Span(f"{mark} {word.lower()}", style=style)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
    """Return a plain table; for the long ones there is the grid."""
    return html.Div(
        html.Table(
            [
                html.Thead(html.Tr([html.Th(each, scope="col") for each in head])),
                html.Tbody([html.Tr([html.Td(_cell(cell)) for cell in row]) for row in rows]),
            ],
            className="plain",
        ),
        className="wide",
        tabIndex=0,  # so that the keyboard can move it sideways
    )


def pairs(values: Mapping[str, Any]) -> Any:
    """Return names and values, one pair a line."""
    rows = [html.Tr([html.Th(name, scope="row"), html.Td(_cell(value))]) for name, value in values.items()]
    return html.Table(html.Tbody(rows), className="plain")


def copied(title: str, text: str, place: str) -> Any:
    """Return a text with a button that copies it."""
    head = dmc.Group(
        [html.Strong(title), dcc.Clipboard(target_id=place, title=f"copy as {title}", style={"cursor": "pointer"})]
    )
    return html.Div([head, html.Pre(text, id=place, tabIndex=0)])


def card(*children: Any, title: str | None = None) -> Any:
    """Return a frame around children."""
    head = [dmc.Title(title, order=3, size="h5", mb="xs")] if title else []
    return dmc.Paper([*head, *children], withBorder=True, p="sm", radius="md")


def link(text: str, *parts: str | int) -> Any:
    """Return a link to a page of this server."""
    return dcc.Link(text, href=address(*parts))


def address(*parts: str | int) -> str:
    """Return the path of an experiment's page, or of the trial `parts[1]`."""
    name, *rest = parts
    return f"/e/{quote(str(name), safe='')}" + "".join(f"/t/{each}" for each in rest)


def proof(name: str, figure: str) -> str:
    """Return the address of a figure on the page of an experiment."""
    return f"{address(name)}?{urlencode({'show': figure})}#{figure}"


def alert(text: str) -> Any:
    """Return a line of warning."""
    return html.Div(dmc.Alert(text, color="orange", variant="outline", p="xs", mt="xs"), role="alert")


def done(text: str) -> Any:
    """Return a line that says that something was done."""
    return html.Div(dmc.Alert(text, color="green", variant="outline", p="xs", mt="xs"), role="status")


def number(value: Any) -> str:
    """Return a number with five digits that count; other things as they are."""
    return "-" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def ago(then: float | None) -> str:
    """Return how long ago a time was, for people."""
    if not then:
        return "-"
    seconds = max(0.0, time.time() - then)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "just now"


def lasting(seconds: float) -> str:
    """Return a duration for people."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{max(0.0, seconds):.2g} s"


def _cell(value: Any) -> Any:
    return number(value) if isinstance(value, (float, int, bool)) or value is None else value
