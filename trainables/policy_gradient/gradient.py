"""Experiment A: how good are gradient estimates, against the number of state-action pairs (Ilyas et al., section 2.2).

k estimates from independent streams of the frozen policy. P is their mean pairwise cosine, T their mean cosine to a
gradient from many more pairs. With g_i = g + noise, E|noise|^2 = sigma^2 / N and B = sigma^2 / |g|^2, in pairs, the
noise scale of McCandlish et al. (2018), both follow from one number: P = 1 / (1 + B / N), T^2 = P.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tune_platform.trainables.policy_gradient.advantages import standardise
from tune_platform.trainables.policy_gradient.agent import Agent
from tune_platform.trainables.policy_gradient.policies import flat_gradient, flat_parameters
from tune_platform.trainables.policy_gradient.rollout import Batch
from tune_platform.trainables.policy_gradient.sampling import Sampler, Snapshot
from tune_platform.trainables.runtime import stream_seed

Floats = NDArray[np.float64]
KINDS = ("gradient", "step")
_CHUNK = 65_536


def surrogate_gradient(agent: Agent, observations: Tensor, actions: Tensor, advantages: Tensor) -> Floats:
    """Return the gradient of mean(ratio * advantage) at the present policy, where every ratio is one, as a flat vector.

    It equals mean(advantage * gradient of log pi(a|s)). Large batches are summed up in parts.
    """
    total: Tensor | None = None
    for start in range(0, len(advantages), _CHUNK):
        part = slice(start, start + _CHUNK)
        log_probs = agent.policy(observations[part]).log_prob(actions[part])
        ratio = torch.exp(log_probs - log_probs.detach())
        gradient = flat_gradient((ratio * advantages[part]).sum(), agent.policy)
        total = gradient if total is None else total + gradient
    assert total is not None
    mean: Floats = (total / len(advantages)).double().cpu().numpy()
    return mean


def gradient_of(agent: Agent, batches: Sequence[Batch], advantages: Sequence[Floats]) -> Floats:
    """Return one gradient estimate from all pairs of `batches`, their advantages standardised over all of them."""
    together = standardise(np.concatenate([values.reshape(-1) for values in advantages]))
    observations = np.concatenate([batch.flat_observations() for batch in batches])
    actions = np.concatenate([batch.flat_actions() for batch in batches])
    return surrogate_gradient(agent, agent.tensor(observations), agent.tensor(actions), agent.tensor(together))


def estimate(agent: Agent, batch: Batch, kind: str = "gradient") -> Floats:
    """Return the estimate from one batch: the policy "gradient", or the "step" that the algorithm would take from it.

    Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "gradient":
        return gradient_of(agent, [batch], [agent.estimate(batch)[1]])
    learner = copy.deepcopy(agent)
    learner.update(batch)
    step: Floats = (flat_parameters(learner.policy) - flat_parameters(agent.policy)).double().cpu().numpy()
    return step


def pairwise_cosine(vectors: Floats) -> float:
    """Return the mean cosine over all pairs of different rows (k x parameters)."""
    return float(np.mean(_cosines(vectors)[np.triu_indices(len(vectors), 1)]))


def cosines_to(vectors: Floats, reference: Floats) -> Floats:
    """Return the cosine of each row to `reference`."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference)
    cosines: Floats = (vectors @ reference) / np.maximum(norms, 1e-300)
    return cosines


def noise_scale(vectors: Floats, pairs: int) -> float:
    """Return the unbiased-moment estimate of B = sigma^2 / |g|^2, in pairs, from k estimates of `pairs` pairs each.

    Infinite where the estimates agree no better than by chance.
    """
    gram = vectors @ vectors.T
    signal = float(np.mean(gram[np.triu_indices(len(vectors), 1)]))  # E g_i . g_j = |g|^2
    if signal <= 0:
        return float("inf")
    return pairs * (float(np.mean(np.diag(gram))) - signal) / signal


def _cosines(vectors: Floats) -> Floats:
    norms = np.maximum(np.linalg.norm(vectors, axis=1), 1e-300)
    cosines: Floats = (vectors @ vectors.T) / np.outer(norms, norms)
    return cosines


def bootstrap_pairwise(vectors: Floats, draws: int, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean pairwise cosine by resampling whole estimates, not pairs of them.

    A pair of the same estimate drawn twice says nothing and is left out.
    """
    generator = np.random.default_rng(seed)
    cosines, k = _cosines(vectors), len(vectors)
    means = []
    for _ in range(draws):
        chosen = generator.integers(k, size=k)
        different = chosen[:, None] != chosen[None, :]
        if different.any():
            means.append(cosines[np.ix_(chosen, chosen)][different].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_mean(values: Floats, draws: int, seed: int) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Quality:
    """The quality at one number of pairs: P and T with their intervals, B, and trajectories per estimate."""

    pairs: int
    trajectories: float
    pairwise: float
    pairwise_low: float
    pairwise_high: float
    true: float
    true_low: float
    true_high: float
    noise_scale: float


def quality(vectors: Floats, reference: Floats | None, pairs: int, trajectories: float, seed: int) -> Quality:
    """Sum up k estimates (rows); without a reference T is NaN. Intervals: 500 bootstrap resamples."""
    to_true = np.array([np.nan]) if reference is None else cosines_to(vectors, reference)
    nan = (float("nan"), float("nan"))
    return Quality(
        pairs,
        trajectories,
        pairwise_cosine(vectors),
        *bootstrap_pairwise(vectors, 500, stream_seed(seed, "bootstrap", "pairwise", pairs)),
        float(to_true.mean()),
        *(nan if reference is None else bootstrap_mean(to_true, 500, stream_seed(seed, "bootstrap", "true", pairs))),
        noise_scale(vectors, pairs),
    )


def last_pairs(stream: Batch, pairs: int) -> Batch:
    """Return the last `pairs` pairs of a one-environment stream: exactly a batch that ends there.

    The last and not the first, so that a small batch does not see the beginnings of episodes only.
    """
    return stream.window(0, len(stream.rewards) - pairs)


def trajectories(batch: Batch) -> int:
    """Return how many episodes a batch touches: the independent units in it."""
    ended: int = int(batch.done[:-1].sum())
    return ended + int(batch.rewards.shape[1])


@dataclass(frozen=True)
class GradientReport:
    """Experiment A on one agent. `reference_pairs` is 0 where there is no many-sample gradient (steps)."""

    iteration: int
    kind: str
    qualities: tuple[Quality, ...]
    reference_pairs: int
    marker: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        rows = [vars(row) for row in self.qualities]
        return {**vars(self), "qualities": rows}


def gradient_report(
    agent: Agent,
    sampler: Sampler,
    seed: int,
    *,
    sizes: Sequence[int] = (500, 1000, 2000, 8000),
    estimates: int = 10,
    reference_pairs: int = 150_000,
    kind: str = "gradient",
) -> GradientReport:
    """Measure P(N) and T(N) of an agent: `estimates` independent streams for each of which every N is the end.

    Estimates of different N share their streams; those of one N share nothing. The agent is left as it was.
    """
    streams = sampler.streams("gradient estimates", Snapshot.of(agent), seed, estimates, max(sizes))
    compared = reference_pairs and kind == "gradient"
    many = reference_streams(agent, sampler, seed, reference_pairs) if compared else []
    return report_on(agent, streams, many, seed, sizes=sizes, kind=kind)


def report_on(
    agent: Agent,
    streams: Sequence[Batch],
    many: Sequence[Batch],
    seed: int,
    *,
    sizes: Sequence[int],
    kind: str = "gradient",
) -> GradientReport:
    """As `gradient_report`, on streams that are there already: one for each estimate, and `many` for g* (or none)."""
    reference = gradient_of(agent, many, [agent.estimate(batch)[1] for batch in many]) if many else None
    rows = []
    for pairs in sizes:
        parts = [last_pairs(stream, pairs) for stream in streams]
        vectors = np.stack([estimate(agent, part, kind) for part in parts])
        count = float(np.mean([trajectories(part) for part in parts]))
        rows.append(quality(vectors, reference, pairs, count, seed))
    used = sum(batch.pairs for batch in many)
    return GradientReport(agent.iteration, kind, tuple(rows), used, agent.settings.pairs)


def reference_streams(agent: Agent, sampler: Sampler, seed: int, pairs: int) -> list[Batch]:
    """Return streams of together at least `pairs` pairs, for the gradient that stands for the true one."""
    count = max(2, min(20, pairs // 5000))
    return sampler.streams("many-sample gradient", Snapshot.of(agent), seed, count, -(-pairs // count))


def probe(agent: Agent, seed: int) -> dict[str, float]:
    """Return P and B at `probe_pairs` pairs from ten estimates, as metrics of a running trial; it changes nothing."""
    settings = agent.settings
    probe_seed = stream_seed(seed, "probe", agent.iteration)
    row = gradient_report(agent, Sampler(), probe_seed, sizes=(settings.probe_pairs,), reference_pairs=0).qualities[0]
    return {"gradient_cosine": row.pairwise, "noise_scale": min(row.noise_scale, 1e12)}
