"""How figures look: one palette that colour-blind people can tell apart, states as colour, shape and word.

Colours are those of Okabe and Ito (2008), "Color Universal Design". Text that comes from a trial is escaped here:
Plotly reads a part of HTML in titles, labels and hovers.
"""

from __future__ import annotations

import textwrap
from html import escape
from typing import Any, Literal

import plotly.graph_objects as go

Theme = Literal["light", "dark"]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800", "#7F7F7F")
#: The colour, the marker and the word of each state.
STATES: dict[str, tuple[str, str, str]] = {
    "completed": ("#0072B2", "circle", "completed"),
    "stopped": ("#E69F00", "square", "stopped early"),
    "failed": ("#D55E00", "x", "failed"),
    "running": ("#009E73", "triangle-up", "running"),
    "paused": ("#CC79A7", "diamond", "paused"),
    "pausing": ("#CC79A7", "diamond-open", "pausing"),
    "starting": ("#56B4E9", "triangle-up-open", "starting"),
    "pending": ("#7F7F7F", "circle-open", "pending"),
}
#: For values on a scale: Viridis, readable in grey too, without the end that a background hides.
SCALES: dict[Theme, tuple[str, ...]] = {
    "light": ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#c2d322"),
    "dark": ("#5b6bb5", "#3f8fa8", "#22a884", "#7ad151", "#bddf26", "#fde725"),
}
#: Letters of a line inside of a figure: so many fit at 390 pixels.
LINE = 40
BEST = "#009E73"
#: More points than this are drawn by the graphics card.
MANY = 2_000


def state_style(state: str) -> tuple[str, str, str]:
    """Return the colour, the marker and the word of a state; grey for one that a later release has."""
    return STATES.get(state, ("#7F7F7F", "star", text(state)))


def text(value: Any, limit: int = 80) -> str:
    """Return a text of the user's as Plotly shows it: no markup, no line breaks, not endless."""
    line = " ".join(str(value).split())
    return escape(line if len(line) <= limit else f"{line[: limit - 3]}...", quote=False)


def number(value: Any, digits: int = 4) -> str:
    """Return a number as people read it, anything else as text."""
    return f"{value:.{digits}g}" if isinstance(value, float) else text(value)


def whole(most: float) -> dict[str, Any]:
    """Return the ticks of an axis that counts up to `most`: no halves of a trial."""
    return {"dtick": 1} if most <= 5 else {}


def scatter(count: int) -> Any:
    """Return the kind of trace for so many points."""
    return go.Scattergl if count > MANY else go.Scatter


def _template(theme: Theme) -> go.layout.Template:
    ink, paper, grid = ("#1f2933", "#ffffff", "#e4e7eb") if theme == "light" else ("#e4e7eb", "#242424", "#424242")
    axis = {
        "gridcolor": grid, "linecolor": grid, "zerolinecolor": grid, "automargin": True, "title": {"standoff": 8},
        "exponentformat": "power",
    }  # fmt: skip
    scale = [[at / (len(SCALES[theme]) - 1), colour] for at, colour in enumerate(SCALES[theme])]
    return go.layout.Template(
        data={"parcoords": [{"line": {"colorscale": scale}}]},  # it does not take that of the layout
        layout={
            "font": {"color": ink, "family": "system-ui, sans-serif", "size": 13},
            "paper_bgcolor": paper, "plot_bgcolor": paper, "colorway": PALETTE, "xaxis": axis, "yaxis": axis,
            "colorscale": dict.fromkeys(("sequential", "sequentialminus", "diverging"), scale),
            "hoverlabel": {"align": "left", "namelength": -1},
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
            "margin": {"t": 70, "r": 20, "b": 48},
            "title": {"x": 0.01, "xanchor": "left"},
        }
    )  # fmt: skip


TEMPLATES: dict[Theme, go.layout.Template] = {"light": _template("light"), "dark": _template("dark")}


def themed(figure: go.Figure, theme: Theme = "light") -> go.Figure:
    """Give a figure the colours of a theme, and return it."""
    figure.update_layout(template=TEMPLATES[theme])
    return figure


def nothing(why: str) -> go.Figure:
    """Return an empty figure that says why there is nothing to draw."""
    figure = go.Figure()
    lines = [text(line, 2 * LINE) for line in textwrap.wrap(" ".join(why.split())[:200], LINE)]
    figure.add_annotation(
        text="<br>".join(lines), showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5, font={"size": 15}
    )
    figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
    return figure
