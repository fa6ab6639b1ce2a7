"""Experiment C: the surrogate that is optimised, and the reward that is meant (section 2.4).

The plane is theta_0 + a d + b u, where d is the step that the algorithm takes from theta_0 on a batch (a = 1 is that
step) and u a random Gaussian direction of L2 norm 2. The paper does not say how u is scaled but for "norm 2".
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from tune_platform.trainables.policy_gradient.advantages import standardise
from tune_platform.trainables.policy_gradient.agent import Agent
from tune_platform.trainables.policy_gradient.policies import flat_parameters, set_flat_parameters
from tune_platform.trainables.policy_gradient.rollout import Batch
from tune_platform.trainables.policy_gradient.sampling import Sampler, Snapshot
from tune_platform.trainables.runtime import stream_seed

Floats = NDArray[np.float64]
RANDOM_NORM = 2.0


def algorithm_step(agent: Agent, batch: Batch) -> Tensor:
    """Return the step that one update on `batch` makes, as a flat vector; the agent is left as it was."""
    learner = copy.deepcopy(agent)
    learner.update(batch)
    step: Tensor = flat_parameters(learner.policy) - flat_parameters(agent.policy)
    return step


def random_direction(agent: Agent, seed: int, norm: float = RANDOM_NORM) -> Tensor:
    """Return a Gaussian direction over the policy's parameters, rescaled to the given L2 norm."""
    draw = torch.Generator().manual_seed(stream_seed(seed, "direction"))
    direction = torch.randn(len(flat_parameters(agent.policy)), generator=draw).to(agent.device)
    return direction * (norm / float(direction.norm()))


def with_parameters(agent: Agent, parameters: Tensor) -> Agent:
    """Return a copy of the agent with another policy."""
    moved = copy.deepcopy(agent)
    set_flat_parameters(moved.policy, parameters)
    return moved


class Surrogate:
    """mean(ratio * standardised advantage) over fixed batches, as a function of the policy's parameters; 0 at
    theta_0.
    """

    def __init__(self, agent: Agent, batches: Sequence[Batch]) -> None:
        self._policy = copy.deepcopy(agent.policy)
        advantages = np.concatenate([agent.estimate(batch)[1].reshape(-1) for batch in batches])
        self._advantages = agent.tensor(standardise(advantages))
        self._observations = agent.tensor(np.concatenate([batch.flat_observations() for batch in batches]))
        self._actions = agent.tensor(np.concatenate([batch.flat_actions() for batch in batches]))
        self.pairs = len(advantages)
        with torch.no_grad():
            self._log_probs = self._policy(self._observations).log_prob(self._actions)

    @torch.no_grad()
    def __call__(self, parameters: Tensor) -> float:
        """Return the surrogate at `parameters`."""
        set_flat_parameters(self._policy, parameters)
        ratio = torch.exp(self._policy(self._observations).log_prob(self._actions) - self._log_probs)
        return float((ratio * self._advantages).double().mean())


@dataclass(frozen=True)
class LandscapeReport:
    """Surrogates and reward over a grid of `along` (multiples of the step) x `random` (multiples of u).

    `reward` is points x points x episodes: all points ran the same seeds, so that differences are paired.
    """

    iteration: int
    along: tuple[float, ...]
    random: tuple[float, ...]
    step_norm: float
    small_pairs: int
    large_pairs: int
    small: Floats
    large: Floats
    reward: Floats

    @property
    def scalars(self) -> dict[str, float]:
        """What the pictures show, along the step alone (b = 0), in numbers.

        Slopes between a = 0 and a = 1, the reward's with its standard error; Spearman's rank correlation of each
        surrogate with the reward over all a; `overfit` is S_small(1) / S_large(1).
        """
        one = self.along.index(1)
        mean = self.reward[:, 0].mean(axis=1)
        gain = self.reward[one, 0] - self.reward[0, 0]
        return {
            "surrogate_small": float(self.small[one, 0]),
            "surrogate_large": float(self.large[one, 0]),
            "reward_start": float(mean[0]),
            "reward_gain": float(gain.mean()),
            "reward_gain_se": float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float("nan"),
            "spearman_small": _spearman(self.small[:, 0], mean),
            "spearman_large": _spearman(self.large[:, 0], mean),
            "overfit": float(self.small[one, 0] / self.large[one, 0]) if self.large[one, 0] else float("nan"),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}
        return {**plain, "along": list(self.along), "random": list(self.random), "scalars": self.scalars}

    @staticmethod
    def of(plain: dict[str, Any]) -> LandscapeReport:
        """Build it again from `to_dict`."""
        names = {entry.name for entry in dataclasses.fields(LandscapeReport)}
        arrays = {name: np.array(plain[name], dtype=np.float64) for name in ("small", "large", "reward")}
        axes = {name: tuple(plain[name]) for name in ("along", "random")}
        return LandscapeReport(**{**{name: plain[name] for name in names}, **arrays, **axes})


def _spearman(a: Floats, b: Floats) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def landscape_report(
    agent: Agent,
    sampler: Sampler,
    seed: int,
    *,
    along: Sequence[float] = (0, 0.5, 1, 1.5, 2, 2.5, 3),
    random: Sequence[float] = (0,),
    large_pairs: int = 60_000,
    episodes: int = 20,
    batch: Batch | None = None,
    large: Sequence[Batch] | None = None,
    start_returns: Floats | None = None,
) -> LandscapeReport:
    """Measure the plane of one step of an agent, which is left as it was.

    The step is made, and the small surrogate measured, on `batch` (a fresh one of the settings' `pairs`), the large
    surrogate on `large` (fresh streams of `large_pairs` together). `start_returns`: of the same seed's episodes at
    theta_0, where they were measured before.
    """
    if along[0] != 0 or 1 not in along or random[0] != 0:
        raise ValueError(f"a plane begins at theta_0 and has the step itself, a = 1; got a in {along}, b in {random}")
    snapshot = Snapshot.of(agent)
    if batch is None:
        batch = sampler.streams("batch of the step", snapshot, seed, 1, agent.settings.pairs)[0]
    if large is None:
        count = max(2, min(20, large_pairs // 5000))
        large = sampler.streams("large surrogate", snapshot, seed, count, -(-large_pairs // count))
    start, step = flat_parameters(agent.policy), algorithm_step(agent, batch)
    aside = random_direction(agent, seed)
    few, many = Surrogate(agent, [batch]), Surrogate(agent, large)
    points = [[start + a * step + b * aside for b in random] for a in along]
    snapshots = [Snapshot.of(with_parameters(agent, point)) for row in points for point in row]
    known = 0 if start_returns is None else 1  # the first point of the grid, where it is theta_0
    returns = sampler.returns("true reward", snapshots[known:], seed, episodes)
    if start_returns is not None:
        returns = np.concatenate([start_returns[None], returns])
    return LandscapeReport(
        agent.iteration,
        tuple(float(a) for a in along),
        tuple(float(b) for b in random),
        float(step.norm()),
        few.pairs,
        many.pairs,
        np.array([[few(point) for point in row] for row in points]),
        np.array([[many(point) for point in row] for row in points]),
        returns.reshape(len(along), len(random), episodes),
    )
