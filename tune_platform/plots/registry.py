"""The figures by name. A figure is a pure function of a `View`; the decorator gives it its name, title and summary."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.plots.theme import nothing, themed
from tune_platform.plots.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureKind:
    """One kind of figure.

    `draw(view, **options)` makes it; `summary(view)` says in one sentence what it shows; `needs(view)` is empty where
    it can be drawn, else the reason why it cannot. Where it cannot, `draw` returns an empty figure with that reason.
    """

    name: str
    title: str
    draw: Callable[..., go.Figure]
    summary: Callable[[View], str]
    needs: Callable[[View], str]


FIGURES: dict[str, FigureKind] = {}


def some_value(view: View) -> str:
    """Need a trial with a value."""
    if not len(view.trials):
        return "There are no trials yet."
    return (
        ""
        if view.ranking or len(view.metrics) > 1
        else f"No trial has a finite value of {view.metric or 'a metric'} yet."
    )


def some_trial(view: View) -> str:
    """Need a trial."""
    return "" if len(view.trials) else "There are no trials yet."


def figure(
    name: str, title: str, summary: Callable[[View], str], needs: Callable[[View], str] = some_value
) -> Callable[[Callable[..., go.Figure]], Callable[..., go.Figure]]:
    """Register a function `view -> Figure`; the option `theme` (light or dark) is added to those that it has."""

    def register(function: Callable[..., go.Figure]) -> Callable[..., go.Figure]:
        def told(view: View) -> str:
            return needs(view) or summary(view)

        @functools.wraps(function)
        def draw(view: View, *, theme: Any = "light", **options: Any) -> go.Figure:
            why = needs(view)
            drawn = nothing(why) if why else function(view, **options)
            drawn.update_layout(title_text=title, meta={"name": name, "summary": why or summary(view)})
            # What a person has zoomed and hidden stays while new data come; another experiment begins anew.
            drawn.update_layout(uirevision=f"{view.name} {name}")
            return themed(drawn, theme)

        FIGURES[name] = FigureKind(name=name, title=title, draw=draw, summary=told, needs=needs)
        return draw

    return register


def find(name: str) -> FigureKind:
    """Return the figure of a name. Raises SpecError with the nearest one."""
    if name not in FIGURES:
        raise SpecError(f"there is no figure {name!r}{did_you_mean(name, FIGURES)}; there are {', '.join(FIGURES)}")
    return FIGURES[name]
