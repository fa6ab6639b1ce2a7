"""A Gaussian process in NumPy, for values with the mean 0 and the variance 1 (Rasmussen and Williams 2006).

The kernel is Matérn 5/2 over the features of a config. Its length and the noise are those of a small grid with the
highest marginal likelihood; then each feature in turn may get a shorter or a longer length of its own.
"""

from __future__ import annotations

import math

import numpy as np

from tune_platform.space.encoding import Floats

#: Lengths, as shares of the diagonal of the space, variances of the noise, of values with the variance 1, and what the
#: length of one feature is multiplied with.
_LENGTHS, _NOISES, _FACTORS = (0.1, 0.2, 0.4, 0.8), (0.01, 0.1, 0.4), (0.4, 3.0)


class Process:
    """A process fitted to rows `x`, (n, features), and values `y`, (n,), in a space of `size` parameters."""

    def __init__(self, x: Floats, y: Floats, size: int) -> None:
        self._choose(x, y, math.sqrt(size))
        self._condition(x, y)

    def believe(self, more: Floats) -> None:
        """Take rows to have the values that are expected of them (Ginsbourger et al. 2010, section 4.1)."""
        if len(more):
            mean, _ = self.predict(more)
            self._condition(np.concatenate([self.x, more]), np.concatenate([self._y, mean]))

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Return the mean and the deviation of what lies under the noise, (rows,) each."""
        between = self._between(x, self.x)
        explained = (between @ self._inverse.T) ** 2
        return between @ self._weights, np.sqrt(np.maximum(1 - explained.sum(axis=1), 1e-12))

    def left_out(self) -> Floats:
        """Return for each row the mean that the other rows predict, (n,) (Rasmussen and Williams, equation 5.12)."""
        precision = (self._inverse**2).sum(axis=0)
        predicted: Floats = self._y - self._weights / precision
        return predicted

    def _choose(self, x: Floats, y: Floats, diagonal: float) -> None:
        """Choose the scale of each feature and the noise."""
        squares = (x.T[:, :, None] - x.T[:, None, :]) ** 2
        apart = np.sqrt(squares.sum(axis=0)) / diagonal
        found, length, self._noise = max(
            (_likelihood(_kernel(apart / length), noise, y), length, noise) for length in _LENGTHS for noise in _NOISES
        )
        self.scales = np.full(len(squares), 1 / (length * diagonal))
        total = np.tensordot(self.scales**2, squares, axes=1)
        for feature, square in enumerate(squares):
            before, kept = self.scales[feature], total
            for scale in (before / factor for factor in _FACTORS):
                other = np.maximum(kept + square * (scale**2 - before**2), 0.0)
                likelihood = _likelihood(_kernel(np.sqrt(other)), self._noise, y)
                if likelihood > found:
                    found, self.scales[feature], total = likelihood, scale, other

    def _condition(self, x: Floats, y: Floats) -> None:
        self.x, self._y, covariance = x, y, self._between(x, x)
        covariance[np.diag_indices(len(x))] += self._noise
        self._inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        self._weights = self._inverse.T @ (self._inverse @ y)

    def _between(self, x: Floats, others: Floats) -> Floats:
        return _kernel(_apart(x * self.scales, others * self.scales))


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
