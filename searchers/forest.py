"""SMAC's searcher (Hutter, Hoos and Leyton-Brown, LION 2011; Lindauer et al., JMLR 2022): a random forest and EI.

A forest is fitted to the value as a function of the config; the mean and the spread of its trees give the expected
improvement over the best. Trees split on what is there, so that conditional parameters and categories come natural
to them. The losses are ranked first, so that outliers do not matter (SMAC takes their logarithm). Trials that run and
have no value yet are taken to end with a middling value (a constant liar; Ginsbourger et al. 2010, section 4.2), so
that none is suggested right beside them meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tune_platform.extras import require
from tune_platform.searchers._candidates import Modelled
from tune_platform.searchers._history import spread
from tune_platform.searchers._normal import improvement, normal_scores
from tune_platform.space.encoding import Floats

#: Trials that the forest is fitted to at most, how many of these are the best; the others lie evenly over the ranks.
_MOST, _BEST = 256, 96
_PENDING = 32  # running trials that are looked at


class Forest(Modelled):
    """A random forest of scikit-learn (extra `samplers`). One metric; a space that is written as a dict.

    `random_fraction` of the suggestions are drawn at random. `trees`: how many the forest has. `candidates`: points
    that are judged for a suggestion. SpecError on bad values. A suggestion takes the same time however many trials
    there are, for the forest is fitted to 256 of them at most.
    """

    name = "forest"

    def __init__(self, *, random_fraction: float = 0.25, trees: int = 10, candidates: int = 400) -> None:
        super().__init__(random_fraction)
        self.check("trees", trees, 2, 1000, whole=True)
        self.check("candidates", candidates, 1, 10_000, whole=True)
        require("searcher 'forest'", "sklearn")
        self.trees, self.candidates = trees, candidates

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        options = {"random_fraction": self.random_fraction, "trees": self.trees}
        return {"name": "forest", **options, "candidates": self.candidates}

    def fit(self, generator: np.random.Generator) -> bool:
        """Grow the forest."""
        from sklearn.ensemble import RandomForestRegressor

        ranked = self._history.ranked(max(self._enough, 10))
        if not ranked:
            return False
        picked = spread(ranked, _BEST, _MOST)
        pending = self._history.pending(_PENDING)
        rows = np.array([self._history.rows[number] for number in [*(number for _, number in picked), *pending]])
        known = normal_scores(np.array([loss for loss, _ in picked]))
        x, y = self._encoding.features(rows), np.concatenate([known, np.zeros(len(pending))])
        seed = int(generator.integers(2**31))
        self._forest = RandomForestRegressor(
            self.trees, min_samples_split=3, max_features=5 / 6, random_state=seed, n_jobs=1
        ).fit(x, y)
        self._best = float(y.min())
        return True

    def scores(self, points: Floats, generator: np.random.Generator) -> Floats:
        """Return the negated expected improvement of each point."""
        x = self._encoding.features(points)
        each = np.array([tree.predict(x.astype(np.float32), check_input=False) for tree in self._forest.estimators_])
        mean, deviation = each.mean(axis=0), np.maximum(each.std(axis=0), 1e-3)
        scores: Floats = -improvement(mean, deviation, self._best)
        return scores
