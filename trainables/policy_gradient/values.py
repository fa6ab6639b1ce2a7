"""Experiment B: what the value network predicts, and how far it takes the variance off the gradient (section 2.3).

B1 repeats one iteration on fresh batches of the frozen policy: V_{t-1} is the agent's value network, V_t what the
algorithm's own update makes of it on the targets V_{t-1} + A. Its errors are taken on the batch it was trained on and
on held-out trajectories, against the targets it was trained for (GAE) and against true returns.

True returns are not cut: each episode runs on beyond its time limit until what is left out weighs less than 1 %, and
only pairs from before the limit count. The released code cuts returns at time limits and at the ends of rollouts, and
divides the *squared* GAE error by the target; `as_released` columns show what that does.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tune_platform.trainables.policy_gradient.advantages import empirical_returns
from tune_platform.trainables.policy_gradient.agent import Agent
from tune_platform.trainables.policy_gradient.environments import time_limit
from tune_platform.trainables.policy_gradient.gradient import Quality, gradient_of, last_pairs, quality, trajectories
from tune_platform.trainables.policy_gradient.policies import ValueNetwork, build_network
from tune_platform.trainables.policy_gradient.rollout import Batch
from tune_platform.trainables.policy_gradient.sampling import Sampler, Snapshot
from tune_platform.trainables.runtime import generator

Floats = NDArray[np.float64]
#: Returns nearer to zero than this have no relative error.
SMALLEST = 1e-2


def horizon_of(gamma: float) -> int:
    """Return after how many steps a discounted reward weighs less than 1 %."""
    return 1 if gamma == 0 else min(5000, math.ceil(math.log(0.01) / math.log(gamma))) if gamma < 1 else 5000


def mean_relative_error(predicted: Floats, actual: Floats) -> float:
    """Return the mean of |predicted - actual| / |actual| where |actual| is above SMALLEST; NaN where it never is."""
    counts = np.abs(actual) > SMALLEST
    if not counts.any():
        return float("nan")
    return float(np.mean(np.abs(predicted - actual)[counts] / np.abs(actual)[counts]))


def squared_over_target(predicted: Floats, actual: Floats) -> float:
    """Return what the released code calls the GAE MRE: the mean of (predicted - actual)^2 / |actual|."""
    counts = np.abs(actual) > SMALLEST
    if not counts.any():
        return float("nan")
    return float(np.mean((predicted - actual)[counts] ** 2 / np.abs(actual)[counts]))


def explained_variance(predicted: Floats, actual: Floats) -> float:
    """Return 1 - Var(actual - predicted) / Var(actual); NaN where `actual` does not vary."""
    variance = float(np.var(actual))
    return float("nan") if variance < 1e-12 else 1 - float(np.var(actual - predicted)) / variance


class Run(NamedTuple):
    """A stream as training would see it, cut at the time limit, and the true return of each of its pairs."""

    batch: Batch
    returns: Floats
    complete: NDArray[np.bool_]


def runs(agent: Agent, sampler: Sampler, what: str, seed: int, count: int, pairs: int) -> list[Run]:
    """Return `count` independent streams of `pairs` pairs with the true returns of (nearly) all of them."""
    settings, snapshot = agent.settings, Snapshot.of(agent)
    horizon, limit = horizon_of(settings.gamma), time_limit(settings.env_id)
    extra = 0 if limit is None else horizon
    sampled = sampler.streams(what, snapshot, seed, count, pairs + horizon, extra)
    if limit is not None and any((stream.times >= limit).any() for stream in sampled):
        # At worst every episode goes to its limit and as many steps as the horizon beyond it.
        sampled = sampler.streams(what, snapshot, seed, count, -(-pairs // limit) * (limit + horizon), extra)
    return [cut(stream, settings.gamma, horizon, limit, pairs) for stream in sampled]


def cut(stream: Batch, gamma: float, horizon: int, limit: int | None, pairs: int) -> Run:
    """Take the first `pairs` pairs before the time limit out of a stream whose episodes run on beyond it.

    The last pair before the limit is marked as truncated there, with the observation that follows it, just as the
    environment would have done; the returns are those of the longer run.
    """
    returns, complete = empirical_returns(stream.rewards, stream.terminated, stream.truncated, gamma, horizon)
    if limit is None:
        return Run(stream.window(0, 0, pairs), returns[:pairs], complete[:pairs])
    times, terminated = stream.times[:, 0], stream.terminated.copy()
    truncated = np.zeros_like(terminated)
    truncated[:, 0] = (times == limit - 1) & ~terminated[:, 0]
    kept = np.flatnonzero(times < limit)[:pairs]
    after_rows, after_index = [], []
    known = {int(step): row for row, (step, _) in enumerate(stream.after_index)}
    for place, step in enumerate(kept):
        last = place == len(kept) - 1
        if terminated[step, 0] or truncated[step, 0] or last:
            following = stream.after[known[int(step)]] if int(step) in known else stream.observations[step + 1, 0]
            after_rows.append(following)
            after_index.append((place, 0))
    batch = Batch(
        stream.observations[kept], stream.actions[kept], stream.rewards[kept], stream.raw_rewards[kept],
        terminated[kept], truncated[kept], stream.times[kept],
        np.array(after_rows, dtype=np.float32), np.array(after_index, dtype=np.int64),
    )  # fmt: skip
    return Run(batch, returns[kept], complete[kept])


@dataclass(frozen=True)
class ValueErrors:
    """The errors of V_t in one repetition of experiment B1; relative errors are means of |error| / |target|.

    `ev_*` are explained variances of true returns on held-out pairs: by V_t, and by the GAE targets themselves.
    """

    gae_mre_train: float
    gae_mre_held_out: float
    returns_mre_train: float
    returns_mre_held_out: float
    ev_value: float
    ev_target: float
    released_gae_mre_held_out: float
    released_returns_mre_held_out: float
    complete: float


def value_errors(agent: Agent, sampler: Sampler, seed: int, *, repetitions: int = 5) -> list[ValueErrors]:
    """Run experiment B1 so many times, each on its own training batch and its own held-out one; the agent stays as
    is.
    """
    pairs = agent.settings.pairs
    sampled = runs(agent, sampler, "value batches", seed, 2 * repetitions, pairs)
    return [_errors(agent, *sampled[index : index + 2]) for index in range(0, 2 * repetitions, 2)]


def _errors(agent: Agent, train: Run, held_out: Run) -> ValueErrors:
    learner = copy.deepcopy(agent)
    learner.update(train.batch)

    def targets(run: Run) -> Floats:
        values, advantages = agent.estimate(run.batch)
        return values + advantages

    def predicted(run: Run) -> Floats:
        return learner.values_of(run.batch.observations)

    # As released: the batch alone, returns cut at its end and at time limits, which count as terminal.
    cut_short = empirical_returns(
        held_out.batch.rewards, held_out.batch.terminated, held_out.batch.truncated, agent.settings.gamma, 0
    ).values
    seen = held_out.complete
    return ValueErrors(
        gae_mre_train=mean_relative_error(predicted(train), targets(train)),
        gae_mre_held_out=mean_relative_error(predicted(held_out), targets(held_out)),
        returns_mre_train=mean_relative_error(predicted(train)[train.complete], train.returns[train.complete]),
        returns_mre_held_out=mean_relative_error(predicted(held_out)[seen], held_out.returns[seen]),
        ev_value=explained_variance(predicted(held_out)[seen], held_out.returns[seen]),
        ev_target=explained_variance(targets(held_out)[seen], held_out.returns[seen]),
        released_gae_mre_held_out=squared_over_target(predicted(held_out), targets(held_out)),
        released_returns_mre_held_out=mean_relative_error(predicted(held_out), cut_short),
        complete=float(seen.mean()),
    )


class TrueValue(NamedTuple):
    """A network fitted to true returns, and its explained variance on streams that it was not fitted to."""

    network: ValueNetwork
    explained_variance: float
    pairs: int


def many_runs(agent: Agent, sampler: Sampler, seed: int, pairs: int) -> list[Run]:
    """Return streams with true returns, of together at least `pairs` pairs: what V* is fitted to."""
    count = max(3, min(20, pairs // 5000))
    return runs(agent, sampler, "returns for V*", seed, count, -(-pairs // count))


def true_value(agent: Agent, sampled: Sequence[Run], seed: int, *, epochs: int = 20) -> TrueValue:
    """Fit V*, a value network of the agent's shape, to the true returns of `sampled`.

    A tenth of the streams (one at least) is held out for the explained variance.
    """
    test = max(1, len(sampled) // 10)
    observations = [run.batch.observations[run.complete] for run in sampled]
    returns = [run.returns[run.complete] for run in sampled]
    x, y = np.concatenate(observations[test:]), np.concatenate(returns[test:])
    network = fit_value(agent, x, y, seed, epochs)
    tested, actual = np.concatenate(observations[:test]), np.concatenate(returns[:test])
    return TrueValue(network, explained_variance(agent.values_of(tested, network), actual), len(y))


def fit_value(agent: Agent, observations: NDArray[np.float32], returns: Floats, seed: int, epochs: int) -> ValueNetwork:
    """Return a new value network of the agent's shape, fitted to `returns` by Adam (1e-3, falling to zero)."""
    settings = agent.settings
    draws = generator("cpu", seed, "weights of V*")
    sizes = [agent.sizes.observation, *settings.hidden, 1]
    layers = build_network(sizes, settings.activation, "orthogonal", 1.0, draws)
    network = ValueNetwork(layers).to(agent.device)
    mean, scale = float(returns.mean()), float(returns.std()) + 1e-8
    x, y = agent.tensor(observations), agent.tensor((returns - mean) / scale)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    size = 512
    steps = epochs * -(-len(y) // size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    shuffle = generator(agent.device, seed, "order for V*")
    for _ in range(epochs):
        order = torch.randperm(len(y), generator=shuffle, device=agent.device)
        for start in range(0, len(y), size):
            part = order[start : start + size]
            loss = nn.functional.mse_loss(network(x[part]), y[part])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    head = layers[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():  # undo the standardisation in the last layer
        head.weight.mul_(scale)
        head.bias.mul_(scale).add_(mean)
    return network


#: What may stand for the advantage: GAE by the agent's network, by V*, and returns without any baseline.
BASELINES = ("value", "true", "zero")


def baseline_advantages(agent: Agent, batch: Batch, baseline: str, true: ValueNetwork | None) -> Floats:
    """Return the advantages of a batch with one of BASELINES, steps x environments.

    "zero" replaces advantages by returns; what lies beyond a time limit or the end of the batch is the agent's own
    value of it.
    """
    if baseline == "value":
        return agent.estimate(batch)[1]
    if baseline == "true":
        if true is None:
            raise ValueError("the baseline 'true' needs the network that was fitted to true returns")
        return agent.estimate(batch, network=true)[1]
    if baseline == "zero":
        return agent.returns(batch)
    raise ValueError(f"baseline is one of {', '.join(BASELINES)}, got {baseline!r}")


def variance_reduction(
    agent: Agent, streams: Sequence[Batch], true: ValueNetwork, seed: int, sizes: Sequence[int]
) -> dict[str, list[Quality]]:
    """Run experiment B2: P(N) with each baseline, on the same streams, one for each estimate.

    Only P is compared: with lambda < 1 the expected gradients of different baselines differ by the bias of GAE.
    """
    found: dict[str, list[Quality]] = {}
    for baseline in BASELINES:
        rows = []
        for pairs in sizes:
            parts = [last_pairs(stream, pairs) for stream in streams]
            vectors = np.stack(
                [gradient_of(agent, [part], [baseline_advantages(agent, part, baseline, true)]) for part in parts]
            )
            count = float(np.mean([trajectories(part) for part in parts]))
            rows.append(quality(vectors, None, pairs, count, seed))
        found[baseline] = rows
    return found


@dataclass(frozen=True)
class ValueReport:
    """Experiments B1 and B2 on one agent."""

    iteration: int
    errors: tuple[ValueErrors, ...]
    true_explained_variance: float
    true_pairs: int
    reduction: dict[str, list[Quality]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def value_report(
    agent: Agent,
    sampler: Sampler,
    seed: int,
    *,
    sizes: Sequence[int] = (500, 1000, 2000, 8000),
    estimates: int = 10,
    true_pairs: int = 150_000,
    repetitions: int = 5,
    streams: Sequence[Batch] | None = None,
    many: Sequence[Run] | None = None,
) -> ValueReport:
    """Run experiments B1 and B2 on an agent, which is left as it was.

    `streams` of experiment A, and `many` of `many_runs`, may be given to be used again.
    """
    errors = value_errors(agent, sampler, seed, repetitions=repetitions)
    true = true_value(agent, many_runs(agent, sampler, seed, true_pairs) if many is None else many, seed)
    if streams is None:
        streams = sampler.streams("gradient estimates", Snapshot.of(agent), seed, estimates, max(sizes))
    reduction = variance_reduction(agent, streams, true.network, seed, sizes)
    return ValueReport(agent.iteration, tuple(errors), true.explained_variance, true.pairs, reduction)
