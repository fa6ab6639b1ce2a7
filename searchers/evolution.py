"""Regularised evolution (Real et al., AAAI 2019, Algorithm 1): the best of a few young trials, with one thing changed.

The population are the newest `population` trials with a value: the old die, however good they are. Of `sample` of them,
drawn at random, the best is the parent; one of its parameters is changed. Trials that came to different rungs are
compared at the highest resource that two of them reached, so that a value is compared only with values at its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tune_platform.searchers._learner import Learner

_TRIES = 10  # children, until one meets the constraints


class Evolution(Learner):
    """Regularised evolution, in NumPy. One metric; a space that is written as a dict.

    `population`: how many of the newest trials may be parents; `sample`: how many of these compete (the paper: 100 and
    25). `random_fraction` of the suggestions are drawn at random, and the first `sample`. `step`: the standard
    deviation by which a number is moved, as a share of its range; a choice gets another value. SpecError on bad values.
    """

    name = "evolution"

    def __init__(
        self, *, population: int = 50, sample: int = 10, random_fraction: float = 0.1, step: float = 0.15
    ) -> None:
        super().__init__(random_fraction)
        self.check("population", population, 2, 10_000, whole=True)
        self.check("sample", sample, 2, population, whole=True)
        self.check("step", step, 0.001, 1)
        self.population, self.sample, self.step = population, sample, step

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        options = {"population": self.population, "sample": self.sample, "step": self.step}
        return {"name": "evolution", **options, "random_fraction": self.random_fraction}

    def suggest(self, generator: np.random.Generator, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a child of the best of a few."""
        young = self._history.newest(self.population)
        if len(young) < self.sample or not len(self._encoding):
            return None
        rivals = [young[index] for index in generator.choice(len(young), self.sample, replace=False)]
        parent = self._history.rows[self._history.winner(rivals)]
        there = np.flatnonzero(~np.isnan(parent))
        for _ in range(_TRIES):
            child = np.where(np.isnan(parent), generator.random(len(parent)), parent)
            column = int(generator.choice(there))
            if size := self._encoding.categories[column]:
                other = generator.integers(max(size - 1, 1)) + 1
                child[column] = (int(parent[column] * size) + other) % size / size + 0.5 / size
            else:
                moved = abs(parent[column] + generator.standard_normal() * self.step)
                child[column] = min(max(2 - moved if moved > 1 else moved, 0.0), 1.0)
            config, _ = self._encoding.config(self._encoding.settle(child[None], fixed)[0], fixed)
            if self.allowed(config):
                return config
        return None
