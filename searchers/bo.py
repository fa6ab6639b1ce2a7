"""Bayesian optimisation: a Gaussian process over configs and expected improvement (Snoek et al., NeurIPS 2012).

The losses are ranked and turned into normal quantiles first, so that outliers do not matter. A trial that runs and has
no value yet is taken to end as the process expects (the Kriging believer of Ginsbourger et al. 2010, section 4.1), so
that nothing is suggested right beside it: batches are asked one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tune_platform.searchers._candidates import Modelled
from tune_platform.searchers._history import spread
from tune_platform.searchers._normal import improvement, normal_scores
from tune_platform.searchers._process import Process
from tune_platform.space.encoding import Floats

#: Trials that the process is fitted to at most, how many of these are the best; the others lie evenly over the ranks.
_MOST, _BEST = 160, 64
_PENDING = 64  # running trials that are looked at


class BO(Modelled):
    """A Gaussian process in NumPy; needs no extra. One metric; a space that is written as a dict.

    `random_fraction` of the suggestions are drawn at random. `candidates`: points that are judged for a suggestion.
    SpecError on bad values. A suggestion takes the same time however many trials there are, for the process is fitted
    to 160 of them at most.
    """

    name = "bo"

    def __init__(self, *, random_fraction: float = 0.1, candidates: int = 400) -> None:
        super().__init__(random_fraction)
        self.check("candidates", candidates, 1, 10_000, whole=True)
        self.candidates = candidates

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        return {"name": self.name, "random_fraction": self.random_fraction, "candidates": self.candidates}

    def fit(self, generator: np.random.Generator) -> bool:
        """Fit the process; trials without a value count as it expects them to end."""
        ranked = self._history.ranked(max(self._enough, 5))
        if not ranked:
            return False
        picked = spread(ranked, _BEST, _MOST)
        self.fit_to([number for _, number in picked], normal_scores(np.array([loss for loss, _ in picked])))
        return True

    def fit_to(self, numbers: Sequence[int], y: Floats) -> None:
        """Fit the process to the values of trials, and to those that run, where it expects them."""
        x = self.features(numbers)
        self._process = Process(x, y, len(self._encoding))
        self._process.believe(self.features(self._history.pending(_PENDING)))
        self._best = float(self._process.predict(x)[0].min())  # as expected: the values themselves are noisy

    def scores(self, points: Floats, generator: np.random.Generator) -> Floats:
        """Return the negated expected improvement of each point."""
        mean, deviation = self._process.predict(self._encoding.features(points))
        scores: Floats = -improvement(mean, deviation, self._best)
        return scores

    def lengths(self) -> Floats:
        """Return how far each parameter is correlated, (parameters,): of one with several features, the shortest."""
        found, at = [], 0
        for column, count in enumerate(self._encoding.categories):
            width = count or (2 if self._encoding.optional[column] else 1)
            found.append(1 / float(self._process.scales[at : at + width].max()))
            at += width
        return np.array(found)
