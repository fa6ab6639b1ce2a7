"""Figures of an experiment: pure functions `View -> plotly.graph_objects.Figure`.

    view = View.of("digits")
    curves(view, top=10, bands=True).show()

`FIGURES` has them all by name, with their titles and one-sentence summaries. Needs the extra `plots`.
"""

from tune_platform.extras import require

require("a figure", "plotly")

from tune_platform.plots.progress import curves, history  # noqa: E402
from tune_platform.plots.registry import FIGURES, FigureKind, find  # noqa: E402
from tune_platform.plots.theme import themed  # noqa: E402
from tune_platform.plots.view import View  # noqa: E402

__all__ = ["FIGURES", "FigureKind", "View", "curves", "find", "history", "themed"]
