"""TuRBO: Bayesian optimisation in a trust region (Eriksson, Pearce, Gardner, Turner and Poloczek, NeurIPS 2019).

With many parameters a model of the whole space knows little anywhere, and looks where it knows least: at the edges. So
the Gaussian process of `bo` is fitted to the trials of one region alone, and candidates are drawn only in a box around
the best of these, whose sides go by the lengths that the process found for each parameter. Three improvements in a row
double the box, some failures in a row halve it, and where it has become tiny the search begins a new region, with
random trials. The losses are not ranked, as in `bo`, for within a region it matters by how much one is better; what is
worse than most counts as equally bad.

It departs from the paper in what was better with 100 trials, 8 at a time: the candidate with the highest expected
improvement is suggested, while those that run are taken to end as expected (the paper draws functions from the
process), and a candidate differs from the centre in a number of parameters that is drawn as well.

The region of a trial is kept in its note; how large the region is by now, is found by going through its trials in the
order of their numbers, so that a resumed search knows the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tune_platform.protocol.searcher import PastTrial, Suggestion
from tune_platform.searchers._history import spread
from tune_platform.searchers.bo import BO
from tune_platform.space import Space
from tune_platform.space.encoding import Floats

#: Sides of the box, as shares of the range of a parameter: at first, at most, and where a region is given up.
_FIRST, _WIDEST, _NARROWEST = 0.8, 1.6, 0.5**7
_SUCCESSES = 3  # in a row, until the box is doubled
_BETTER = 1e-3  # an improvement, as a share of the best value
_ALIKE = 0.6  # the quantile of a region's losses from which on all count as equally bad
_MOST, _BEST = 160, 96  # as in `bo`, but more of the best: the others lie outside of the box


class TuRBO(BO):
    """A Gaussian process in a trust region, in NumPy; needs no extra. One metric; a space that is written as a dict.

    `initial`: random trials at the beginning of each region; by default half as many as there are parameters, five at
    least. `failures`: trials in a row without an improvement, until the box is halved; by default 0.4 of the number of
    parameters, five at least. `candidates`: points that are judged for a suggestion. SpecError on bad values.
    A suggestion takes about the same time however many trials there are: the process is fitted to 160 of them at most.
    """

    name = "turbo"

    def __init__(self, *, initial: int | None = None, failures: int | None = None, candidates: int = 1000) -> None:
        super().__init__(random_fraction=0.0, candidates=candidates)
        for option, value in (("initial", initial), ("failures", failures)):
            if value is not None:
                self.check(option, value, 1, 100_000, whole=True)
        self.initial, self.failures = initial, failures

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        options = {"initial": self.initial, "failures": self.failures, "candidates": self.candidates}
        return {"name": self.name, **options}

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Take the space. Raises SpecError for several metrics, a function, and constraints that nothing meets."""
        super().setup(space, mode=mode, seed=seed)
        size = len(self._encoding)
        self._begin = self.initial or max(math.ceil(size / 2), 5)
        self._patience = self.failures or max(math.ceil(0.4 * size), 5)
        self._regions: list[dict[int, bool]] = [{}]  # the trials of each, and whether the model suggested them

    def ask(self, number: int) -> Suggestion | None:
        """Suggest the config of trial `number`; its note has the region."""
        self._look()
        if self._side < _NARROWEST:
            self._regions.append({})
            self._look()
        found = super().ask(number)
        if found is None:
            return None
        memo = {**(found.memo or {}), "region": len(self._regions) - 1}
        self._regions[-1][number] = "model" in memo
        return Suggestion(found.config, memo)

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        """Hear of a trial with a config of its own, which belongs to the present region."""
        super().observe(number, config)
        self._regions[-1][number] = False

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Hear the whole past."""
        super().restore(past)
        for trial in past:
            memo = trial.memo or {}
            while len(self._regions) <= memo.get("region", 0):
                self._regions.append({})
            self._regions[-1][trial.number] = "model" in memo

    def fit(self, generator: np.random.Generator) -> bool:
        """Fit the process to the region's trials; those without a value count as it expects them to end."""
        ranked = sorted((loss, number) for number, loss in self._losses)
        if len(ranked) < self._begin:
            return False
        picked = spread(ranked, _BEST, _MOST)
        self.fit_to([number for _, number in picked], _standard(np.array([loss for loss, _ in picked])))
        return True

    def _drawn(self, generator: np.random.Generator) -> Floats:
        """Draw candidates in the box around the best trial of the region."""
        center = self._history.rows[min((loss, number) for number, loss in self._losses)[1]]
        lengths = self.lengths()
        sides = self._side * lengths / np.exp(np.log(lengths).mean())
        low, high = (np.clip(center + sign * sides / 2, 0, 1) for sign in (-1, 1))
        uniform = generator.random((self.candidates, len(center)))
        unordered = np.array(self._encoding.categories) > 0
        inside = np.where(unordered, uniform, low + (high - low) * uniform)
        share = np.maximum(generator.random((len(inside), 1)), 1.5 / len(center))
        changed = generator.random(inside.shape) < share
        changed[np.arange(len(inside)), generator.integers(len(center), size=len(inside))] = True
        points: Floats = np.where(np.isnan(center), uniform, np.where(changed, inside, center))
        return points

    def _look(self) -> None:
        """Note the trials of the present region that have a value, in order, and the side of the box by then."""
        found = ((number, self._history.farthest(number)) for number in self._regions[-1])
        self._losses = [(number, told[1]) for number, told in found if told is not None]
        side, best, better, worse = _FIRST, math.inf, 0, 0
        modelled = self._regions[-1]
        for number, loss in self._losses:
            if not modelled[number]:
                best = min(best, loss)
                continue
            improved = best == math.inf or loss < best - _BETTER * abs(best)
            better, worse = (better + 1, 0) if improved else (0, worse + 1)
            best = min(best, loss)
            if better == _SUCCESSES:
                side, better = min(2 * side, _WIDEST), 0
            elif worse == self._patience:
                side, worse = side / 2, 0
        self._side = side  # a share of each parameter's range


def _standard(losses: Floats) -> Floats:
    """Return losses with the mean 0 and the variance 1, those beyond a quantile cut down to it."""
    cut = np.minimum(losses, np.quantile(losses, _ALIKE))
    standard: Floats = (cut - cut.mean()) / (cut.std() + 1e-12)
    return standard
