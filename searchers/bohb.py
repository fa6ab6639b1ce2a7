"""BOHB's searcher (Falkner, Klein and Hutter, ICML 2018, Algorithm 2): TPE at the highest fidelity that is known.

At the highest resource where enough trials were judged, these are split into the good ones (the best quarter) and the
bad ones, a density l is fitted to the good and g to the bad, and of points drawn from a wider l the one with the
highest l(x) / g(x) is suggested. A share of the suggestions is drawn at random, so that the search finds the optimum as
random search does, if no model helps. A value is compared only with values at the same resource: a trial that was
stopped at step 1 says what is good at step 1, and nothing any more once enough trials have gone further.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tune_platform.searchers._learner import Learner
from tune_platform.space.encoding import Encoding, Floats

#: Trials that a density is fitted to at most: the best, and of the others an even choice over their ranks.
_MOST_GOOD, _MOST_BAD = 64, 192
_TRIES = 10  # points, from the best on, until one meets the constraints
_NARROWEST = 0.05  # bandwidth; the noise of a value reaches farther than a few good trials
_UNLIKE = 0.1  # weight of a trial that lacks a parameter, for a point that has it


class BOHB(Learner):
    """TPE by fidelity, in NumPy; needs no extra. One metric; a space that is written as a dict.

    `random_fraction` of the suggestions are drawn at random (the paper's 1/3). `quantile`: the share of trials that
    count as good. `candidates`: points drawn for a suggestion. `widen`: how much wider than fitted they are drawn.
    Raises SpecError on bad values. A suggestion takes the same time however many trials there are: the densities are
    fitted to 64 good and 192 bad trials at most.
    """

    name = "bohb"

    def __init__(
        self, *, random_fraction: float = 1 / 3, quantile: float = 0.25, candidates: int = 16, widen: float = 3.0
    ) -> None:
        super().__init__(random_fraction)
        self.check("quantile", quantile, 0, 1)
        self.check("candidates", candidates, 1, 10_000)
        self.check("widen", widen, 1, 100)
        self.quantile = quantile
        self.candidates, self.widen = int(candidates), widen

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        options = {"random_fraction": self.random_fraction, "quantile": self.quantile}
        return {"name": "bohb", **options, "candidates": self.candidates, "widen": self.widen}

    def suggest(self, generator: np.random.Generator, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the best of some points."""
        split = self._split()
        if split is None or not len(self._encoding):
            return None
        good, bad = split
        points = _draw(self._encoding, good, self.candidates, self.widen, generator)
        points = self._encoding.settle(points, fixed)
        scores = density(self._encoding, good, points) - density(self._encoding, bad, points)
        for index in np.argsort(-scores, kind="stable")[:_TRIES]:
            config, _ = self._encoding.config(points[index], fixed)
            if self.allowed(config):
                return config
        return None

    def _split(self) -> tuple[Floats, Floats] | None:
        """Return the rows of good and of bad trials: each at least one more than there are parameters."""
        ranked = self._history.best(2 * self._enough + 2)
        if not ranked:
            return None
        count = max(self._enough, int(self.quantile * len(ranked)))
        good = [number for _, number in ranked[: min(count, _MOST_GOOD)]]
        rest = len(ranked) - count
        picked = np.unique(np.linspace(count, len(ranked) - 1, min(rest, _MOST_BAD)).astype(int))
        bad = [ranked[index][1] for index in picked] + list(self._history.worst[:_MOST_BAD])
        rows = self._history.rows
        return np.array([rows[number] for number in good]), np.array([rows[number] for number in bad])


def _widths(rows: Floats) -> Floats:
    """Scott's rule for each parameter, (parameters,)."""
    count, size = rows.shape
    there = ~np.isnan(rows)
    known = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there, rows, 0.0).sum(axis=0) / known
    spread = np.sqrt((np.where(there, rows - mean, 0.0) ** 2).sum(axis=0) / known)
    widths: Floats = np.maximum(spread * count ** (-1.0 / (4 + size)), _NARROWEST)
    return widths


def _draw(encoding: Encoding, rows: Floats, count: int, widen: float, generator: np.random.Generator) -> Floats:
    """Draw points around the good trials, (count, parameters); what such a trial does not have is uniform."""
    centres = rows[generator.integers(len(rows), size=count)]
    noise = generator.standard_normal(centres.shape) * _widths(rows) * widen
    uniform = generator.random(centres.shape)
    points = centres + noise
    points = np.where((points < 0) | (points > 1), uniform * 0.5 + np.clip(centres, 0, 1) * 0.5, points)
    for column, size in enumerate(encoding.categories):
        if size:  # another category now and then
            other = generator.random(count) < min(widen / (len(rows) + widen), 0.5)
            points[:, column] = np.where(other, uniform[:, column], centres[:, column])
    drawn: Floats = np.where(np.isnan(centres), uniform, points)
    return drawn


def density(encoding: Encoding, rows: Floats, points: Floats) -> Floats:
    """Return the logarithm of the density of `rows` at points, (points,): a product of kernels, averaged."""
    widths = _widths(rows)
    logs = np.zeros((len(points), len(rows)))
    for column, size in enumerate(encoding.categories):
        here, there = points[:, column][:, None], rows[:, column][None, :]
        if size:
            stay = 1 - 1 / (len(rows) + 1)
            kernel = np.where(np.abs(here - there) < 0.5 / size, stay, (1 - stay) / max(size - 1, 1))
        else:
            kernel = np.exp(-0.5 * ((here - there) / widths[column]) ** 2) / widths[column] + 1e-6
        kernel = np.where(np.isnan(here) | np.isnan(there), _UNLIKE, kernel)
        logs += np.log(np.where(np.isnan(here) & np.isnan(there), 1.0, kernel))
    top = logs.max(axis=1, keepdims=True)
    density: Floats = top[:, 0] + np.log(np.exp(logs - top).mean(axis=1))
    return density
