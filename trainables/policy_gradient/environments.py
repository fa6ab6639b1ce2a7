"""Gymnasium environments that are stepped together, with exact saving, and what a policy here can serve.

gymnasium's own `SyncVectorEnv` steps the same way (in the mode SAME_STEP; a test compares them), but it can neither be
saved in the middle of an episode nor step only those environments whose episode still runs.
"""

from __future__ import annotations

import difflib
import functools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from tune_platform.trainables.policy_gradient import env_state

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Sizes(NamedTuple):
    """What the networks must know: entries of a (flattened) observation; means or logits; which of the two."""

    observation: int
    outputs: int
    discrete: bool


class Step(NamedTuple):
    """The outcome of one step in n environments.

    `observations` (n x size) are those to act on next, after the reset of environments whose episode ended; `final` has
    the last observation of each ended episode, by environment.
    """

    observations: Floats
    rewards: Floats
    terminated: Bools
    truncated: Bools
    final: dict[int, Floats]


def make_env(env_id: str, kwargs: Mapping[str, Any], extra_steps: int = 0) -> env_state.Env:
    """Build one environment. `extra_steps` moves its time limit, if it has one, that much further away.

    Raises ValueError where there is no such environment, or where it cannot be built here.
    """
    try:
        spec = gym.spec(env_id)
        limit = spec.max_episode_steps
        options: dict[str, Any] = {"max_episode_steps": limit + extra_steps} if extra_steps and limit else {}
        with _quiet_compiler(str(spec.entry_point)):
            return gym.make(env_id, disable_env_checker=True, **{**kwargs, **options})
    except gym.error.UnregisteredEnv:
        near = difflib.get_close_matches(env_id, list(gym.registry), n=3)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else "`gymnasium.pprint_registry()` lists those that there are"
        )
        raise ValueError(f"there is no environment {env_id!r}: {hint}") from None
    except (gym.error.Error, ImportError, TypeError) as error:
        raise ValueError(f"env_id: the environment {env_id!r} cannot be built with {dict(kwargs)}: {error}") from error


@contextmanager
def _quiet_compiler(entry_point: str) -> Iterator[None]:
    """Keep MuJoCo from warning on the terminal, and in a file, that gymnasium's models use a deprecated attribute."""
    if "mujoco" not in entry_point:
        yield
        return
    import mujoco

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(logger.debug)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def time_limit(env_id: str) -> int | None:
    """Return after how many steps gymnasium truncates an episode, or None."""
    return gym.spec(env_id).max_episode_steps


@functools.lru_cache(maxsize=32)
def _facts(env_id: str, kwargs: str) -> tuple[Sizes, str]:
    """Sizes and the way of saving of an environment, found once in each process."""
    options = json.loads(kwargs)
    env = make_env(env_id, options)
    sizes = sizes_of(env_id, env)
    env.close()
    return sizes, env_state.method_for(lambda: make_env(env_id, options))


def sizes_of(env_id: str, env: env_state.Env) -> Sizes:
    """Return what the networks must know of `env`.

    Raises ValueError where no policy here can serve it: actions are Box (continuous) or Discrete, observations are
    anything that gymnasium can flatten to a vector of fixed length.
    """
    observations, actions = env.observation_space, env.action_space
    if not observations.is_np_flattenable:
        raise ValueError(
            f"the observations of {env_id} are {observations}, which has no fixed length as a vector; wrap the "
            "environment so that they are a Box, and register it under an id of its own"
        )
    size = spaces.flatdim(observations)
    if isinstance(actions, spaces.Discrete):
        return Sizes(size, int(actions.n), True)
    if isinstance(actions, spaces.Box) and len(actions.shape) == 1 and actions.dtype.kind == "f":
        return Sizes(size, actions.shape[0], False)
    raise ValueError(
        f"the actions of {env_id} are {actions}, and no policy here can serve them: they must be Discrete or a "
        "one-dimensional Box of floats"
    )


class Environments:
    """`count` environments of one id, each with its own random generator.

    Raises ValueError, before anything is stepped, for an unknown environment and for spaces that cannot be served.
    `extra_steps` moves the time limit further away: for returns that a limit must not cut.
    """

    def __init__(self, env_id: str, kwargs: Mapping[str, Any], count: int, extra_steps: int = 0) -> None:
        self.sizes, self.method = _facts(env_id, json.dumps(dict(kwargs), sort_keys=True))
        self.env_id = env_id
        self.envs = [make_env(env_id, kwargs, extra_steps) for _ in range(count)]
        self.episode_returns = np.zeros(count)
        self.episode_lengths = np.zeros(count, dtype=np.int64)
        self.observations = np.zeros((count, self.sizes.observation))
        space = self.envs[0].observation_space
        self._flat = isinstance(space, spaces.Box) and len(space.shape) == 1
        self._space = space
        self._actions = self.envs[0].action_space

    @property
    def exact(self) -> bool:
        """Whether saving and restoring loses nothing."""
        return self.method != env_state.METHODS[-1]

    def reset(self, seeds: Sequence[int]) -> Floats:
        """Start an episode in each environment, seeded by its own seed; return the observations (n x size)."""
        for index, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            self.observations[index] = self._vector(env.reset(seed=seed)[0])
        self.episode_returns[:] = 0
        self.episode_lengths[:] = 0
        return self.observations.copy()

    def step(self, actions: NDArray[np.generic], only: NDArray[np.int64] | None = None) -> Step:
        """Act in all environments, or `only` in those with these indices; ended episodes begin anew at once.

        `actions` are the policy's: continuous ones are clipped to the bounds here, and nowhere else. Rows of the
        result are as those of `actions`; the keys of `final` are row numbers.
        """
        rows = range(len(self.envs)) if only is None else only
        rewards = np.empty(len(actions))
        terminated = np.zeros(len(actions), dtype=bool)
        truncated = np.zeros(len(actions), dtype=bool)
        final = {}
        if isinstance(self._actions, spaces.Box):
            actions = np.minimum(np.maximum(actions, self._actions.low), self._actions.high)
        else:
            actions = actions + self._actions.start  # type: ignore[attr-defined]
        for row, index in enumerate(rows):
            env = self.envs[index]
            raw, reward, ended, cut, _ = env.step(actions[row])
            observation = self._vector(raw)
            rewards[row], terminated[row], truncated[row] = float(reward), ended, cut
            if ended or cut:
                final[row] = np.array(observation, dtype=np.float64)
                observation = self._vector(env.reset()[0])
            self.observations[index] = observation
        if only is None:
            self.episode_returns += rewards
            self.episode_lengths += 1
            return Step(self.observations.copy(), rewards, terminated, truncated, final)
        return Step(self.observations[only], rewards, terminated, truncated, final)

    def end_episodes(self, done: Bools) -> tuple[list[float], list[int]]:
        """Return returns and lengths of the episodes that have just ended, and count from zero again."""
        returns, lengths = self.episode_returns[done].tolist(), self.episode_lengths[done].tolist()
        self.episode_returns[done] = 0
        self.episode_lengths[done] = 0
        return returns, lengths

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "method": self.method,
            "envs": [env_state.capture(env, self.method) for env in self.envs],
            "observations": self.observations.copy(),
            "returns": self.episode_returns.copy(),
            "lengths": self.episode_lengths.copy(),
        }

    def load_state(self, state: Mapping[str, Any]) -> bool:
        """Take over what `state` returned. False where that cannot be: another number of environments, or no exact
        way.
        """
        if not self.exact or state["method"] != self.method or len(state["envs"]) != len(self.envs):
            return False
        pairs = zip(self.envs, state["envs"], strict=True)
        self.envs = [env_state.restore(env, saved, self.method) for env, saved in pairs]
        self.observations = np.asarray(state["observations"], dtype=np.float64).copy()
        self.episode_returns = np.asarray(state["returns"], dtype=np.float64).copy()
        self.episode_lengths = np.asarray(state["lengths"], dtype=np.int64).copy()
        return True

    def close(self) -> None:
        """Give back what the environments hold."""
        for env in self.envs:
            env.close()

    def _vector(self, observation: Any) -> Any:
        return observation if self._flat else spaces.flatten(self._space, observation)
