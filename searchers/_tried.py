"""Which configs of a finite space have been tried, so that none is suggested twice (`search.duplicates: avoid`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tune_platform.errors import SpecError
from tune_platform.space import Enumeration, Space

_DRAWS = 50  # at random, before the points are gone through one after the other
_MOST = 1_000_000  # points that are gone through; in a larger space a config may come twice


class Tried:
    """The configs that were tried. Of a space with infinitely many nothing is kept, and all count as new."""

    def __init__(self, space: Space, *, avoid: bool) -> None:
        self._space = space
        self._known: set[str] = set()
        self._points = _points(space) if avoid else None

    def add(self, config: Mapping[str, Any]) -> None:
        """Note a config that is tried."""
        if self._points is not None:
            self._known.add(_key(config))

    def is_new(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a config has not been tried yet."""
        return self._points is None or _key(config) not in self._known

    def another(self, generator: np.random.Generator, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a config that has not been tried, with `fixed` values if there is one; None where all have been."""
        for attempt in range(_DRAWS):
            try:
                config = self._space.sample(generator, fixed if attempt < _DRAWS // 2 else None)
            except SpecError:  # the constraints forbid the fixed values
                continue
            if self.is_new(config):
                return config
        assert self._points is not None
        begin = int(generator.integers(self._points.total))
        for index in range(min(self._points.total, _MOST)):
            config = self._config((begin + index) % self._points.total)
            if self.is_new(config) and self._space.satisfied(config):
                return config
        return None if self._points.total <= _MOST else self._space.sample(generator)

    def _config(self, index: int) -> dict[str, Any]:
        assert self._points is not None
        values = self._points.point(index)
        return self._space.build(lambda name, domain: values[name])

    def state(self) -> list[str]:
        """Return what there is to know, as JSON values: nothing unless duplicates of a finite space are avoided."""
        return sorted(self._known)

    def load_state(self, known: Iterable[str]) -> None:
        """Take what `state` returned."""
        self._known.update(known)

    @property
    def all_tried(self) -> str:
        """In words, that nothing is left."""
        allowed = " that the constraints allow" if self._space.constraints else ""
        return (
            f"all {len(self._known):,} configs of the space{allowed} have been tried; "
            "duplicates: allow goes on with repetitions"
        )


def _points(space: Space) -> Enumeration | None:
    """Return the points of a finite space that has parameters; None for any other."""
    if space.define_by_run or not space.parameters():
        return None
    try:
        return space.grid_points(everything=True)
    except SpecError:
        return None


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, default=repr)
