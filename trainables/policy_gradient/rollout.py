"""Collecting state-action pairs with a policy that stands still while it acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tune_platform.trainables.policy_gradient.environments import Environments
from tune_platform.trainables.policy_gradient.normalise import ObservationNormaliser, RewardScaler
from tune_platform.trainables.policy_gradient.policies import Actor
from tune_platform.trainables.runtime import stream_seed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """Steps x environments pairs, as the networks see them.

    `observations` (steps x envs x size) are normalised, `actions` are the policy's own, unclipped, `rewards` are
    scaled, `raw_rewards` are not. `after` holds the observation that follows each step in its own episode only where
    the next row does not: `after_index` has the (step, environment) of each row: ends of episodes and the end of the
    batch. `times` counts the steps since the beginning of the episode. `episode_*` tell of the episodes that ended
    here.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.generic]
    rewards: Floats
    raw_rewards: Floats
    terminated: Bools
    truncated: Bools
    times: NDArray[np.int64]
    after: NDArray[np.float32]
    after_index: NDArray[np.int64]
    episode_returns: tuple[float, ...] = ()
    episode_lengths: tuple[int, ...] = ()

    @property
    def pairs(self) -> int:
        """How many state-action pairs there are."""
        return int(self.rewards.size)

    @property
    def done(self) -> Bools:
        """Where an episode ends, however it ends."""
        return self.terminated | self.truncated

    def flat_observations(self) -> NDArray[np.float32]:
        """Return the observations as (steps * envs) x size."""
        return self.observations.reshape(-1, self.observations.shape[-1])

    def flat_actions(self) -> NDArray[np.generic]:
        """Return the actions as (steps * envs) x actions, or (steps * envs) where they are discrete."""
        return self.actions.reshape(self.pairs, *self.actions.shape[2:])

    def window(self, env: int, start: int = 0, stop: int | None = None) -> Batch:
        """Return the steps from `start` to before `stop` of one environment, as a batch of its own."""
        stop = len(self.rewards) if stop is None else stop
        if not 0 <= start < stop <= len(self.rewards):
            raise ValueError(f"steps {start} to {stop} were asked for, and there are {len(self.rewards)}")
        rows = (slice(start, stop), slice(env, env + 1))
        chosen = (self.after_index[:, 1] == env) & (self.after_index[:, 0] >= start) & (self.after_index[:, 0] < stop)
        after, index = self.after[chosen], self.after_index[chosen] - np.array([start, env])
        if stop < len(self.rewards) and not self.done[stop - 1, env]:
            after = np.concatenate([after, self.observations[stop, env][None]])
            index = np.concatenate([index, [[stop - 1 - start, 0]]])
        return Batch(
            self.observations[rows], self.actions[rows], self.rewards[rows], self.raw_rewards[rows],
            self.terminated[rows], self.truncated[rows], self.times[rows], after, index,
        )  # fmt: skip


def collect(
    environments: Environments,
    actor: Actor,
    normaliser: ObservationNormaliser,
    scaler: RewardScaler,
    draw: np.random.Generator,
    steps: int,
    *,
    learn: bool,
) -> Batch:
    """Step all environments on from where they are, `steps` times, acting with noise from `draw`.

    With `learn` the observation and reward statistics take in what they see, step by step; without it they stand
    still, as they must in every measurement.
    """
    count = len(environments.envs)
    size = environments.sizes.observation
    observations = np.empty((steps, count, size), dtype=np.float32)
    rewards, raw_rewards = np.empty((steps, count)), np.empty((steps, count))
    terminated, truncated = np.zeros((steps, count), dtype=bool), np.zeros((steps, count), dtype=bool)
    times = np.empty((steps, count), dtype=np.int64)
    actions: list[NDArray[np.generic]] = []
    after: list[NDArray[np.float32]] = []
    after_index: list[tuple[int, int]] = []
    returns: list[float] = []
    lengths: list[int] = []
    present = normaliser(environments.observations, learn=learn)
    for step in range(steps):
        observations[step] = present
        times[step] = environments.episode_lengths
        action = actor.act(present, actor.noise(draw, count))
        actions.append(action)
        outcome = environments.step(action)
        done = outcome.terminated | outcome.truncated
        raw_rewards[step] = outcome.rewards
        rewards[step] = scaler(outcome.rewards, done, learn=learn)
        terminated[step], truncated[step] = outcome.terminated, outcome.truncated
        if outcome.final:
            ended_returns, ended_lengths = environments.end_episodes(done)
            returns += ended_returns
            lengths += ended_lengths
            for env, final in outcome.final.items():
                after.append(normaliser(final[None], learn=False)[0])
                after_index.append((step, env))
        # The last of a batch is the first of the next, which takes it into the statistics.
        present = normaliser(outcome.observations, learn=learn and step < steps - 1)
    for env in map(int, np.flatnonzero(~done)):
        after.append(present[env])
        after_index.append((steps - 1, env))
    return Batch(
        observations, np.stack(actions), rewards, raw_rewards, terminated, truncated, times,
        np.array(after, dtype=np.float32).reshape(-1, size), np.array(after_index, dtype=np.int64).reshape(-1, 2),
        tuple(returns), tuple(lengths),
    )  # fmt: skip


@dataclass(frozen=True)
class Episodes:
    """Complete episodes, one for each seed: undiscounted returns of unscaled rewards, and lengths."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """The mean return."""
        return float(np.mean(self.returns))


def run_episodes(
    environments: Environments,
    actor: Actor,
    normaliser: ObservationNormaliser,
    seeds: Sequence[int],
    *,
    deterministic: bool = False,
) -> Episodes:
    """Run one whole episode for each seed and return how they went; the statistics stand still.

    An episode depends on its seed and the policy only, not on its neighbours: each has its own stream of noise. So
    two policies that are run on the same seeds can be compared pair by pair.
    """
    returns: list[float] = []
    lengths: list[int] = []
    count = len(environments.envs)
    for start in range(0, len(seeds), count):
        chosen = seeds[start : start + count]
        # Not the seed itself: gymnasium makes the same generator of it, and the noise would know the episode.
        draws = [np.random.default_rng(stream_seed(seed, "actions")) for seed in chosen]
        padded = [*chosen, *range(count - len(chosen))]
        observations = environments.reset(padded)[: len(chosen)]
        sums, steps = np.zeros(len(chosen)), np.zeros(len(chosen), dtype=np.int64)
        alive = np.arange(len(chosen))
        while len(alive):
            noise = None if deterministic else np.concatenate([actor.noise(draws[index], 1) for index in alive])
            outcome = environments.step(actor.act(normaliser(observations, learn=False), noise), alive)
            sums[alive] += outcome.rewards
            steps[alive] += 1
            going = ~(outcome.terminated | outcome.truncated)
            alive, observations = alive[going], outcome.observations[going]
        returns += sums.tolist()
        lengths += steps.tolist()
    return Episodes(tuple(returns), tuple(lengths))
