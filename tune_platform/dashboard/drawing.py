"""The figures of the page: each is drawn once a revision, and not at all where what it shows has not changed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tune_platform.dashboard.loading import LOADING
from tune_platform.dashboard.source import Picture
from tune_platform.dashboard.table import only
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.plots import FIGURES, View
from tune_platform.plots.progress import wants_log
from tune_platform.plots.theme import nothing, themed

#: Curves that are drawn where nobody has selected any: the best ones.
TOP = 20
#: Of more traces than this no names are shown, which would take the room of the drawing; hovering tells each.
NAMED = 12
#: Drawings of one revision that are kept.
_KEPT = 64
#: Figures that take seconds of a large experiment: of a live one they are drawn anew now and then, not at each change.
SLOW = ("importance", "contour", "rank")
#: So many times as long as it took to draw them these stay; what takes less than so many seconds does not.
REST, AT_ONCE = 40, 0.02


@dataclass(frozen=True)
class Drawing:
    """A figure, its sentence, and the `key` of all that it was drawn from: what has the same key looks the same."""

    figure: Any
    summary: str
    key: str
    fresh: float = 0.0  #: until when (monotonic seconds) it need not be drawn anew
    seen: Any = None  #: what it shows; while that stays, it need not be drawn anew
    at: float = field(default_factory=time.monotonic, compare=False)  #: when it was drawn

    @cached_property
    def plain(self) -> Mapping[str, Any]:
        """The figure as it travels."""
        found: Mapping[str, Any] = self.figure.to_dict()
        return found


def chosen_view(picture: Picture, text: str) -> View:
    """Return the view of the trials that pass a filter; of all for an empty one, or one that is no expression."""
    try:
        return only(picture.view, picture.passing(text))
    except SpecError:
        return picture.view


def draw(
    picture: Picture, name: str, theme: str, *, text: str = "", trials: Sequence[int] = (), **options: Any
) -> Drawing:
    """Return a figure of the trials that pass the filter `text`, or of these `trials`."""
    same = json.dumps([picture.view.created, name, theme, text, list(trials), options])
    key = f"{picture.view.revision} {same}"
    last: Drawing | None = picture.resting.get(same)
    if last and name in SLOW and picture.view.running and time.monotonic() < last.fresh:
        return last
    if name in SLOW:
        LOADING.pandas()  # Optuna, which computes them, has it
    if key not in picture.drawings:
        for kept in (picture.drawings, picture.resting):
            if len(kept) >= _KEPT:
                kept.clear()
        began = time.monotonic()
        made = _draw(picture, name, theme, text, trials, options, key, last)
        if name in SLOW and (took := time.monotonic() - began) > AT_ONCE:
            made = replace(made, fresh=time.monotonic() + REST * took)
        picture.drawings[key] = picture.resting[same] = made
    found: Drawing = picture.drawings[key]
    return found


def _draw(
    picture: Picture, name: str, theme: str, text: str, trials: Sequence[int], options: dict[str, Any], key: str,
    last: Drawing | None,
) -> Drawing:  # fmt: skip
    kind, seen = FIGURES[name], None
    view = picture.view if trials else chosen_view(picture, text)
    told = kind.summary(only(picture.view, list(trials)) if trials else view)
    if name == "curves":
        options = {"top": TOP, **options}
        known = set(view.trials.number.tolist())
        shown = [each for each in trials if each in known]
        seen = None if options.get("bands") else _shown(view, shown or view.ranking[: options["top"]], options)
        if last and seen is not None and seen == last.seen:
            return replace(last, summary=told)
        # Of a long experiment not all steps are held.
        view = view.whole(shown or view.ranking[: options["top"]], picture.curves)
        if trials:
            options["trials"] = shown
    try:
        made = kind.draw(view, theme=theme, **options)
        if theme == "dark":  # no template reaches the cells of Plotly's tables
            dark = {"fill_color": "#242424", "line_color": "#424242"}
            made.update_traces(cells=dark, header=dark, selector={"type": "table"})
    except (SpecError, ExperimentError) as error:
        made = themed(nothing(str(error)), "dark" if theme == "dark" else "light")
    # Its name stands above it on the page: inside, a legend of two lines would cover it.
    top = 24 if made.layout.margin.t is None else max(24, made.layout.margin.t - 40)
    made.update_layout(title_text=None, margin_t=top, showlegend=False if len(made.data) > NAMED else None)
    return Drawing(made, told, key, seen=seen)


def _shown(view: View, trials: Sequence[int], options: Mapping[str, Any]) -> Any:
    """Return what curves of these trials show: as long as it stays, they are the same curves."""
    at = [view.trials.place(each) for each in trials]
    logged = options.get("log")
    if logged is None:
        logged = wants_log(view.reports.column(options.get("metric") or view.metric))
    return list(trials), view.trials.step[at].tolist(), view.trials.attempt[at].tolist(), logged
