"""The figures of the page: each is drawn once a revision, and stays until the experiment has changed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tune_platform.dashboard.source import AT_ONCE, REST, Picture
from tune_platform.dashboard.table import only
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.plots import FIGURES, View
from tune_platform.plots.theme import nothing, themed

#: Curves that are drawn where nobody has selected any: the best ones.
TOP = 20
#: Of more traces than this no names are shown, which would take the room of the drawing; hovering tells each.
NAMED = 12
#: Drawings of one revision that are kept.
_KEPT = 64
#: Figures that take seconds of a large experiment: of a live one they are drawn anew now and then, not at each change.
SLOW = ("importance", "contour", "rank")


@dataclass(frozen=True)
class Drawing:
    """A figure, its sentence, and the `key` of all that it was drawn from: what has the same key looks the same."""

    figure: Any
    summary: str
    key: str
    fresh: float = 0.0  #: until when (monotonic seconds) it need not be drawn anew


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
    if name in SLOW and picture.view.running and same in picture.resting:
        kept: Drawing = picture.resting[same]
        if time.monotonic() < kept.fresh:
            return kept
    if key not in picture.drawings:
        if len(picture.drawings) >= _KEPT:
            picture.drawings.clear()
        began = time.monotonic()
        made = _draw(picture, name, theme, text, trials, options, key)
        if name in SLOW and (took := time.monotonic() - began) > AT_ONCE:
            made = replace(made, fresh=time.monotonic() + REST * took)
            if len(picture.resting) >= _KEPT:
                picture.resting.clear()
            picture.resting[same] = made
        picture.drawings[key] = made
    found: Drawing = picture.drawings[key]
    return found


def _draw(
    picture: Picture, name: str, theme: str, text: str, trials: Sequence[int], options: dict[str, Any], key: str
) -> Drawing:
    kind = FIGURES[name]
    view = picture.view if trials else chosen_view(picture, text)
    if name == "curves":
        options = {"top": TOP, **options}
        known = set(view.trials.number.tolist())
        shown = [each for each in trials if each in known]
        view = view.whole(shown or view.ranking[: options["top"]])  # of a long experiment not all steps are held
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
    made.update_layout(title_text=None, margin_t=24, showlegend=False if len(made.data) > NAMED else None)
    told = only(picture.view, list(trials)) if trials else view
    return Drawing(made, kind.summary(told), key)
