"""Bayesian optimisation: a Gaussian process over configs and expected improvement (Snoek et al., NeurIPS 2012).

The kernel is Matérn 5/2 over the features of a config. Its length and the noise are those of a small grid with the
highest marginal likelihood; then each feature in turn may get a shorter or a longer length of its own. The losses are
ranked and turned into normal quantiles first, so that outliers do not matter. A trial that runs and has no value yet is
taken to end as the process expects (the Kriging believer of Ginsbourger et al. 2010, section 4.1), so that nothing is
suggested right beside it: batches are asked one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tune_platform.searchers._candidates import Modelled
from tune_platform.searchers._history import spread
from tune_platform.searchers._normal import improvement, normal_scores
from tune_platform.space.encoding import Floats

#: Trials that the process is fitted to at most, how many of these are the best; the others lie evenly over the ranks.
_MOST, _BEST = 160, 64
_PENDING = 64  # running trials that are looked at
#: Lengths, as shares of the diagonal of the space, variances of the noise, of values with the variance 1, and what the
#: length of one feature is multiplied with.
_LENGTHS, _NOISES, _FACTORS = (0.1, 0.2, 0.4, 0.8), (0.01, 0.1, 0.4), (0.4, 3.0)


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
        pending = self._history.pending(_PENDING)
        x = self._encoding.features(np.array([self._history.rows[number] for number in numbers]))
        self._choose(x, y)
        self._condition(x, y)
        if pending:
            more = self._encoding.features(np.array([self._history.rows[number] for number in pending]))
            mean, _ = self._predict(more)
            self._condition(np.concatenate([x, more]), np.concatenate([y, mean]))
        self._best = float(self._predict(x)[0].min())  # as expected: the values themselves are noisy

    def scores(self, points: Floats, generator: np.random.Generator) -> Floats:
        """Return the negated expected improvement of each point."""
        mean, deviation = self._predict(self._encoding.features(points))
        scores: Floats = -improvement(mean, deviation, self._best)
        return scores

    def lengths(self) -> Floats:
        """Return how far each parameter is correlated, (parameters,): of one with several features, the shortest."""
        found, at = [], 0
        for column, count in enumerate(self._encoding.categories):
            width = count or (2 if self._encoding.optional[column] else 1)
            found.append(1 / float(self._scales[at : at + width].max()))
            at += width
        return np.array(found)

    def _choose(self, x: Floats, y: Floats) -> None:
        """Choose the scale of each feature and the noise."""
        squares = (x.T[:, :, None] - x.T[:, None, :]) ** 2
        diagonal = math.sqrt(len(self._encoding))
        apart = np.sqrt(squares.sum(axis=0)) / diagonal
        found, length, self._noise = max(
            (_likelihood(_kernel(apart / length), noise, y), length, noise) for length in _LENGTHS for noise in _NOISES
        )
        self._scales = np.full(len(squares), 1 / (length * diagonal))
        total = np.tensordot(self._scales**2, squares, axes=1)
        for feature, square in enumerate(squares):
            before, kept = self._scales[feature], total
            for scale in (before / factor for factor in _FACTORS):
                other = np.maximum(kept + square * (scale**2 - before**2), 0.0)
                likelihood = _likelihood(_kernel(np.sqrt(other)), self._noise, y)
                if likelihood > found:
                    found, self._scales[feature], total = likelihood, scale, other

    def _condition(self, x: Floats, y: Floats) -> None:
        self._x, covariance = x, self._between(x, x)
        covariance[np.diag_indices(len(x))] += self._noise
        self._inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        self._weights = self._inverse.T @ (self._inverse @ y)

    def _predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Return the mean and the deviation of what lies under the noise."""
        between = self._between(x, self._x)
        explained = (between @ self._inverse.T) ** 2
        return between @ self._weights, np.sqrt(np.maximum(1 - explained.sum(axis=1), 1e-12))

    def _between(self, x: Floats, others: Floats) -> Floats:
        return _kernel(_apart(x * self._scales, others * self._scales))


def _apart(x: Floats, others: Floats) -> Floats:
    """Return the distances between rows, (x, others)."""
    squares = (x**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None] - 2 * x @ others.T
    distances: Floats = np.sqrt(np.maximum(squares, 0.0))
    return distances


def _kernel(distances: Floats) -> Floats:
    scaled = math.sqrt(5) * distances
    values: Floats = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    return values


def _likelihood(covariance: Floats, noise: float, y: Floats) -> float:
    """Return the logarithm of the marginal likelihood of values, but for a constant."""
    covariance = covariance + noise * np.eye(len(y))
    lower = np.linalg.cholesky(covariance)
    return -0.5 * float(y @ np.linalg.solve(covariance, y)) - float(np.log(np.diag(lower)).sum())
