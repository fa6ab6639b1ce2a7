"""Sampling with a frozen policy for the analyses, here or spread over a Ray cluster.

Work is cut into jobs of a fixed size whose random streams come from their own number: the samples are the same ones
wherever the jobs run. Nothing of the trial that is looked at is touched: a job has environments, normalisers and
generators of its own.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tune_platform.trainables.policy_gradient.agent import Agent
from tune_platform.trainables.policy_gradient.environments import Environments
from tune_platform.trainables.policy_gradient.normalise import ObservationNormaliser, RewardScaler
from tune_platform.trainables.policy_gradient.policies import Actor
from tune_platform.trainables.policy_gradient.rollout import Batch, Episodes, collect, run_episodes
from tune_platform.trainables.policy_gradient.settings import Settings
from tune_platform.trainables.runtime import stream_seed

#: Streams and episodes of one job.
STREAMS, EPISODES = 10, 10


@dataclass(frozen=True)
class Snapshot:
    """All that acting and rewarding needs of an agent, to be sent to other processes; it never changes."""

    settings: Settings
    actor: Actor
    normaliser: ObservationNormaliser
    scaler: RewardScaler

    @staticmethod
    def of(agent: Agent) -> Snapshot:
        """Copy it out of an agent."""
        return Snapshot(agent.settings, agent.actor, copy.deepcopy(agent.normaliser), copy.deepcopy(agent.scaler))


def streams(snapshot: Snapshot, seeds: Sequence[int], steps: int, extra_steps: int = 0) -> Batch:
    """Collect one stream of `steps` pairs for each seed, each in an environment of its own from its reset on.

    `extra_steps` moves the time limit further away.
    """
    settings = snapshot.settings
    environments = Environments(settings.env_id, settings.env_kwargs, len(seeds), extra_steps)
    environments.reset(seeds)
    # Not the seeds themselves: of a single one gymnasium makes the same generator, and the noise would know the stream.
    draw = np.random.default_rng([stream_seed(seed, "actions") for seed in seeds])
    try:
        return collect(environments, snapshot.actor, snapshot.normaliser, snapshot.scaler, draw, steps, learn=False)
    finally:
        environments.close()


def episodes(snapshot: Snapshot, seeds: Sequence[int]) -> Episodes:
    """Run a whole episode for each seed."""
    settings = snapshot.settings
    environments = Environments(settings.env_id, settings.env_kwargs, len(seeds))
    try:
        return run_episodes(environments, snapshot.actor, snapshot.normaliser, seeds)
    finally:
        environments.close()


class Sampler:
    """Runs jobs one after the other in this process, or with `ray` as tasks of one CPU each.

    `progress` is told now and then what is being done, how much of it is done, and how much there is.
    """

    def __init__(self, *, ray: bool = False, progress: Callable[[str, int, int], None] | None = None) -> None:
        self._ray = ray
        self._progress = progress or (lambda what, done, total: None)

    def map(self, what: str, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return function(*job) of every job, in the order of the jobs."""
        if self._ray:
            return self._map_on_ray(what, function, jobs)
        results = []
        for number, job in enumerate(jobs):
            self._progress(what, number, len(jobs))
            results.append(function(*job))
        self._progress(what, len(jobs), len(jobs))
        return results

    def say(self, text: str) -> None:
        """Tell of something that is done, where progress is told at all."""
        self._progress(text, 1, 1)

    def streams(
        self, what: str, snapshot: Snapshot, seed: int, count: int, steps: int, extra_steps: int = 0
    ) -> list[Batch]:
        """Return `count` independent streams, each a batch of `steps` pairs of one environment."""
        seeds = [stream_seed(seed, what, index) for index in range(count)]
        jobs = [(snapshot, part, steps, extra_steps) for part in _parts(seeds, STREAMS)]
        batches: list[Batch] = self.map(what, streams, jobs)
        return [batch.window(env) for batch in batches for env in range(batch.rewards.shape[1])]

    def returns(self, what: str, snapshots: Sequence[Snapshot], seed: int, count: int) -> np.ndarray[Any, Any]:
        """Return the returns of `count` episodes for each snapshot (snapshots x count), on the same seeds for all."""
        seeds = [stream_seed(seed, what, index) for index in range(count)]
        jobs = [(snapshot, part) for snapshot in snapshots for part in _parts(seeds, EPISODES)]
        results: list[Episodes] = self.map(what, episodes, jobs)
        flat = [value for result in results for value in result.returns]
        return np.array(flat).reshape(len(snapshots), count)

    def _map_on_ray(self, what: str, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
        ray = _connected_ray()
        task = ray.remote(num_cpus=1)(_single_threaded)
        sent: dict[int, Any] = {}  # each object that several jobs share is sent once

        def once(value: Any) -> Any:
            if not isinstance(value, Snapshot):
                return value
            if id(value) not in sent:
                sent[id(value)] = ray.put(value)
            return sent[id(value)]

        references = [task.remote(function, *map(once, job)) for job in jobs]
        waiting = list(references)
        while waiting:
            self._progress(what, len(jobs) - len(waiting), len(jobs))
            _, waiting = ray.wait(waiting, num_returns=1)
        self._progress(what, len(jobs), len(jobs))
        results: list[Any] = ray.get(references)
        return results


def print_progress(what: str, done: int, total: int) -> None:
    """Write a line to stderr that the next one replaces, on a terminal; elsewhere a line when all is done."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{what}: {done}/{total}{'' if done < total else chr(10)}")
    elif done == total:
        sys.stderr.write(f"{what}: {total} done\n")
    sys.stderr.flush()


def _parts(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _single_threaded(function: Callable[..., Any], *job: Any) -> Any:
    import torch

    torch.set_num_threads(1)
    return function(*job)


def _connected_ray() -> Any:
    """Join the Ray that `RAY_ADDRESS` names or that runs here, or start a local one."""
    # Under `uv run` Ray would build every worker an environment of its own.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    return ray
