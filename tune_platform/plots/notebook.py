"""`results.plot`: the figures of an experiment, by their names, as it stands at each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from tune_platform.errors import SpecError
from tune_platform.plots.registry import FIGURES, find
from tune_platform.plots.view import View
from tune_platform.results import Results


class Plots:
    """`results.plot.curves(top=5)` draws the figure of that name; `results.plot()` says which there are.

    Each call reads the store, so that of a running experiment it draws what there is now.
    """

    def __init__(self, results: Results) -> None:
        self._results = results
        self._view: View | None = None

    @property
    def view(self) -> View:
        """The experiment as it stands now, in columns."""
        self._view = View.of(self._results) if self._view is None else self._view.newer()
        return self._view

    def __call__(self) -> dict[str, str]:
        """Return the figures by name, with the sentence that says what each shows, or why it cannot be drawn."""
        view = self.view
        return {name: kind.summary(view) for name, kind in FIGURES.items()}

    def __getattr__(self, name: str) -> Callable[..., go.Figure]:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            kind = find(name)
        except SpecError as error:
            raise AttributeError(str(error)) from None

        def draw(**options: Any) -> go.Figure:
            return kind.draw(self.view, **options)

        draw.__doc__ = kind.draw.__doc__
        return draw

    def __dir__(self) -> list[str]:
        return [*FIGURES, "view"]
