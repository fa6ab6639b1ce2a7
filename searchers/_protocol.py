"""Whether an object is a searcher of the present protocol, and what to change where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Searcher

_METHODS = ("setup", "ask", "observe", "tell", "restore")
_MISSING = object()


def check_searcher(searcher: Any, known: Callable[[], list[str]]) -> Searcher:
    """Return the object itself; SpecError, with what to change or the `known` names, unless it is a searcher."""
    missing = [name for name in _METHODS if not hasattr(searcher, name)]
    if missing:
        raise SpecError(
            f"{searcher!r} is not a searcher: it has no {', '.join(missing)}; "
            f"give an object with these methods or one of {', '.join(known())}"
        )
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
    return cast(Searcher, searcher)
