"""Whether an object is a searcher, a scheduler or a backend of these protocols, and what to change where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tune_platform.errors import SpecError

_SEARCHER = ("setup", "ask", "observe", "tell", "restore")
_SCHEDULER = ("resource", "setup", "until", "choose", "on_report", "on_end", "describe")
_SCHEDULER_NEW = ("on_add", "on_start", "on_supply_end")
_BACKEND = ("start", "submit", "poll", "wake", "now", "close", "writing")
_MISSING = object()


def check_searcher(searcher: Any, known: Sequence[str]) -> None:
    """Raise SpecError, with what to change or the `known` names, unless the object is a searcher."""
    _check_names("searcher", searcher, _SEARCHER, known)
    kind, lookahead = type(searcher).__name__, getattr(searcher, "lookahead", _MISSING)
    if lookahead is _MISSING:
        raise SpecError(
            f"{kind} is written for the first searcher protocol: it has no `lookahead`. Add `lookahead = 0` (it learns "
            "from each trial: suggestions are drawn as late as possible) or `lookahead = None` (suggestions do not "
            "depend on results: as many are drawn ahead as one likes). `tell` brings the config that gave the value, "
            "the resource reached and the value at each rung as well; see docs/concepts.md"
        )
    if lookahead is not None and (isinstance(lookahead, bool) or not isinstance(lookahead, int) or lookahead < 0):
        raise SpecError(f"{kind}.lookahead is {lookahead!r}; a whole number from 0 on, or None, is needed")


def check_scheduler(scheduler: Any, known: Sequence[str]) -> None:
    """Raise SpecError, with what to change or the `known` names, unless the object is a scheduler."""
    _check_names("scheduler", scheduler, _SCHEDULER, known)
    missing = [name for name in _SCHEDULER_NEW if not hasattr(scheduler, name)]
    if missing:
        raise SpecError(
            f"scheduler {type(scheduler).__name__} is written for the first scheduler protocol: it has no "
            f"{', '.join(missing)}. Add them; they may do nothing and return None. `choose` and `until` are questions "
            "now and change nothing: that a trial was promoted, note in `on_start`, which comes once it has its place. "
            "`on_add`, `on_report`, `on_end` and `on_supply_end` may answer with a list of Decision(trial, verdict) "
            "about any trials. tune_platform.testing.SchedulerContract finds what else does not fit; see "
            "docs/concepts.md"
        )


def check_backend(backend: Any, known: Sequence[str]) -> None:
    """Raise SpecError, with the `known` names, unless the object is a backend."""
    _check_names("backend", backend, _BACKEND, known)


def _check_names(what: str, part: Any, names: Sequence[str], known: Sequence[str]) -> None:
    missing = [name for name in names if not hasattr(part, name)]
    if missing:
        raise SpecError(
            f"{part!r} is not a {what}: it has no {', '.join(missing)}; "
            f"give an object that has them or one of {', '.join(known)}"
        )
