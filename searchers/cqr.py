"""Conformal quantile regression (Salinas et al., ICML 2023, Algorithms 1 and 2), on the last value of each trial.

Gradient boosted trees give quantiles of the value as a function of the config; what they miss on trials that were
held back widens (or narrows) them, so that they hold without any assumption on the noise. Of many candidates each draws
one of its quantiles at random, and the one with the least value is suggested: Thompson sampling. With a scheduler that
stops trials the last value of a trial counts (section 5): that of a bad one is bad because it was stopped early.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tune_platform.searchers._boosting import QuantileTrees
from tune_platform.searchers._candidates import Modelled
from tune_platform.searchers._history import spread
from tune_platform.space.encoding import Floats

#: Trials that the trees are fitted to at most, how many of these are the best; the others lie evenly over the ranks.
_MOST, _BEST = 256, 64
_HELD = 4  # every fourth trial is held back for the correction


class CQR(Modelled):
    """Conformal quantile regression, in NumPy. One metric; a space that is written as a dict.

    `random_fraction` of the suggestions are drawn at random. `quantiles`: how many are fitted, evenly between 0 and 1.
    `candidates`: points that are judged for a suggestion. SpecError on bad values. A suggestion takes the same time
    however many trials there are, for the trees are fitted to 256 of them at most.
    """

    name = "cqr"
    near = 0.0

    def __init__(self, *, random_fraction: float = 1 / 3, quantiles: int = 4, candidates: int = 400) -> None:
        super().__init__(random_fraction)
        self.check("quantiles", quantiles, 2, 20, whole=True)
        self.check("candidates", candidates, 1, 10_000, whole=True)
        self.quantiles, self.candidates = quantiles, candidates

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        options = {"random_fraction": self.random_fraction, "quantiles": self.quantiles}
        return {"name": "cqr", **options, "candidates": self.candidates}

    def fit(self, generator: np.random.Generator) -> bool:
        """Fit the quantiles, and their correction."""
        ranked = self._history.ranked(max(2 * self._enough, 12))
        if not ranked:
            return False
        picked = spread(ranked, _BEST, _MOST)
        rows = np.array([self._history.rows[number] for _, number in picked])
        x, y = self._encoding.features(rows), np.array([loss for loss, _ in picked])
        held = np.arange(len(y)) % _HELD == int(generator.integers(_HELD))  # they are ranked: some of every kind
        levels = np.arange(1, self.quantiles + 1) / (self.quantiles + 1)
        self._trees = QuantileTrees(x[~held], y[~held], levels)
        found = self._trees.predict(x[held])
        self._wider = np.zeros(self.quantiles)
        for low in range(self.quantiles // 2):
            high = self.quantiles - 1 - low
            missed = np.maximum(found[low] - y[held], y[held] - found[high])
            covered = min((levels[high] - levels[low]) * (1 + 1 / len(missed)), 1.0)
            correction = float(np.quantile(missed, covered))
            self._wider[low], self._wider[high] = -correction, correction
        return True

    def scores(self, points: Floats, generator: np.random.Generator) -> Floats:
        """Return one of the quantiles of each point, drawn at random."""
        found = np.sort(self._trees.predict(self._encoding.features(points)) + self._wider[:, None], axis=0)
        drawn: Floats = found[generator.integers(self.quantiles, size=len(points)), np.arange(len(points))]
        return drawn
