"""What lies between the rows of a table: trees that are fitted to its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tune_platform.extras import require
from tune_platform.space import Space
from tune_platform.space.encoding import Encoding

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: How many trees; how many answers are kept, for a trial asks for each of its steps.
TREES, KEPT = 32, 20_000


class Surrogate:
    """`surrogate(config)` are the curves of a config: extremely randomised trees (Geurts, Ernst and Wehenkel 2006).

    One forest gives all metrics and the seconds (their logarithm) at all steps. Its leaves hold one row each, so the
    rows of the table are answered with themselves, and a config between them with a mixture of those around it: no
    value is better than the best of the table. What a row does not have behind its end counts as its last value; a row
    that has no value at its first step is left out. Needs scikit-learn (extra `samplers`), or MissingLibraryError.

    `arrays` are those of each metric, (configs, steps), `seconds` has the same shape.
    """

    def __init__(
        self,
        space: Space,
        configs: Sequence[Mapping[str, Any]],
        arrays: Mapping[str, NDArray[Any]],
        seconds: NDArray[Any],
    ) -> None:
        require("a surrogate between the rows of a table", "sklearn")
        from sklearn.ensemble import ExtraTreesRegressor

        self._encoding, self._names, self._steps = Encoding(space), list(arrays), seconds.shape[1]
        parts = [*arrays.values(), np.log(np.maximum(seconds, 1e-9))]
        known = np.all([np.isfinite(part[:, 0]) for part in parts], axis=0)
        rows = np.array([self._encoding.row(config) for config in configs]).reshape(len(configs), len(self._encoding))
        targets = np.concatenate([_filled(part[known]) for part in parts], axis=1)
        self._mean = targets.mean(axis=0) if len(targets) else np.full(targets.shape[1], np.nan)
        self._trees: Sequence[Any] = ()
        if len(targets) and len(self._encoding):
            spread = targets.std(axis=0)
            self._scale = np.where(spread, spread, 1.0)  # a metric in thousands outweighs no other
            x = self._encoding.features(rows[known])
            self._trees = ExtraTreesRegressor(TREES, random_state=0, n_jobs=1).fit(x, targets / self._scale).estimators_
        self._kept: dict[str, tuple[dict[str, list[float]], list[float]]] = {}

    def __call__(self, config: Mapping[str, Any]) -> tuple[dict[str, list[float]], list[float]]:
        """Return the values of each metric at each step, and the seconds of each. SpecError outside of the space."""
        key = repr(config)
        if (found := self._kept.get(key)) is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            found = self._kept[key] = self._answer(config)
        return found

    def _answer(self, config: Mapping[str, Any]) -> tuple[dict[str, list[float]], list[float]]:
        x = self._encoding.features(self._encoding.row(config)[None]).astype(np.float32)
        if self._trees:
            flat = np.mean([tree.predict(x, check_input=False)[0] for tree in self._trees], axis=0) * self._scale
        else:
            flat = self._mean
        *values, seconds = flat.reshape(-1, self._steps)
        named = {name: array.tolist() for name, array in zip(self._names, values, strict=True)}
        return named, np.exp(seconds).tolist()


def _filled(array: NDArray[Any]) -> NDArray[Any]:
    """Return curves, (configs, steps), that go on behind their ends with their last value."""
    at = np.where(np.isfinite(array), np.arange(array.shape[1]), 0)
    filled: NDArray[Any] = np.take_along_axis(array.astype(float), np.maximum.accumulate(at, axis=1), axis=1)
    return filled
