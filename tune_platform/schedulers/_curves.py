"""Learning curves carried on to their end: an ensemble of parametric curves with a prior pooled over the trials.

The loss of a trial at a share u of the horizon is taken for (Swersky et al. 2014, section 3, has a kernel here)

    z(u) = m + a * psi_b(u) + w(u) + e,   psi_b(1) = 0,   psi_b = 1 at the first level,

with m the value at the end, psi_b one of a grid of power, exponential and sigmoid shapes, w a Brownian bridge that ends
at the horizon (what no shape explains, less the nearer the end), and e the noise of one value. (m, a) have a normal
prior, so that all is in closed form for each shape, and the shapes are weighted by their evidence. The prior, the
weights of the shapes and both variances are those that the curves of the experiment make likely (empirical Bayes, by
expectation and maximization).

Losses are looked at on a logarithmic scale above the best known, so that the few that diverge do not stretch all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

#: The shapes b: of u^-b (0: of -log u), of exp(-b u) (0: of 1 - u), and of 1 / (1 + (u / b)^2).
_POWERS, _RATES, _BENDS = (0.0, 0.5, 1.0, 2.0), (0.0, 3.0, 8.0, 20.0), (0.1, 0.3)
_NOISES, _DRIFTS = (0.02, 0.06, 0.2, 0.5), (0.1, 0.25, 0.6, 1.5)
#: What counts as prior knowledge, in curves; the points of a curve that are looked at; how often EM goes round.
_WEIGHT, _POINTS, _ROUNDS = 2.0, 12, 4
_FLOOR = 0.1  # of the scale: losses nearer to the best than this are compared linearly
_FIRST_MEAN, _FIRST_COVARIANCE = np.array([-0.5, 0.5]), np.array([[1.0, 0.0], [0.0, 1.0]])


class Part(NamedTuple):
    """One shape's forecast of the end: weights add up to 1."""

    weight: float
    mean: float
    sd: float


class Solved(NamedTuple):
    """What all curves of one length share, for each shape."""

    kept: Indices  # the levels that are looked at
    after: Floats  # the covariance of (m, a) once they are seen, (shapes, 2, 2)
    gain: Floats  # of (m, a) by what is unexpected, (shapes, 2, levels)
    root: Floats  # inverse root of the covariance of what is seen, (shapes, levels, levels)
    log_norm: Floats  # logarithm of the factor of its density, (shapes,)

    def log_density(self, off: Floats) -> Floats:
        """Return the log density of curves that are so far off what is expected, (shapes, curves, levels)."""
        found: Floats = self.log_norm[:, None] - 0.5 * ((off @ self.root.transpose(0, 2, 1)) ** 2).sum(axis=2)
        return found


class Curves:
    """The model; `points` are the levels as shares of the horizon, rising to 1. Losses are such that less is better."""

    def __init__(self, points: Sequence[float]) -> None:
        self._points = np.asarray(points, dtype=np.float64)
        self._shapes = _shapes(self._points)
        self._mean, self._covariance = _FIRST_MEAN, _FIRST_COVARIANCE
        self._share = np.full(len(self._shapes), 1 / len(self._shapes))
        self._noise, self._drift, self._low, self._scale = _NOISES[2], _DRIFTS[2], 0.0, 1.0
        self._solved: dict[int, Solved] = {}  # by length

    def warp(self, loss: float) -> float:
        """Return a loss on the scale of the model: logarithmic above the best that was known at the last fit."""
        share = (loss - self._low) / self._scale
        return math.log(_FLOOR + share) if share > 0 else math.log(_FLOOR) + max(share, -1e6) / _FLOOR

    def outgrown(self, loss: float) -> bool:
        """Whether a loss is so far below those that were fitted that the scale has no room for it."""
        return loss < self._low - self._scale * _FLOOR / 4

    def forecast(self, curve: Sequence[float]) -> list[Part]:
        """Return what the loss at the horizon will be, warped, given the losses at the first levels, also at none."""
        count = len(curve)
        if count not in self._solved:
            self._solved[count] = self._solve(count, self._noise, self._drift)
        solved = self._solved[count]
        off = np.array([[self.warp(curve[level]) for level in solved.kept]]) - self._expected(solved.kept)
        means = self._mean[0] + (solved.gain[:, 0, :] * off).sum(axis=1)
        sd = np.sqrt(np.maximum(solved.after[:, 0, 0], 1e-12))
        log_weight = np.log(self._share) + solved.log_density(off[:, None, :])[:, 0]
        weights = np.exp(log_weight - log_weight.max())
        weights /= weights.sum()
        return [Part(*map(float, part)) for part in zip(weights, means, sd, strict=True) if part[0] > 1e-4]

    def fit(self, curves: Sequence[Sequence[float]]) -> None:
        """Fit scale, prior and variances to curves of one value or more each."""
        lasts = np.array([curve[-1] for curve in curves])
        self._low = float(min(min(curve) for curve in curves))
        spread = float(np.median(lasts)) - self._low
        self._scale = spread if spread > 0 else abs(self._low) or 1.0
        by_length: dict[int, list[Sequence[float]]] = {}
        for curve in curves:
            by_length.setdefault(len(curve), []).append(curve)
        groups = [
            (count, np.array([[self.warp(curve[level]) for level in _kept(count)] for curve in group]))
            for count, group in sorted(by_length.items())
        ]
        self._mean, self._covariance = _FIRST_MEAN, _FIRST_COVARIANCE
        self._share = np.full(len(self._shapes), 1 / len(self._shapes))
        for turn in range(_ROUNDS):
            if turn == 1:
                self._drift = max(_DRIFTS, key=lambda drift: self._evidence(groups, self._noise, drift))
            elif turn == 2:
                self._noise = max(_NOISES, key=lambda noise: self._evidence(groups, noise, self._drift))
            self._improve(groups, len(curves))
        self._solved.clear()

    def state(self) -> dict[str, Any]:
        """Return what was fitted as plain data."""
        return {
            "mean": self._mean.tolist(), "covariance": self._covariance.tolist(), "share": self._share.tolist(),
            "noise": self._noise, "drift": self._drift, "low": self._low, "scale": self._scale,
        }  # fmt: skip

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._mean, self._covariance, self._share = (
            np.array(data[name], dtype=np.float64) for name in ("mean", "covariance", "share")
        )
        self._noise, self._drift, self._low, self._scale = (data[n] for n in ("noise", "drift", "low", "scale"))
        self._solved.clear()

    # ------------------------------------------------------------------------------- closed forms

    def _expected(self, kept: Indices) -> Floats:
        found: Floats = self._mean[0] + self._mean[1] * self._shapes[:, kept]
        return found

    def _solve(self, count: int, noise: float, drift: float) -> Solved:
        kept = _kept(count)
        psi, left = self._shapes[:, kept], 1 - self._points[kept]
        design = np.stack([np.ones_like(psi), psi], axis=2)  # (shapes, levels, 2)
        extra = noise**2 * np.eye(len(kept)) + drift**2 * np.minimum(left[:, None], left[None, :])
        cross = self._covariance @ design.transpose(0, 2, 1)
        root = np.linalg.inv(np.linalg.cholesky(design @ cross + extra))
        gain = cross @ root.transpose(0, 2, 1) @ root
        after = self._covariance - gain @ cross.transpose(0, 2, 1)
        log_norm = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1) - 0.5 * len(kept) * math.log(2 * math.pi)
        return Solved(kept, after, gain, root, log_norm)

    def _densities(self, solved: Solved, seen: Floats) -> tuple[Floats, Floats]:
        """Return log share + log density of each curve under each shape, (shapes, curves), and what is unexpected."""
        off = seen[None] - self._expected(solved.kept)[:, None, :]  # (shapes, curves, levels)
        return np.log(self._share)[:, None] + solved.log_density(off), off

    def _evidence(self, groups: Sequence[tuple[int, Floats]], noise: float, drift: float) -> float:
        """Return the log density of all curves, were these the noise and the drift."""
        found = (self._densities(self._solve(count, noise, drift), seen)[0] for count, seen in groups)
        return sum(float(np.logaddexp.reduce(logs, axis=0).sum()) for logs in found)

    def _improve(self, groups: Sequence[tuple[int, Floats]], total: int) -> None:
        """One round of EM over the prior of (m, a) and the weights of the shapes."""
        first, second = _WEIGHT * _FIRST_MEAN, np.zeros((2, 2))
        known, shares = [], np.ones(len(self._shapes))
        for count, seen in groups:
            solved = self._solve(count, self._noise, self._drift)
            logs, off = self._densities(solved, seen)
            weights = np.exp(logs - np.logaddexp.reduce(logs, axis=0))
            means = self._mean + off @ solved.gain.transpose(0, 2, 1)  # (shapes, curves, 2)
            first = first + (weights[..., None] * means).sum(axis=(0, 1))
            second = second + (weights.sum(axis=1)[:, None, None] * solved.after).sum(axis=0)
            shares += weights.sum(axis=1)
            known.append((weights, means))
        mean = first / (total + _WEIGHT)
        for weights, means in known:
            apart = means - mean
            second = second + np.einsum("sc,sci,scj->ij", weights, apart, apart)
        self._mean = mean
        self._covariance = (second + _WEIGHT * _FIRST_COVARIANCE) / (total + _WEIGHT)
        self._share = shares / shares.sum()


@cache
def _kept(count: int) -> Indices:
    """Return which of the first levels are looked at: all, or some evenly among many, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(np.int64))


def _shapes(points: Floats) -> Floats:
    """Return psi of each shape at each point, (shapes, points)."""
    found = [points**-power if power else -np.log(points) for power in _POWERS]
    found += [np.exp(-rate * points) if rate else 1 - points for rate in _RATES]
    found += [1 / (1 + (points / bend) ** 2) for bend in _BENDS]
    falls = np.array(found)
    falls -= falls[:, -1:]
    shapes: Floats = falls / np.maximum(falls[:, :1], 1e-300)
    return shapes
