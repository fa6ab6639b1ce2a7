"""What has changed from one figure to the next, so that only that is sent.

A change is `["set", path, value]`, or of a list `["cut", path, first, removed, cells]`: from `first` on so many cells
give way to others, or `["traces", [], which]`, of which each is the place of a former trace or a new one. Figures are
what `to_dict` gives: dicts, lists, plain values, and numbers as `{"dtype", "bdata"}`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tune_platform.dashboard.table import pack

Path = list[str | int]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Any] | None:
    """Return the changes that make `new` of `old`; None where all is to be sent."""
    if old["layout"].get("template") != new["layout"].get("template"):
        return None
    changes: list[Any] = []
    places = {(each.get("type"), each.get("name")): at for at, each in enumerate(old["data"])}
    which = [places.pop((each.get("type"), each.get("name")), None) for each in new["data"]]
    traces = old["data"]
    if which != list(range(len(traces))):
        which_or_new = [new["data"][at] if place is None else place for at, place in enumerate(which)]
        changes.append(["traces", [], which_or_new])
        traces = [old["data"][each] if isinstance(each, int) else each for each in which_or_new]
    before, after = (
        {"data": data, "layout": {**each["layout"], "template": None}}
        for data, each in ((traces, old), (new["data"], new))
    )
    return changes if _walk(before, after, [], changes) else None


def _walk(old: Any, new: Any, path: Path, changes: list[Any]) -> bool:
    """Add the changes of one place; False where something has gone, which no change says."""
    before, after = _cells(old), _cells(new)
    if before is None and after is None and isinstance(old, Mapping) and isinstance(new, Mapping):
        if set(old) - set(new):
            return False
        for key, value in new.items():
            if key not in old:
                changes.append(["set", [*path, key], value])
            elif not _walk(old[key], value, [*path, key], changes):
                return False
        return True
    if before is None or after is None:
        if old is not new and (type(old) is not type(new) or old != new):
            changes.append(["set", path, new])
        return True
    if len(before) == len(after) and all(isinstance(each, Mapping) for each in (*before, *after)):
        return all(_walk(a, b, [*path, at], changes) for at, (a, b) in enumerate(zip(before, after, strict=True)))
    first, removed, cells = _cut(before, after)
    if not removed and not len(cells):
        return True
    if len(cells) > len(after) // 2:
        changes.append(["set", path, new])
    else:
        listed = cells.tolist() if isinstance(cells, np.ndarray) else list(cells)
        changes.append(["cut", path, first, removed, pack(listed)])
    return True


def _cells(value: Any) -> Any:
    """Return what has cells as an array of numbers or a list; None for what has none."""
    if isinstance(value, Mapping) and "bdata" in value and "shape" not in value:
        return np.frombuffer(base64.b64decode(value["bdata"]), f"<{value['dtype']}")
    return value if isinstance(value, list) else None


def _cut(old: Any, new: Any) -> tuple[int, int, Sequence[Any] | np.ndarray[Any, Any]]:
    """Return from where on how many cells of `old` give way to which of `new`."""
    many = min(len(old), len(new))
    first = _common(old[:many], new[:many])
    last = _common(old[first:][::-1], new[first:][::-1])
    return first, len(old) - first - last, new[first : len(new) - last]


def _common(old: Any, new: Any) -> int:
    """Return how many cells at the beginning are the same; NaN is like NaN."""
    many = min(len(old), len(new))
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        a, b = old[:many], new[:many]
        other = np.flatnonzero((a != b) & ~((a != a) & (b != b)))
        return int(other[0]) if len(other) else many
    for at in range(many):
        a, b = old[at], new[at]
        if type(a) is not type(b) or (a != b and not (a != a and b != b)):
            return at
    return many
