"""How a space may change under a search that has begun: its choices may get more values, at the end of their lists.

Whoever chose among the shorter list chose by position or by value, and both still mean the same in the longer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def added_choices(now: Any, then: Any) -> dict[str, list[Any]] | None:
    """Return the values that each choice got, by the parameter's name; `now` and `then` are spaces in the file's form.

    None where they differ in anything else. Empty where they are the same.
    """
    return _added(now, then, "")


def _added(now: Any, then: Any, name: str) -> dict[str, list[Any]] | None:
    if now == then:
        return {}
    if not isinstance(now, Mapping) or not isinstance(then, Mapping) or now.keys() != then.keys():
        return None
    if now.get("type") == then.get("type") == "choice":
        rest = [key for key in now if key != "values"]
        new, old = now["values"], then["values"]
        same = all(now[key] == then[key] for key in rest) and new[: len(old)] == old
        return {name: new[len(old) :]} if same and not _has_grid(new[len(old) :]) else None
    found: dict[str, list[Any]] = {}
    for key in now:
        inner = _added(now[key], then[key], f"{name}/{key}" if name else str(key))
        if inner is None:
            return None
        found |= inner
    return found


def _has_grid(value: Any) -> bool:
    """Whether there is a grid in it, of which every trial so far would have had another point."""
    if isinstance(value, Mapping):
        return value.get("type") == "grid" or any(map(_has_grid, value.values()))
    return isinstance(value, list) and any(map(_has_grid, value))
