"""The nearest config of a table: by the mean distance over the parameters, each between 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tune_platform.space import Domain, Float, Int, Normal, Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: How many answers are kept: a trial asks for each of its steps.
KEPT = 100_000


class Nearest:
    """`nearest(config)` is the index of the config of the table that is closest; the first of several.

    A number stands where it lies between the ends of its domain, on its scale; two different choices are 1 apart, and
    so are a parameter and its absence.
    """

    def __init__(self, space: Space, configs: Sequence[Mapping[str, Any]]) -> None:
        self._space = space
        self._domains = {each.name: each.domain for each in space.parameters()}
        self._choices = np.array([not _is_number(domain) for domain in self._domains.values()], dtype=bool)
        self._codes: dict[tuple[str, str], float] = {}
        self._rows = np.array([self._vector(config) for config in configs]).reshape(len(configs), len(self._domains))
        self._absent = np.isnan(self._rows)
        self._found: dict[str, int] = {}

    def __call__(self, config: Mapping[str, Any]) -> int:
        """Return the row of a config. Raises SpecError where it is not in the space."""
        key = repr(config)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= KEPT:
                self._found.clear()
            found = self._found[key] = self._search(self._vector(config))
        return found

    def _search(self, vector: NDArray[Any]) -> int:
        if not len(vector):
            return 0
        apart = np.abs(self._rows - vector)
        apart = np.where(self._choices, apart > 0, apart)
        absent = np.isnan(vector)
        apart = np.where(self._absent | absent, self._absent != absent, apart)
        return int(np.argmin(apart.sum(axis=1)))

    def _vector(self, config: Mapping[str, Any]) -> NDArray[Any]:
        values = self._space.flatten(config)
        return np.array([self._place(name, values[name]) if name in values else math.nan for name in self._domains])

    def _place(self, name: str, value: Any) -> float:
        domain = self._domains[name]
        if isinstance(domain, (Float, Int)):
            low, high, at = domain.low, domain.high, value
            if domain.log:
                low, high, at = math.log(low), math.log(high), math.log(value)
            return (at - low) / (high - low) if high > low else 0.0
        if isinstance(domain, Normal):
            return float(domain.quantile_of(value))
        return self._codes.setdefault((name, repr(value)), float(len(self._codes)))


def _is_number(domain: Domain) -> bool:
    return isinstance(domain, (Float, Int, Normal))
