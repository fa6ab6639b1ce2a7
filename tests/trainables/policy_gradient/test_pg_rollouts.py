"""Rollouts: what a batch holds, where it is bootstrapped, and what episodes depend on."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.trainables.policy_gradient.test_pg_training import CARTPOLE, PENDULUM, SMALL
from tune_platform.trainables.policy_gradient import Settings
from tune_platform.trainables.policy_gradient.agent import Agent
from tune_platform.trainables.policy_gradient.environments import Environments
from tune_platform.trainables.policy_gradient.policies import Actor
from tune_platform.trainables.policy_gradient.rollout import run_episodes
from tune_platform.trainables.policy_gradient.sampling import Snapshot, streams
from tune_platform.trainables.policy_gradient.training import Training


def test_a_batch_holds_what_follows_each_pair() -> None:
    training = Training(Settings.of({**CARTPOLE, "normalise_observations": False, "clip_observations": 0}), 0)
    batch = training.collect()
    assert batch.observations.shape == (64, 2, 4)
    assert batch.done.any()
    index = {tuple(place): row for row, place in enumerate(batch.after_index.tolist())}
    expected = {(int(step), int(env)) for step, env in np.argwhere(batch.done)} | {(63, 0), (63, 1)}
    assert set(index) == expected
    for step in range(63):
        for env in range(2):
            if batch.done[step, env]:
                after = batch.after[index[step, env]]
                assert abs(after[0]) > 2.4 or abs(after[2]) > 0.2095  # where CartPole ends, not where it begins anew
                assert batch.times[step + 1, env] == 0
                assert np.abs(batch.observations[step + 1, env]).max() <= 0.05
            else:
                assert batch.times[step + 1, env] == batch.times[step, env] + 1


def test_truncation_bootstraps_and_termination_does_not() -> None:
    settings = Settings.of({**PENDULUM, "pairs": 520, "scale_rewards": False, "clip_rewards": 0, "gae_lambda": 0})
    training = Training(settings, 0)
    batch, agent = training.collect(), training.agent
    assert batch.truncated[199].all()  # Pendulum's time limit
    values, advantages = agent.estimate(batch)
    bootstraps = [float(agent.values_of(row[None])[0]) for row in batch.after]
    after = dict(zip(map(tuple, batch.after_index.tolist()), bootstraps, strict=True))
    for step in (199, 259):
        for env in range(2):
            error = batch.rewards[step, env] + settings.gamma * after[step, env] - values[step, env]
            assert advantages[step, env] == pytest.approx(error, rel=1e-5)
    ended = dataclasses.replace(batch, terminated=batch.truncated, truncated=batch.terminated)
    _, cut = agent.estimate(ended)
    assert cut[199] == pytest.approx(batch.rewards[199] - values[199], rel=1e-5)
    assert cut[100] == pytest.approx(advantages[100])
    # The released code: time limits and the end of the rollout count as terminal.
    released = Training(dataclasses.replace(settings, as_released=True), 0).agent
    _, old = released.estimate(batch)
    assert old[[199, 259]] == pytest.approx(batch.rewards[[199, 259]] - values[[199, 259]], rel=1e-5)


def test_a_window_is_the_batch_that_would_have_ended_there() -> None:
    training = Training(Settings.of({**CARTPOLE, "envs": 1, "gae_lambda": 0.9}), 0)
    batch = training.collect()
    whole = training.agent.estimate(batch)[1]
    assert training.agent.estimate(batch.window(0, 30))[1] == pytest.approx(whole[30:])
    part = batch.window(0, 10, 40)
    values, advantages = training.agent.estimate(part)
    assert part.pairs == 30
    following = training.agent.values_of(batch.observations[40])[0]
    if not part.done[-1, 0]:
        assert advantages[-1, 0] == pytest.approx(part.rewards[-1, 0] + 0.99 * following - values[-1, 0], rel=1e-5)
    with pytest.raises(ValueError, match="steps 5 to 999 were asked for"):
        batch.window(0, 5, 999)


def test_episodes_depend_on_their_seed_and_can_be_compared_in_pairs() -> None:
    training = Training(Settings.of(CARTPOLE), 0)
    agent = training.agent
    environments = Environments("CartPole-v1", {}, 3)
    five = run_episodes(environments, agent.actor, agent.normaliser, [1, 2, 3, 4, 5])
    alone = run_episodes(Environments("CartPole-v1", {}, 1), agent.actor, agent.normaliser, [4])
    assert five.returns[3] == alone.returns[0]
    assert five.returns == tuple(float(length) for length in five.lengths)
    assert len(set(five.returns)) > 1
    sure = run_episodes(environments, agent.actor, agent.normaliser, [1, 1], deterministic=True)
    assert sure.returns[0] == sure.returns[1]


class Guess(gym.Env[Any, Any]):
    """One step: the reward is 1 where the action equals a bit that is drawn at the reset and shown to nobody."""

    observation_space = spaces.Box(0, 1, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bit = int(self.np_random.random() < 0.5)
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1), float(action == self.bit), True, False, {}


gym.register("pg-tests/Guess-v0", entry_point=Guess)  # type: ignore[arg-type]


class Blind:
    """An actor that tosses a fair coin with the noise that it is given, and notes the noise."""

    def __init__(self) -> None:
        self.drawn: list[np.ndarray] = []

    def noise(self, draw: np.random.Generator, count: int) -> np.ndarray:
        self.drawn.append(draw.random(count))
        return self.drawn[-1]

    def act(self, observations: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        assert noise is not None
        return (noise < 0.5).astype(np.int64)


def guess(actor: Blind) -> tuple[Environments, Snapshot]:
    settings = Settings.of({**SMALL, "env_id": "pg-tests/Guess-v0", "scale_rewards": False, "clip_rewards": 0})
    environments = Environments("pg-tests/Guess-v0", {}, 1)
    agent = Agent(settings, environments.sizes, 0)
    return environments, Snapshot(settings, cast(Actor, actor), agent.normaliser, agent.scaler)


@pytest.mark.parametrize("seed", [0, 1, 7, 12345, 2**40 + 3])
def test_noise_is_not_drawn_as_the_environment_draws(seed: int) -> None:
    """An environment that is reset with the seed of its noise would hold what the policy is about to do."""
    env = gym.make("pg-tests/Guess-v0").unwrapped
    gym.Env.reset(env, seed=seed)  # before the environment itself has drawn
    own = env.np_random.random(8)
    episode, stream = Blind(), Blind()
    environments, snapshot = guess(episode)
    run_episodes(environments, snapshot.actor, snapshot.normaliser, [seed])
    streams(guess(stream)[1], [seed], 8)
    assert [len(each.drawn) for each in (episode, stream)] == [1, 8]
    assert not np.isin(np.concatenate([*episode.drawn, *stream.drawn]), own).any()


def test_a_blind_policy_guesses_half_of_the_hidden_bits() -> None:
    actor = Blind()
    environments, snapshot = guess(actor)
    count = 400
    found = run_episodes(environments, snapshot.actor, snapshot.normaliser, range(count))
    error = 4.5 * 0.5 / math.sqrt(count)
    assert found.mean == pytest.approx(0.5, abs=error)
    first = [streams(snapshot, [seed], 1).raw_rewards[0, 0] for seed in range(count)]
    assert np.mean(first) == pytest.approx(0.5, abs=error)
