"""Gradient boosting of regression trees for several quantiles at once (Friedman 2001, section 4.6), in NumPy.

The trees of all quantiles grow side by side, level by level, on the features' histograms, so that a fit to some hundred
rows takes a few milliseconds. A tree is fitted to the gradient of the pinball loss; the value of a leaf is the quantile
of what is left to explain there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tune_platform.space.encoding import Floats

Ints = npt.NDArray[np.int64]


class QuantileTrees:
    """Fitted to features `x` (rows, features) and targets `y` (rows,); `levels` are the quantiles, (levels,)."""

    def __init__(
        self,
        x: Floats,
        y: Floats,
        levels: Floats,
        *,
        rounds: int = 20,
        depth: int = 3,
        rate: float = 0.2,
        bins: int = 16,
        leaf: int = 3,
    ) -> None:
        self._levels, self._depth, self._leaf, self._bins = levels, depth, leaf, bins
        self._edges = np.quantile(x, np.linspace(0, 1, bins + 1)[1:-1], axis=0).T  # (features, bins - 1)
        codes = self._codes(x)
        #: whether a row goes left at each cut of each feature, (rows, features * (bins - 1)); its sums are histograms
        self._left = (codes[:, :, None] <= np.arange(bins - 1)).reshape(len(x), -1).astype(np.float64)
        count = len(levels)
        self._start = np.quantile(y, levels)
        fitted = np.repeat(self._start[:, None], len(y), axis=1)
        trees = 2**depth
        self._features: Ints = np.zeros((rounds, count, trees), dtype=np.int64)  # by the node's number in its tree
        self._cuts: Ints = np.full((rounds, count, trees), bins, dtype=np.int64)  # the last bin that goes left
        self._values = np.zeros((rounds, count, trees))
        for index in range(rounds):
            left = y - fitted
            nodes = self._grow(index, codes, levels[:, None] - (left < 0))
            values = self._leaves(nodes, left) * rate
            self._values[index] = values
            fitted += values[np.arange(count)[:, None], nodes]

    def predict(self, x: Floats) -> Floats:
        """Return the quantiles at rows, (levels, rows), in order at each row."""
        codes = self._codes(x).T  # (features, rows)
        rounds, count, _ = self._features.shape
        rows = np.arange(len(x))
        tree = np.arange(rounds * count)[:, None]
        node = np.ones((rounds * count, len(x)), dtype=np.int64)
        features, cuts = self._features.reshape(rounds * count, -1), self._cuts.reshape(rounds * count, -1)
        for _ in range(self._depth):
            node = 2 * node + (codes[features[tree, node], rows] > cuts[tree, node])
        values = self._values.reshape(rounds * count, -1)
        added = values[tree, node - 2**self._depth]
        found = self._start[:, None] + added.reshape(rounds, count, -1).sum(axis=0)
        return np.sort(found, axis=0)

    def _codes(self, x: Floats) -> Ints:
        codes = [np.searchsorted(edges, column) for edges, column in zip(self._edges, x.T, strict=True)]
        return np.stack(codes, axis=1).astype(np.int64)

    def _grow(self, index: int, codes: Ints, gradient: Floats) -> Ints:
        """Grow the trees of one round; return the leaf of each row, (levels, rows)."""
        count, bins = len(self._levels), self._bins
        rows, features = codes.shape
        own, each = np.arange(count)[:, None], np.arange(rows)
        nodes = np.zeros((count, rows), dtype=np.int64)  # within the level of the tree
        for level in range(self._depth):
            width = 2**level
            members = np.zeros((2, count, width, rows))  # who is in a node, and their gradients
            members[0][own, nodes, each], members[1][own, nodes, each] = 1.0, gradient
            found = members.reshape(-1, rows) @ self._left
            below, sums = found.reshape(2, count, width, features, bins - 1)
            whole = members.sum(axis=3)[..., None, None]
            above, others = whole[0] - below, whole[1] - sums
            gain = sums**2 / np.maximum(below, 1) + others**2 / np.maximum(above, 1)
            gain = np.where((below >= self._leaf) & (above >= self._leaf), gain, -1.0).reshape(count, width, -1)
            best = gain.argmax(axis=2)
            none = gain.max(axis=2) < 0
            feature, cut = best // (bins - 1), np.where(none, bins, best % (bins - 1))
            self._features[index, :, width : 2 * width] = feature
            self._cuts[index, :, width : 2 * width] = cut
            nodes = 2 * nodes + (codes[each, feature[own, nodes]] > cut[own, nodes])
        return nodes

    def _leaves(self, nodes: Ints, left: Floats) -> Floats:
        """Return the quantile of what is left in each leaf, (levels, leaves); 0 where no row is."""
        count, leaves = len(self._levels), 2**self._depth
        owner = np.arange(count)[:, None] * leaves + nodes
        order = np.lexsort((left.ravel(), owner.ravel()))
        values = left.ravel()[order]
        number = np.bincount(owner.ravel(), minlength=count * leaves)
        begin = np.cumsum(number) - number
        at = begin + np.floor(np.repeat(self._levels, leaves) * np.maximum(number - 1, 0) + 0.5).astype(np.int64)
        found = np.where(number > 0, values[np.minimum(at, len(values) - 1)], 0.0)
        return found.reshape(count, leaves)
