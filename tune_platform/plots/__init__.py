"""Figures of an experiment: pure functions `View -> plotly.graph_objects.Figure`; see `docs/plots.md`.

    view = View.of("digits")
    curves(view, top=10, bands=True).show()

`FIGURES` has them all by name, with their titles and one-sentence summaries. Needs the extra `plots`.
"""

from tune_platform.extras import require

require("a figure", "plotly")

from tune_platform.plots.comparison import compare, compare_experiments  # noqa: E402
from tune_platform.plots.crashes import failures  # noqa: E402
from tune_platform.plots.objectives import edf, hypervolume, pareto  # noqa: E402
from tune_platform.plots.observations import Insight, insights  # noqa: E402
from tune_platform.plots.parameters import contour, importance, parallel, rank, slices  # noqa: E402
from tune_platform.plots.progress import curves, history  # noqa: E402
from tune_platform.plots.registry import FIGURES, FigureKind, find  # noqa: E402
from tune_platform.plots.theme import themed  # noqa: E402
from tune_platform.plots.verdicts import decision_rows, decisions, lineage, schedules  # noqa: E402
from tune_platform.plots.verdicts import rungs_figure as rungs  # noqa: E402
from tune_platform.plots.view import View  # noqa: E402
from tune_platform.plots.workers import timeline  # noqa: E402
from tune_platform.plots.workers import utilisation_figure as utilisation  # noqa: E402

__all__ = [
    "FIGURES", "FigureKind", "Insight", "View", "compare", "compare_experiments", "contour", "curves", "decision_rows",
    "decisions", "edf", "failures", "find", "history", "hypervolume", "importance", "insights", "lineage", "parallel",
    "pareto", "rank", "rungs", "schedules", "slices", "themed", "timeline", "utilisation",
]  # fmt: skip
