"""The worker processes of the Ray backend: started ahead, leased to one trial after the other, given back."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from tune_platform.backends import _worker
from tune_platform.backends._ray_placement import Shape, ray_names, reserve, shape_of
from tune_platform.backends._ray_worker import GROUPS, RayWorker, Results
from tune_platform.distributed.gang import Gang
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Launch
from tune_platform.resources import Ledger, Resources
from tune_platform.surroundings import surroundings

#: Workers that are started ahead of the first trials at most, and for how long (seconds) they are kept for them.
_PREPARED = 64
_PREPARED_S = 30.0
#: Seconds that workers have in `close` to give back what they hold.
_CLOSE_S = 2.0
_EPSILON = 1e-6


class Pool:
    """All worker processes of one backend. `nodes` and `node_ids` are what the cluster was last seen to have."""

    def __init__(self, job: Job, payload: Any, results: Results, idle_s: float) -> None:
        self.nodes: Sequence[dict[str, float]] = ()
        self.node_ids: Sequence[str] = ()
        self._job = job
        self._payload = payload
        self._surroundings = surroundings()
        if "working_dir" in ray.get_runtime_context().runtime_env:  # a copy of one: Ray puts the workers there
            self._surroundings = self._surroundings._replace(folder="")
        self._results = results
        self._idle_s = idle_s
        self._actor = ray.remote(concurrency_groups=GROUPS)(_worker.Worker)
        self._workers: dict[RayWorker, None] = {}
        self._idle: dict[Shape, list[RayWorker]] = defaultdict(list)
        self._ending: dict[Shape, list[RayWorker]] = defaultdict(list)  # still in the last step of a released trial
        self._resting: dict[RayWorker, float] = {}  # the idle ones, and until when they are kept; that rises
        self._ahead: dict[RayWorker, float] = {}  # ... of those that have served nobody yet
        self._warm: dict[int, RayWorker] = {}

    @property
    def idle(self) -> int:
        """How many workers are kept for trials to come."""
        return len(self._resting) + len(self._ahead)

    @property
    def has_more(self) -> bool:
        """Whether some worker still has to tell of a leg that is over, such as a checkpoint that is being written."""
        return any(worker.more for worker in self._workers)

    # leases

    def prepare(self, nodes: Sequence[Mapping[str, float]], resources: Resources, count: float) -> None:
        """Start up to `count` workers for trials with these resources ahead of time, as far as `nodes` hold them."""
        ledger = Ledger(nodes)
        until = time.monotonic() + max(_PREPARED_S, self._idle_s)
        while ledger.leases() < min(count, _PREPARED) and resources.bundle():
            placed = ledger.lease(ledger.leases(), resources)
            if placed is None:
                return
            worker = self._spawn(shape_of(placed, resources))
            self._idle[worker.shape].append(worker)
            self._ahead[worker] = until

    def take(self, launch: Launch) -> RayWorker:
        """Return a worker for a trial: the one that has it in memory, an idle one, or a new process.

        Raises SpecError or ValueError for what Ray cannot place.
        """
        shape = shape_of(launch.nodes or (0,) * launch.resources.workers, launch.resources)
        warm = self._warm.pop(launch.trial, None)
        # One that is still ending before a new process: it holds the resources that the new one would wait for.
        for pool in (self._idle[shape], self._ending[shape]):
            if warm in pool:
                pool.remove(warm)
                return self._woken(warm)
        for pool in (self._idle[shape], self._ending[shape]):
            if pool:
                # The one that ran last, so that others may retire; of new ones the first, the likeliest to be up.
                return self._woken(pool.pop(-1 if pool[-1].served else 0))
        return self._woken(self._spawn(shape))

    def _woken(self, worker: RayWorker) -> RayWorker:
        self._resting.pop(worker, None)
        self._ahead.pop(worker, None)
        worker.served = True
        return worker

    def keep_warm(self, worker: RayWorker, trial: int) -> None:
        """Note that the worker has a paused trial in memory."""
        self._warm[trial] = worker

    def rest(self, worker: RayWorker) -> None:
        """Keep a worker for the trials to come, for a while."""
        self._idle[worker.shape].append(worker)
        self._resting[worker] = time.monotonic() + self._idle_s

    def await_end(self, worker: RayWorker) -> None:
        """Keep a worker that is still in the last step of a released trial."""
        self._ending[worker.shape].append(worker)

    def came_back(self, worker: RayWorker) -> None:
        """Note that the last step of a released trial is over."""
        if worker in self._ending[worker.shape]:
            self._ending[worker.shape].remove(worker)
            self.rest(worker)

    # processes

    def retire(self, worker: RayWorker) -> None:
        """Have the process give back what it holds; it is ended once it has, or by `discard`."""
        if worker in self._idle[worker.shape]:
            self._idle[worker.shape].remove(worker)
        self._woken(worker)
        self._forget_warm(worker)
        worker.call(self._results, "close")

    def retire_rested(self, now: float, surplus: int = 0) -> Iterator[RayWorker]:
        """Retire those that were idle for too long, and `surplus` idle ones, whatever their time; yield each."""
        for resting in (self._resting, self._ahead):
            while resting and (surplus > 0 or next(iter(resting.values())) <= now):
                worker = next(iter(resting))
                surplus -= 1
                self.retire(worker)
                yield worker

    def next_rested(self) -> float:
        """Return when `retire_rested` is due next, on the monotonic clock."""
        firsts = [next(iter(resting.values())) for resting in (self._resting, self._ahead) if resting]
        return min(firsts, default=float("inf"))

    def discard(self, worker: RayWorker) -> None:
        """End the process at once and forget it."""
        worker.dead = True
        worker.training.clear()
        if worker.link is not None:
            self._results.remove(worker.link)
        self._workers.pop(worker, None)
        for pool in (self._idle[worker.shape], self._ending[worker.shape]):
            if worker in pool:
                pool.remove(worker)
        self._woken(worker)
        self._forget_warm(worker)
        _kill(worker)

    def close(self) -> None:
        """End all processes."""
        workers, self._workers = list(self._workers), {}
        refs = []
        try:
            for worker in workers:
                worker.dead = True
                if worker.link is not None and worker.link.serves:
                    worker.link.leave()
                refs.append(worker.handle.close.remote())
            if refs:
                ray.wait(refs, num_returns=len(refs), timeout=_CLOSE_S)
        finally:
            for worker in workers:
                if worker.link is not None:
                    self._results.remove(worker.link)
                _kill(worker)

    def _forget_warm(self, worker: RayWorker) -> None:
        if self._warm:
            self._warm = {trial: other for trial, other in self._warm.items() if other is not worker}

    def _spawn(self, shape: Shape) -> RayWorker:
        job = self._job
        self._make_room(shape)
        amounts = ray_names(shape.bundle)
        options: dict[str, Any] = {
            "num_cpus": amounts.pop("CPU", 0), "num_gpus": amounts.pop("GPU", 0), "max_restarts": 0,
            "max_task_retries": 0, "enable_task_events": False,  # not a line for each leg in Ray's own list of tasks
        }  # fmt: skip
        if "memory" in amounts:
            options["memory"] = amounts.pop("memory")
        placement = None
        if len(shape.nodes) > 1:
            placement = reserve(shape, self.node_ids)
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(placement, 0)
        elif len(self.node_ids) > 1:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                self.node_ids[shape.nodes[0]], soft=False
            )  # fmt: skip
        actor = self._actor.options(resources=amounts, **options)
        workers = len(shape.nodes)
        # Whether an entrypoint asks for its gang is not known here; where it has several workers, it will.
        asks = isinstance(job.trainable, str) or getattr(job.trainable, "uses_gang", False)
        gang = Gang("ray", workers, dict(shape.bundle), job.log_limit) if workers > 1 and asks else None
        worker = RayWorker(actor.remote(self._payload, self._surroundings, gang), shape, placement)
        self._workers[worker] = None
        return worker

    def _make_room(self, shape: Shape) -> None:
        """End idle workers of other shapes whose resources a new worker needs; Ray lets it wait for them."""
        for node in dict.fromkeys(shape.nodes):
            bundle = shape.of_node(node)
            free = dict(self.nodes[node]) if node < len(self.nodes) else {}
            for worker in self._workers:
                for name, amount in worker.shape.of_node(node).items():
                    free[name] = free.get(name, 0.0) - amount
            idle = [worker for other, pool in self._idle.items() if node in other.nodes for worker in pool]
            for worker in idle:
                short = {name for name, amount in bundle.items() if free.get(name, 0.0) + _EPSILON < amount}
                if not short:
                    break
                held = worker.shape.of_node(node)
                if short & held.keys():
                    self.retire(worker)
                    for name, amount in held.items():
                        free[name] += amount


def _kill(worker: RayWorker) -> None:
    with suppress(RayError, ValueError, RuntimeError):
        ray.kill(worker.handle, no_restart=True)
    if worker.placement is not None:  # with it go the other workers of the gang, whoever holds them
        with suppress(RayError, ValueError, RuntimeError):
            remove_placement_group(worker.placement)
