"""Screened random search: of a few random draws, one that looks like the trials that came farthest.

Trials are ranked as successive halving ranks them: those that trained to their end by value, behind them those that
were stopped or run on, by how far they came and then by their value there. A density is fitted to the first of this
order and one to the others, with the kernels of `bohb`. Of `candidates` random draws one is suggested, each with a
chance in proportion to the ratio of the two densities and to its distance from what was tried (importance resampling;
the best of the draws would be of the same neighbourhood each time). So the search stays as broad as random search
within the part of the space where trials do well, and is never drawn to one spot: the best configs of a table of real
trainings are often neighbours of mediocre ones. To rank a trial costs O(log n), and the densities see a bounded number
of trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sortedcontainers import SortedList

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome, PastTrial
from tune_platform.searchers._learner import Learner
from tune_platform.searchers.bohb import density
from tune_platform.space import Space
from tune_platform.space.encoding import Floats

#: Trials that a density is fitted to: of the best so many at least and at most, and an even choice of the others.
_LEAST_GOOD, _MOST_GOOD, _MOST_BAD = 5, 32, 128
#: Trials without a value that a draw keeps away from at most, and the distance that counts as none.
_PENDING, _SAME = 64, 1e-3

_Key = tuple[bool, float, float, int]


class Screen(Learner):
    """Random search with a filter, in NumPy; needs no extra. One metric; a space that is written as a dict.

    `candidates`: how many draws one is chosen from; 1 is random search. `quantile`: the share of trials that count as
    good. `random_fraction` of the suggestions are not screened. Raises SpecError on bad values.
    """

    name = "screen"

    def __init__(self, *, candidates: int = 8, quantile: float = 0.15, random_fraction: float = 0.1) -> None:
        super().__init__(random_fraction)
        self.check("candidates", candidates, 1, 10_000, whole=True)
        self.check("quantile", quantile, 0, 1)
        self.candidates, self.quantile = candidates, quantile

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        options = {"candidates": self.candidates, "quantile": self.quantile}
        return {"name": self.name, **options, "random_fraction": self.random_fraction}

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Take the space. Raises SpecError for several metrics, a function, and constraints that nothing meets."""
        super().setup(space, mode=mode, seed=seed)
        self._sign = 1.0 if mode[0] == "min" else -1.0
        self._ranking: SortedList = SortedList()
        self._keys: dict[int, _Key] = {}

    def tell(self, number: int, outcome: Outcome) -> None:
        """Hear how a trial ended, or stands while it is paused or runs."""
        super().tell(number, outcome)
        self._rank(number, outcome)

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Hear the whole past."""
        super().restore(past)
        for trial in past:
            if trial.outcome is not None:
                self._rank(trial.number, trial.outcome)

    def suggest(self, generator: np.random.Generator, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return one of some random draws, the likelier the more it looks like the good trials, and like no other."""
        count, size = len(self._ranking), len(self._encoding)
        if not size or count < size + 3 or count < _LEAST_GOOD + 2:
            return None
        good = min(max(_LEAST_GOOD, int(self.quantile * count)), _MOST_GOOD)
        picked = np.unique(np.linspace(good, count - 1, min(count - good, _MOST_BAD)).astype(int))
        try:
            drawn = [self._space.sample(generator, fixed) for _ in range(self.candidates)]
        except SpecError:  # the constraints forbid this point of the grid
            return None
        drawn = [config for config in drawn if self.allowed(config)]
        if not drawn:  # all of these were tried, in a finite space
            return None
        points = np.array([self._encoding.row(config) for config in drawn])
        best, others = self._rows(range(good)), self._rows(picked)
        weights = density(self._encoding, best, points) - density(self._encoding, others, points)
        weights += np.log(self._apart(points, best, others) + _SAME)
        return drawn[int(np.argmax(weights + generator.gumbel(size=len(drawn))))]

    def _apart(self, points: Floats, *rows: Floats) -> Floats:
        """Return how far each point is from the nearest of these rows and of the trials that have no value yet."""
        pending = [self._history.rows[number] for number in self._history.pending(_PENDING)]
        tried = np.vstack([*rows, *pending])
        apart = np.abs(self._encoding.features(points)[:, None] - self._encoding.features(tried)[None])
        nearest: Floats = apart.sum(axis=2).min(axis=1)
        return nearest

    def _rows(self, places: Sequence[int] | np.ndarray[Any, Any]) -> Floats:
        return np.array([self._history.rows[self._ranking[int(place)][-1]] for place in places])

    def _rank(self, number: int, outcome: Outcome) -> None:
        """Put a trial where it stands now: the key is whether it did not complete, how far it came, and the loss."""
        if (before := self._keys.pop(number, None)) is not None:
            self._ranking.remove(before)
        if number not in self._history.rows or (outcome.status == "failed" and not outcome.worst):
            return
        level, value = outcome.resource or float(outcome.step), outcome.value
        if outcome.worst:
            level, loss = 0.0, math.inf
        elif outcome.status == "completed" and value is not None:
            level, loss = math.inf, self._sign * value
        elif outcome.rungs:
            level, loss = float(outcome.rungs[-1][0]), self._sign * outcome.rungs[-1][1]
        elif value is not None:
            loss = self._sign * value
        else:
            return
        if math.isnan(loss):
            return
        key = self._keys[number] = (level < math.inf, -level, loss, number)
        self._ranking.add(key)
