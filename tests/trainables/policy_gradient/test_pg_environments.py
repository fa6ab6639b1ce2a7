"""Environments: stepped as gymnasium steps them, saved exactly, and refused with one clear message."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tune_platform.trainables.policy_gradient import env_state
from tune_platform.trainables.policy_gradient.environments import Environments, make_env, time_limit

EXACT = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "Hopper-v5", "Walker2d-v5", "Humanoid-v5", "FrozenLake-v1"]


class Drift(gym.Env[Any, Any]):
    """Two discrete actions from 3 on; state in a plain attribute, in a generator, or where nothing can find it."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space: spaces.Space[Any] = spaces.Discrete(2, start=3)

    def __init__(self, hidden: str = "no") -> None:
        self.seen: list[int] = []
        self.hidden = hidden
        self.place = Place() if hidden == "pickle" else (lambda box=[0.0]: box) if hidden == "yes" else None
        self.x = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._move(float(self.np_random.normal()) - self._where())
        return np.array([self._where()]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.seen.append(int(action))
        self._move(float(self.np_random.normal()) + int(action) - 3.5)
        return np.array([self._where()]), self._where(), abs(self._where()) > 4, False, {}

    def _where(self) -> float:
        if self.hidden == "pickle":
            return self.place.x  # type: ignore[union-attr]
        return self.place()[0] if self.hidden == "yes" else self.x  # type: ignore[operator, misc]

    def _move(self, by: float) -> None:
        if self.hidden == "pickle":
            self.place.x += by  # type: ignore[union-attr]
        elif self.hidden == "yes":
            self.place()[0] += by  # type: ignore[operator, misc]
        else:
            self.x += by


class Place:
    """An object that only pickle can save."""

    def __init__(self) -> None:
        self.x = 0.0


class Pair(Drift):
    """Actions that no policy here can serve."""

    action_space = spaces.MultiDiscrete([2, 2])


class Words(Drift):
    """Observations without a fixed length."""

    observation_space = spaces.Sequence(spaces.Discrete(3))  # type: ignore[assignment]


for _name, _class, _options in (
    ("Drift", Drift, {}), ("DriftPickle", Drift, {"hidden": "pickle"}), ("DriftHidden", Drift, {"hidden": "yes"}),
    ("DriftPair", Pair, {}), ("DriftWords", Words, {}),
):  # fmt: skip
    gym.register(f"pg-tests/{_name}-v0", entry_point=_class, max_episode_steps=30, kwargs=_options)  # type: ignore[arg-type]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Hopper-v5"])
def test_steps_as_gymnasiums_vector_environment(env_id: str) -> None:
    mine = Environments(env_id, {}, 3)
    theirs = SyncVectorEnv(
        [lambda: gym.make(env_id, disable_env_checker=True)] * 3, autoreset_mode=AutoresetMode.SAME_STEP
    )
    first = mine.reset([5, 6, 7])
    assert np.array_equal(first, theirs.reset(seed=[5, 6, 7])[0])
    theirs.action_space.seed(0)
    ends = 0
    for _ in range(250):
        actions = theirs.action_space.sample()
        outcome = mine.step(actions)
        observations, rewards, terminated, truncated, info = theirs.step(actions)
        assert np.array_equal(outcome.observations, observations)
        assert np.array_equal(outcome.rewards, rewards)
        assert np.array_equal(outcome.terminated, terminated)
        assert np.array_equal(outcome.truncated, truncated)
        for index, final in outcome.final.items():
            ends += 1
            assert np.array_equal(final, info["final_obs"][index])
    assert ends > 0
    mine.close()
    theirs.close()


@pytest.mark.parametrize("env_id", EXACT)
def test_saved_in_an_episode_and_gone_on_with_exactly(env_id: str) -> None:
    one, other = Environments(env_id, {}, 2), Environments(env_id, {}, 2)
    one.reset([1, 2])
    other.reset([3, 4])
    draw = np.random.default_rng(0)

    def actions() -> Any:
        if one.sizes.discrete:
            return draw.integers(one.sizes.outputs, size=2)
        return draw.normal(size=(2, one.sizes.outputs)).astype(np.float32)

    for _ in range(13):
        one.step(actions())
    assert other.load_state(env_state._through_a_file(_tensors(one.state())))
    assert np.array_equal(one.observations, other.observations)
    for _ in range(120):
        action = actions()
        mine, theirs = one.step(action), other.step(action)
        assert np.array_equal(mine.observations, theirs.observations)
        assert np.array_equal(mine.rewards, theirs.rewards)
        assert np.array_equal(mine.terminated, theirs.terminated)
        assert np.array_equal(mine.truncated, theirs.truncated)
    assert np.array_equal(one.episode_lengths, other.episode_lengths)


def _tensors(state: Any) -> Any:
    from tune_platform.trainables.policy_gradient.training import with_tensors

    return with_tensors(state)


@pytest.mark.parametrize(
    ("name", "method"), [("Drift", "attributes"), ("DriftPickle", "pickle"), ("DriftHidden", "none")]
)
def test_the_way_of_saving_is_tried_out_and_not_believed(name: str, method: str) -> None:
    environments = Environments(f"pg-tests/{name}-v0", {}, 1)
    assert environments.method == method
    assert environments.exact == (method != "none")
    other = Environments(f"pg-tests/{name}-v0", {}, 1)
    environments.reset([0])
    other.reset([1])
    environments.step(np.array([1]))
    assert other.load_state(environments.state()) == environments.exact


def test_another_number_of_environments_is_not_taken_over() -> None:
    three = Environments("CartPole-v1", {}, 3)
    three.reset([0, 1, 2])
    assert not Environments("CartPole-v1", {}, 2).load_state(three.state())


def test_only_some_are_stepped() -> None:
    environments = Environments("CartPole-v1", {}, 3)
    before = environments.reset([0, 1, 2])
    outcome = environments.step(np.array([1, 0]), only=np.array([0, 2]))
    assert outcome.observations.shape == (2, 4)
    assert np.array_equal(environments.observations[1], before[1])
    assert np.array_equal(environments.observations[2], outcome.observations[1])


def test_continuous_actions_are_clipped_for_the_environment_only() -> None:
    one, other = Environments("Pendulum-v1", {}, 1), Environments("Pendulum-v1", {}, 1)
    one.reset([0])
    other.reset([0])
    action = np.array([[50.0]], dtype=np.float32)
    outcome = one.step(action)
    assert np.array_equal(outcome.observations, other.step(np.array([[2.0]], dtype=np.float32)).observations)
    assert action[0, 0] == 50


def test_discrete_actions_that_do_not_start_at_zero() -> None:
    environments = Environments("pg-tests/Drift-v0", {}, 1)
    environments.reset([0])
    environments.step(np.array([0]))
    environments.step(np.array([1]))
    assert environments.envs[0].unwrapped.seen == [3, 4]  # type: ignore[attr-defined]


def test_a_time_limit_can_be_moved_away() -> None:
    assert time_limit("Pendulum-v1") == 200
    env = make_env("Pendulum-v1", {}, extra_steps=5)
    env.reset(seed=0)
    cut = [env.step(np.zeros(1, dtype=np.float32))[3] for _ in range(205)]
    assert cut == [False] * 204 + [True]


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("CartPoole-v1", {}, "there is no environment 'CartPoole-v1': did you mean CartPole-v1"),
        ("nothing-like-it", {}, "pprint_registry"),
        ("CartPole-v1", {"gravity": 9}, "cannot be built with {'gravity': 9}"),
        ("pg-tests/DriftPair-v0", {}, "no policy here can serve them: they must be Discrete or a one-dimensional Box"),
        ("pg-tests/DriftWords-v0", {}, "has no fixed length as a vector"),
    ],
)
def test_what_cannot_be_served_is_refused_with_one_message(env_id: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"environment|observations|actions") as error:
        Environments(env_id, kwargs, 1)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
