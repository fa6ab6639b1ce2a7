"""Searchers that fit a model to what is known, draw candidates, and suggest the one that the model likes best.

Some of the candidates are drawn from the whole space and some lie near the best trials, where they differ from one in
a few parameters: SMAC's local search (Hutter et al., LION 2011, section 4.3), in one step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tune_platform.searchers._learner import Learner
from tune_platform.searchers._one_thread import one_thread
from tune_platform.space.encoding import Floats

_TRIES = 20  # candidates, from the best on, until one is allowed
_PARENTS = 10  # trials that candidates lie near


class Modelled(Learner):
    """A learner whose model gives each of `candidates` points a score; the point with the least is suggested."""

    candidates = 400
    near = 0.5  #: the share of the candidates that lie near the best trials

    def suggest(self, generator: np.random.Generator, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the candidate with the least score that is allowed; None where there is no model yet."""
        if not len(self._encoding):
            return None
        with one_thread():
            if not self.fit(generator):
                return None
            points = self._encoding.settle(self._drawn(generator), fixed)
            scores = self.scores(points, generator)
        for index in np.argsort(scores, kind="stable")[:_TRIES]:
            config, _ = self._encoding.config(points[index], fixed)
            if self.allowed(config):
                return config
        return None

    @abstractmethod
    def fit(self, generator: np.random.Generator) -> bool:
        """Fit the model; return whether enough is known."""

    @abstractmethod
    def scores(self, points: Floats, generator: np.random.Generator) -> Floats:
        """Return the score of each of the points, (points,)."""

    def features(self, numbers: Sequence[int]) -> Floats:
        """Return the features of trials, (trials, features)."""
        rows = [self._history.rows[number] for number in numbers]
        return self._encoding.features(np.array(rows).reshape(-1, len(self._encoding)))

    def parents(self) -> list[int]:
        """Return the numbers of the best trials, at the highest fidelity that is known of enough of them."""
        return [number for _, number in self._history.best(self._enough)[:_PARENTS]]

    def _drawn(self, generator: np.random.Generator) -> Floats:
        count, size = self.candidates, len(self._encoding)
        uniform = generator.random((count, size))
        parents = self.parents() if self.near else []
        if not parents:
            return uniform
        rows = np.array([self._history.rows[number] for number in parents])
        near = rows[generator.integers(len(rows), size=int(count * self.near))]
        width = 10.0 ** generator.uniform(-2, -0.5, size=(len(near), 1))
        moved = np.abs(near + width * generator.standard_normal(near.shape))
        moved = np.where(moved > 1, np.clip(2 - moved, 0, 1), moved)
        other = uniform[: len(near)]
        unordered = np.array(self._encoding.categories) > 0
        moved = np.where(unordered, other, moved)
        changed = generator.random(near.shape) < np.maximum(generator.random((len(near), 1)), 1.5 / size)
        drawn = np.where(np.isnan(near), other, np.where(changed, moved, near))
        return np.concatenate([drawn, uniform[len(near) :]])
