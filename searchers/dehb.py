"""DEHB's searcher (Awad, Mallik and Hutter, IJCAI 2021): differential evolution over the fidelities.

There is a population at each resource where trials were judged: the best `population` of those that came there. A new
config is made at the highest resource whose population is large enough to be evolved: to one member, the target, the
difference of two others is added, the mutant (rand/1), and the target takes each parameter from the mutant with the
probability `crossover`, one at least (binomial). Where a population is small the three are drawn from it and from the
best of the next lower resource, the paper's parent pool.

It departs from the paper where a scheduler decides who goes on: there each bracket of Hyperband has its slots, and a
child takes the place of its target where it is better. Here all trials that came to a resource compete for the
population there, which is what remains of that where trials are asynchronous.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from tune_platform.searchers._learner import Learner

_TRIES = 10  # children, until one meets the constraints
_PARENTS = 4  # a target and three that the mutant is made of


class DEHB(Learner):
    """Differential evolution, in NumPy. One metric; a space that is written as a dict.

    `population`: how many trials of a resource evolve. `factor`: what a difference is multiplied with, F; `crossover`:
    the probability CR of a parameter to be the mutant's (the paper: 0.5 for both). `random_fraction` of the
    suggestions are drawn at random, and the first `population`. SpecError on bad values.
    """

    name = "dehb"

    def __init__(
        self, *, population: int = 20, factor: float = 0.5, crossover: float = 0.5, random_fraction: float = 0.1
    ) -> None:
        super().__init__(random_fraction)
        self.check("population", population, _PARENTS, 10_000, whole=True)
        self.check("factor", factor, 0, 2)
        self.check("crossover", crossover, 0, 1)
        self.population, self.factor, self.crossover = population, factor, crossover

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        options = {"population": self.population, "factor": self.factor, "crossover": self.crossover}
        return {"name": self.name, **options, "random_fraction": self.random_fraction}

    def suggest(self, generator: np.random.Generator, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a member of the population with some parameters of a mutant."""
        pool = self._pool()
        if len(pool) < self.population or not len(self._encoding):
            return None
        rows = [self._history.rows[number] for number in pool]
        for _ in range(_TRIES):
            target, base, one, other = (rows[at] for at in generator.choice(len(rows), _PARENTS, replace=False))
            uniform = generator.random(len(target))
            mutant = base + self.factor * (one - other)
            mutant = np.where((mutant >= 0) & (mutant <= 1), mutant, uniform)  # also where one of them lacks it
            takes = generator.random(len(target)) < self.crossover
            takes[generator.integers(len(target))] = True
            child = np.where(takes | np.isnan(target), mutant, target)
            config, _ = self._encoding.config(self._encoding.settle(child[None], fixed)[0], fixed)
            if self.allowed(config):
                return config
        return None

    def _pool(self) -> list[int]:
        """Return the best trials of the highest resource with enough to evolve, filled up from those below it."""
        found: dict[int, None] = {}
        levels = self._history.levels
        for level in sorted(levels, reverse=True):
            if found or len(levels[level]) >= _PARENTS:
                found.update((number, None) for _, number in islice(levels[level], self.population))
            if len(found) >= self.population:
                break
        return list(islice(found, self.population))
