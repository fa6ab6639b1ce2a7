"""Running normalisation of observations and rewards: two of the code-level optimisations.

Both keep running while training collects a batch (`learn=True`) and stand still in every evaluation and
measurement: a filter that runs there would change the policy between two estimates of the same gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_EPSILON = 1e-8


class RunningStats:
    """Mean and variance of all rows seen so far, merged batch by batch (Chan et al. 1979)."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self._squares = np.zeros(size)  # sum of squared deviations from the mean

    def update(self, rows: Floats) -> None:
        """Take in `rows` (n x size)."""
        n = len(rows)
        mean = rows.sum(axis=0) / n
        deviations = rows - mean
        shift = mean - self.mean
        total = self.count + n
        self._squares += (deviations * deviations).sum(axis=0) + shift * shift * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    @property
    def std(self) -> Floats:
        """The standard deviation (of the population); one while fewer than two rows were seen."""
        if self.count < 2:
            return np.ones_like(self.mean)
        return np.sqrt(self._squares / self.count)

    def sums(self) -> Floats:
        """Return how many rows there were, and the sums of their entries and of the squares (1 + 2 size numbers).

        Added or averaged, those of several are the sums of all rows together.
        """
        first = self.count * self.mean
        return np.concatenate([[self.count], first, self._squares + first * self.mean])

    def load_sums(self, sums: Floats) -> None:
        """Take what `sums` returned, or a mean of several."""
        count, (first, second) = float(sums[0]), np.split(np.asarray(sums[1:], dtype=np.float64), 2)
        self.count = round(count)
        self.mean = first / max(count, 1.0)
        self._squares = np.maximum(second / max(count, 1.0) - self.mean**2, 0.0) * self.count

    def state(self) -> dict[str, Any]:
        """Return all numbers, as copies."""
        return {"count": self.count, "mean": self.mean.copy(), "squares": self._squares.copy()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.count = int(state["count"])
        self.mean = np.asarray(state["mean"], dtype=np.float64).copy()
        self._squares = np.asarray(state["squares"], dtype=np.float64).copy()


class ObservationNormaliser:
    """(observation - mean) / std, clipped; either part can be switched off."""

    def __init__(self, size: int, *, on: bool, clip: float) -> None:
        self.on = on
        self.clip = clip
        self.stats = RunningStats(size)

    def __call__(self, raw: Floats, *, learn: bool) -> NDArray[np.float32]:
        """Return `raw` (n x size) as the networks see it, after taking it into the statistics if it is to be
        learned.
        """
        if self.on:
            if learn:
                self.stats.update(raw)
            raw = (raw - self.stats.mean) / (self.stats.std + _EPSILON)
        if self.clip:
            raw = np.minimum(np.maximum(raw, -self.clip), self.clip)
        return raw.astype(np.float32)


class RewardScaler:
    """reward / std of the running discounted return, clipped; the mean is not taken off.

    The return of an environment starts anew with each episode, after a time limit as well.
    """

    def __init__(self, envs: int, gamma: float, *, on: bool, clip: float) -> None:
        self.on = on
        self.clip = clip
        self.gamma = gamma
        self.stats = RunningStats(1)
        self.returns = np.zeros(envs)

    def __call__(self, rewards: Floats, done: NDArray[np.bool_], *, learn: bool) -> Floats:
        """Return the scaled rewards (n); `done` says whose episode ends with them."""
        if self.on:
            if learn:
                self.returns = self.gamma * self.returns + rewards
                self.stats.update(self.returns[:, None])
                self.returns = np.where(done, 0.0, self.returns)
            rewards = rewards / self.scale
        if self.clip:
            rewards = np.clip(rewards, -self.clip, self.clip)
        return rewards

    @property
    def scale(self) -> float:
        """What rewards are divided by at present."""
        return float(self.stats.std[0]) + _EPSILON if self.on else 1.0

    def state(self) -> dict[str, Any]:
        """Return all numbers, as copies."""
        return {"stats": self.stats.state(), "returns": self.returns.copy()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned; with another number of environments their returns start at zero."""
        self.stats.load_state(state["stats"])
        returns = np.asarray(state["returns"], dtype=np.float64).copy()
        self.returns = returns if len(returns) == len(self.returns) else np.zeros_like(self.returns)
