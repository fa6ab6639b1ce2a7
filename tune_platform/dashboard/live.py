"""What an open page asks for again and again: what has changed since it looked last, and nothing else.

It tells what it has (`Asked`), and gets the trials that changed, changes of the figures that are seen, the state in a
word and how long the answer took; nothing at all where nothing has changed. The page decides by that time, and by its
own, when it looks again, and whether for figures: see `assets/live.js`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tune_platform.dashboard import parts
from tune_platform.dashboard.drawing import SLOW, Drawing, draw
from tune_platform.dashboard.files import log_of, log_path
from tune_platform.dashboard.layout import FOLLOW, news, size, ways
from tune_platform.dashboard.options import of_metrics, read
from tune_platform.dashboard.patches import difference
from tune_platform.dashboard.sections import overview_of
from tune_platform.dashboard.source import Picture, Source
from tune_platform.dashboard.table import LAST
from tune_platform.dashboard.words import WORDS, told
from tune_platform.errors import SpecError, TunePlatformError
from tune_platform.plots import FIGURES, View

#: Figures of which it is known what browsers have, so that they are sent what has changed.
_SENT = 32


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a page has. `figures`: those to be brought up to date, by name.

    Of each what was chosen, its `key`, and whether what it looks like is `known`, so that changes can be told.
    `words`: the places of words that are seen, with the marks of what stands there.
    """

    name: str
    trial: int | None = None  #: of the page of a trial
    revision: int = 0
    state: str = ""
    by: str = LAST
    filter: str = ""
    theme: str = "light"
    selection: list[int] = field(default_factory=list)
    log: str = ""
    metrics: int | None = None  #: how many metrics it has choices of
    overview: str | None = None  #: what the overview shows, see `overview_of`
    words: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Any) -> Asked:
        """Return what a request says. Raises SpecError for anything else."""
        try:
            found = cls(**given)
            kinds = (str, int | None, int, str, str, str, str, list, str, int | None, str | None, dict, dict)
            values = list(vars(found).values())
            right = all(isinstance(value, kind) for value, kind in zip(values, kinds, strict=True))
            right = right and all(isinstance(each, int) for each in found.selection)
            right = right and all(name in WORDS and isinstance(mark, str) for name, mark in found.words.items())
            if not right or not all(name in FIGURES and isinstance(x, dict) for name, x in found.figures.items()):
                raise TypeError
        except TypeError:
            raise SpecError("this is no question of the page") from None
        return found


def changes(source: Source, asked: Asked) -> dict[str, Any] | None:
    """Return what has changed for a page; None where nothing has.

    Raises ExperimentError where there is no such experiment or trial.
    """
    began = time.thread_time()
    picture = source.picture(asked.name)
    found: dict[str, Any] = {}
    word, counts = state_of(picture, asked.trial)
    if f"{word}{counts}" != asked.state:
        found["state"] = [word, counts, *parts.sign(word)]
    if asked.trial is not None:
        found |= _log(source, asked)
        if picture.changed[picture.view.trials.place(asked.trial)] > asked.revision:
            found["changed"] = True
    else:
        if (rows := news(picture, asked.revision, asked.by)) is not None:
            found["rows"] = rows
            found |= _passing(picture, asked)
        if asked.metrics not in (None, many := len(picture.view.metric_names)):
            found |= {"metrics": many, "choices": _choices(picture.view)}
        if asked.overview not in (None, shows := overview_of(picture.view)):
            found["overview"] = shows
        words = {name: told(source, picture, name, mark) for name, mark in asked.words.items()}
        if any(words.values()):
            found["words"] = {name: each for name, each in words.items() if each}
    figures = {name: _figure(picture, name, each, asked) for name, each in asked.figures.items()}
    found |= {"figures": {name: each for name, each in figures.items() if each}} if asked.figures else {}
    if not found and picture.view.revision == asked.revision:
        return None
    taken = round(1000 * (time.thread_time() - began), 1)
    return {**found, "revision": picture.view.revision, "running": picture.view.running, "ms": taken}


def state_of(picture: Picture, trial: int | None) -> tuple[str, str]:
    """Return the state of the experiment and how many trials are in which, or the state of a trial."""
    view = picture.view
    if trial is not None:
        return str(view.trials.state[view.trials.place(trial)]), ""
    counts = ", ".join(f"{count} {word}" for word, count in sorted(view.counts.items()))
    return view.status, f" · {counts}" if counts else ""


def _choices(view: View) -> list[Any]:
    """Return, of the fields whose choices are metrics, which it is and what can be chosen there now."""
    fields = [
        [{"type": "option", "name": figure, "of": name}, data] for (figure, name), data in of_metrics(view).items()
    ]
    return [["aggregate", ways(view)], *fields]


def _passing(picture: Picture, asked: Asked) -> dict[str, Any]:
    """Return which of the trials that changed pass the filter, and how many do of all."""
    try:
        passing = picture.passing(asked.filter)
    except SpecError:
        return {}
    if passing is None:
        return {}
    changed = picture.view.trials.number[picture.changed > asked.revision]
    inside = set(passing)
    return {"passing": [each for each in changed.tolist() if each in inside], "said": pass_told(picture, passing)}


def pass_told(picture: Picture, passing: list[int] | None) -> str:
    """Return how many trials pass, in words."""
    return "" if passing is None else f"{len(passing):,} of {len(picture.view.trials):,} trials pass"


def _figure(picture: Picture, name: str, given: Mapping[str, Any], asked: Asked) -> dict[str, Any] | None:
    trials = asked.selection if name in FOLLOW else ()
    chosen = read(name, {each: value for each, value in given.items() if each not in ("key", "known")})
    made = draw(picture, name, asked.theme, text=asked.filter, trials=trials, **chosen)
    had = str(given.get("key") or "")
    old: Drawing | None = picture.sent.get(had)
    if len(picture.sent) >= _SENT:
        picture.sent.clear()
    picture.sent[made.key] = made
    told: dict[str, Any] = {"key": made.key, "summary": made.summary, "style": size(made)}
    if name in SLOW and not made.key.startswith(f"{picture.view.revision} "):
        told["age"] = round(time.monotonic() - made.at, 1)  # it rests
    if made.key == had:
        return None if old is not None and old.summary == made.summary and "age" not in told else told
    # One that was drawn otherwise than by an answer of this kind, the page does not know well enough to change.
    changed = difference(old.plain, made.plain) if old is not None and given.get("known") else None
    return {**told, "whole": made.plain} if changed is None else {**told, "changes": changed}


def _log(source: Source, asked: Asked) -> dict[str, Any]:
    """Return the end of the trial's log where its file is another than it was."""
    results = source.results(asked.name)
    try:
        path = log_path(results, asked.trial or 0)
        now = path.stat()
        mark = f"{now.st_size} {now.st_mtime_ns}"
    except OSError:
        mark = "none"
    except TunePlatformError as error:
        return {} if asked.log == "outside" else {"log": str(error), "mark": "outside"}
    if mark == asked.log:
        return {}
    return {"log": log_of(results, asked.trial or 0) or "It has printed nothing.", "mark": mark}
