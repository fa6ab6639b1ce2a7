"""Advantages and returns over a batch of steps x environments, with truncation told apart from termination.

After a terminated step there is nothing to come. After a truncated one (a time limit) there is, so the value of
the observation before the reset stands for it; so it does at the end of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def gae(rewards: Floats, values: Floats, next_values: Floats, done: Bools, gamma: float, lam: float) -> Floats:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16).

    All arrays are steps x environments. `next_values` is the value of what follows each step within its own episode:
    zero after termination, the bootstrap after truncation. `done` marks the last step of each episode.
    """
    errors = rewards + gamma * next_values - values
    carry = gamma * lam * ~done
    advantages = np.empty_like(errors)
    running = np.zeros(errors.shape[1])
    for step in range(len(errors) - 1, -1, -1):
        running = errors[step] + carry[step] * running
        advantages[step] = running
    return advantages


class Returns(NamedTuple):
    """Empirical discounted returns and where they are (nearly) complete; both steps x environments."""

    values: Floats
    complete: Bools


def empirical_returns(rewards: Floats, terminated: Bools, truncated: Bools, gamma: float, horizon: int) -> Returns:
    """Sum the discounted rewards that follow each pair within its episode, without any bootstrap.

    A return is complete where its episode is seen to terminate, or where at least `horizon` further rewards are
    seen: what is then left out weighs at most gamma**horizon. With `horizon` 0 every one counts as complete, as in
    the released code, which so cuts returns at time limits and at the end of each rollout.
    """
    returns = np.empty_like(rewards)
    complete = np.empty_like(terminated)
    running = np.zeros(rewards.shape[1])
    ahead = np.full(rewards.shape[1], -1)  # rewards seen after the present one
    closed = np.zeros(rewards.shape[1], dtype=bool)  # the episode is seen to terminate
    for step in range(len(rewards) - 1, -1, -1):
        last = terminated[step] | truncated[step]
        running = rewards[step] + gamma * np.where(last, 0.0, running)
        ahead = np.where(last, 0, ahead + 1)
        closed = np.where(last, terminated[step], closed)
        returns[step] = running
        complete[step] = closed | (ahead >= horizon)
    return Returns(returns, complete)


def standardise(advantages: Floats) -> Floats:
    """Return (A - mean A) / std A over all entries."""
    standard: Floats = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    return standard
