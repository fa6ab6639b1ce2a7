"""MFES: a surrogate for each fidelity, weighted by how well it orders the trials at the highest one.

A Gaussian process is fitted to the values at each resource where trials were judged. How much one counts goes by how
well it puts the trials at the highest resource in order: trials are drawn from these with replacement, and its weight
is the share of the draws in which it has the fewest pairs in the wrong order (Hyper-Tune, Li et al., VLDB 2022, after
Feurer et al. 2018). The process of the highest resource itself is judged by what the other trials predict of each.
The predictions are put together as a product of experts (MFES-HB, Li et al., AAAI 2021), so the cheap values of many
trials say where to look as long as the dear ones are few, and no longer than they are right.

It departs from the papers in the processes (theirs are random forests), in that trials that run are taken to end as
each process expects (there, with the median), and in what is suggested: of a few random draws the one with the least
value in a draw from what is predicted (Thompson sampling); theirs is the highest expected improvement of many, which
came back to the same spots while trials were stopped early, and was worse than random search.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tune_platform.searchers._candidates import Modelled
from tune_platform.searchers._history import spread
from tune_platform.searchers._normal import normal_scores
from tune_platform.searchers._process import Process
from tune_platform.space.encoding import Floats

#: Trials that the process of one fidelity is fitted to at most, and how many of these are the best; fidelities that
#: are looked at, from the highest on; running trials that are looked at.
_MOST, _BEST, _LEVELS, _PENDING = 80, 40, 5, 32
_JUDGES = 5  # trials at a resource until it judges the processes
_DRAWS = 64  # of these trials, with replacement


class MFES(Modelled):
    """Gaussian processes by fidelity in NumPy; needs no extra. One metric; a space that is written as a dict.

    `random_fraction` of the suggestions are drawn at random. `candidates`: random draws that one is chosen from.
    SpecError on bad values. A suggestion takes the same time however many trials there are, for each process is fitted
    to 80 of them at most, at the five highest resources at most.
    """

    name = "mfes"
    near = 0.0

    def __init__(self, *, random_fraction: float = 0.2, candidates: int = 24) -> None:
        super().__init__(random_fraction)
        self.check("candidates", candidates, 1, 10_000, whole=True)
        self.candidates = candidates

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        return {"name": self.name, "random_fraction": self.random_fraction, "candidates": self.candidates}

    def fit(self, generator: np.random.Generator) -> bool:
        """Fit a process to each resource, and weigh them."""
        levels = {level: found for level, found in self._history.levels.items() if len(found) >= _JUDGES}
        used = sorted(levels)[-_LEVELS:]
        if not used or len(levels[used[0]]) < max(self._enough, _JUDGES):
            return False
        pending = self.features(self._history.pending(_PENDING))
        self._processes = []
        for level in used:
            picked = spread(levels[level], _BEST, _MOST)
            values = normal_scores(np.array([loss for loss, _ in picked]))
            x = self.features([number for _, number in picked])
            self._processes.append(Process(x, values, len(self._encoding)))
        predicted = [process.predict(x)[0] for process in self._processes[:-1]]
        self._weights = weigh([*predicted, self._processes[-1].left_out()], values, generator)
        for process in self._processes:
            process.believe(pending)
        return True

    def scores(self, points: Floats, generator: np.random.Generator) -> Floats:
        """Return a draw of the value of each point."""
        mean, deviation = self._together(self._encoding.features(points))
        scores: Floats = mean + deviation * generator.standard_normal(len(mean))
        return scores

    def _together(self, x: Floats) -> tuple[Floats, Floats]:
        """Return the mean and the deviation of the product of the experts, (rows,) each."""
        precision, pull = np.zeros(len(x)), np.zeros(len(x))
        for weight, process in zip(self._weights, self._processes, strict=True):
            if weight:
                mean, deviation = process.predict(x)
                precision += weight / deviation**2
                pull += weight * mean / deviation**2
        return pull / precision, precision**-0.5


def weigh(predicted: list[Floats], losses: Floats, generator: np.random.Generator) -> Floats:
    """Return the share of draws of the trials in which each prediction has the fewest pairs in the wrong order.

    `predicted` are (trials,) for each process, `losses` the values that these are to put in order. Where several
    are equally good, they share the draw.
    """
    apart = np.sign(losses[:, None] - losses[None])
    wrong = np.array([np.sign(each[:, None] - each[None]) != apart for each in predicted])
    drawn = generator.integers(len(losses), size=(_DRAWS, len(losses)))
    counts = np.array([[pairs[np.ix_(rows, rows)].sum() for rows in drawn] for pairs in wrong])
    least = counts == counts.min(axis=0)
    weights: Floats = (least / least.sum(axis=0)).mean(axis=1)
    return weights
