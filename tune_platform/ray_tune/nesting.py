"""Names of metrics and parameters: nested as Ray Tune has them ({"a": {"b": 1}}), flat as the store has ("a/b")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Metrics(dict[str, Any]):
    """Metrics by their flat names, in which those of the same beginning are found together as well.

    `metrics["a/b"]` and `metrics["a"]["b"]` are the same: a report does not say which of the two its author wrote.
    """

    def __missing__(self, name: str) -> Metrics:
        inner = {key[len(name) + 1 :]: value for key, value in self.items() if key.startswith(f"{name}/")}
        if not inner:
            raise KeyError(name)
        return Metrics(inner)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or any(key.startswith(f"{name}/") for key in self)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value, or those of this beginning; `default` where there is neither."""
        try:
            return self[name]
        except KeyError:
            return default


def flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their flat names."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found.update(flat(value, f"{above}{name}/") if isinstance(value, Mapping) else {f"{above}{name}": value})
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `flat` was made of."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *above, last = name.split("/")
        place = found
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return found
