"""Runs trials in Ray actors: a warm pool of worker processes that are leased to one trial after the other.

A launch is one actor call, which also ends the trial before; an advance is one more. While a trial is between
milestones one further call is always queued behind the present one, so that the training never waits for the
driver. Results arrive through callbacks: a turn costs what is ready, not what is outstanding.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import pickle
import queue
import sys
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, assert_never

import cloudpickle

# Where the driver was started by `uv run`, Ray would build an environment anew for every worker.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util import remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from tune_platform.backends import _worker
from tune_platform.backends._batch import Batch, Failure
from tune_platform.backends._ray_placement import Shape, amounts_of, ray_names, reserve, shape_of
from tune_platform.distributed.gang import Gang
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.protocol.backend import Job, Work
from tune_platform.protocol.commands import Advance, Launch, Release, Save
from tune_platform.protocol.events import CapacityChanged, Event, Saved
from tune_platform.resources import Ledger, Resources

#: Run calls that are given to a worker whose trial runs: the present one and the next.
_DEPTH = 2
#: Workers that are started ahead of the first trials at most.
_PREPARED = 64
#: Workers in a row that Ray gives up before they run, after which it is the cluster that is missing.
_CLUSTER_IS_GONE = 3
#: Seconds that workers have in `close` to give back what they hold.
_CLOSE_S = 2.0
_EPSILON = 1e-6
_RUNS = ("launch", "advance", "go_on")


@dataclass(slots=True, eq=False)
class _Call:
    """One actor call under way; `lease` is the launch that it serves (None: the end of one)."""

    kind: str
    order: int
    lease: Launch | None
    ref: Any = None
    result: Future[Any] | None = None


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker process. `calls` are those under way, in order; `placement` is the group of a gang's bundles."""

    handle: Any
    shape: Shape
    placement: Any = None
    lease: Launch | None = None
    order: int = 0
    calls: deque[_Call] = field(default_factory=deque)
    name: str = ""
    running: bool = False  # as far as is known: the trial is not at a milestone, nor at its end
    ended: bool = True  # the trial has ended by itself, nothing is left to end
    warm: bool = False  # whether the trial that was released last is to be kept in memory
    dead: bool = False
    deadline: float | None = None  # for coming back after a release


class RayBackend:
    """Runs trials on a Ray cluster, or on a Ray of its own on this machine.

    Uses the Ray that this process is connected to already; else connects to `address`, to `RAY_ADDRESS` or to
    a cluster that `ray start` made here; else (or with "local", or where `num_cpus` or `num_gpus` are given)
    starts a Ray of its own. `close` ends what the backend has started, and nothing else. A worker that is in
    the middle of a step when its trial is released has `grace_s` seconds to come back before its process is
    killed. Nodes are looked up every `refresh_s` seconds. Further arguments go to `ray.init`.
    """

    parallel = True
    virtual = False

    def __init__(
        self,
        address: str | None = None,
        *,
        num_cpus: int | None = None,
        num_gpus: int | None = None,
        grace_s: float = 10.0,
        refresh_s: float = 5.0,
        **init_kwargs: Any,
    ) -> None:
        amounts = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self._init = {name: amount for name, amount in amounts.items() if amount is not None} | init_kwargs
        if address is None and self._init and not os.environ.get("RAY_ADDRESS"):
            address = "local"
        self._address = address
        self._grace_s, self._refresh_s = grace_s, refresh_s
        self._connected = False
        self._job: Job | None = None
        self._payload: Any = None
        self._actor: Any = None
        self._results: queue.SimpleQueue[tuple[_Worker, _Call, Future[Any]] | None] = queue.SimpleQueue()
        self._ready: list[Event] = []
        self._workers: dict[_Worker, None] = {}
        self._idle: dict[Shape, list[_Worker]] = defaultdict(list)
        self._ending: dict[Shape, list[_Worker]] = defaultdict(list)
        self._leases: dict[int, _Worker] = {}
        self._warm: dict[int, _Worker] = {}
        self._late: dict[_Worker, None] = {}  # those with a deadline
        self._node_ids: list[str] = []
        self._nodes: tuple[dict[str, float], ...] = ()
        self._next_refresh = 0.0
        self._never_ran = 0  # workers in a row that Ray gave up before they ran

    # the protocol

    def start(self, job: Job) -> CapacityChanged:
        """Connect to Ray and take the job. Raises SpecError where the trainable cannot be sent to a worker."""
        try:
            payload = cloudpickle.dumps(job)
        except Exception as error:
            raise SpecError(
                f"the trainable {job.trainable!r} cannot be sent to worker processes: {error}. Open files, "
                "locks and connections inside setup(), or name it as 'module:name'"
            ) from error
        self._connect()
        atexit.register(self.close)
        self._job = job
        self._payload = ray.put(payload)
        self._actor = ray.remote(_worker.Worker)
        self._nodes = self._look_up_nodes()
        if job.resources is not None and job.reuse_workers:
            self.prepare(job.resources, job.max_concurrent)
        return CapacityChanged(time=self.now(), nodes=self._nodes)

    def prepare(self, resources: Resources, count: float) -> None:
        """Start up to `count` workers for trials with these resources ahead of time, as far as they fit."""
        ledger = Ledger(self._nodes)
        while ledger.leases() < min(count, _PREPARED) and resources.bundle():
            nodes = ledger.lease(ledger.leases(), resources)
            if nodes is None:
                return
            shape = shape_of(nodes, resources)
            self._idle[shape].append(self._spawn(shape))

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def submit(self, work: Sequence[Work]) -> None:
        """Send the commands to the workers, without waiting for them."""
        released: list[_Worker] = []
        for item in work:
            match item:
                case Launch():
                    self._launch(item)
                case Advance():
                    worker = self._leases.get(item.trial)
                    if worker is not None:
                        worker.order += 1
                        worker.running = True
                        self._call(worker, "advance", worker.order, item.until, item.save)
                case Save():
                    worker = self._leases.get(item.trial)
                    if worker is not None:
                        self._call(worker, "save")
                case Release():
                    worker = self._leases.pop(item.trial, None)
                    if worker is not None:
                        self._release(worker, item)
                        released.append(worker)
                case _:
                    assert_never(item)
        for worker in released:  # a launch on the same worker ends the trial before in the same call
            if worker.lease is None and not worker.ended and not worker.dead:
                worker.ended = True
                self._call(worker, "end", worker.warm)
                self._limit(worker)

    def poll(self, timeout: float | None) -> list[Event]:
        """Return all events that are ready; wait for the first at most `timeout` seconds (None: for ever)."""
        events, self._ready = self._ready, []
        end = None if timeout is None else time.monotonic() + timeout
        woken = False
        while True:
            with suppress(queue.Empty):
                while True:
                    woken |= self._receive(self._results.get_nowait(), events)
            now = time.monotonic()
            self._end_late(now, events)
            self._refresh(now, events)
            if events or woken or (end is not None and now >= end):
                return events
            times = [self._next_refresh, *(worker.deadline for worker in self._late if worker.deadline)]
            until = min(times if end is None else [*times, end])
            with suppress(queue.Empty):
                woken = self._receive(self._results.get(timeout=max(0.0, until - now)), events)

    def _receive(self, item: tuple[_Worker, _Call, Future[Any]] | None, events: list[Event]) -> bool:
        """Take a result that has arrived; True where it is only a wake-up."""
        if item is not None:
            self._settle(*item, events)
        return item is None

    def wake(self) -> None:
        """Have a `poll` that waits return at once; from any thread."""
        self._results.put(None)

    def replay(self, event: Event, work: Sequence[Work]) -> None:
        """Do nothing: the workers of an earlier driver ended with it."""

    def close(self) -> None:
        """End all workers, and the connection to Ray if this backend has made it. Safe to call twice."""
        atexit.unregister(self.close)
        workers, self._workers = list(self._workers), {}
        if ray.is_initialized():
            self._close_workers(workers)
        for pool in (self._idle, self._ending, self._leases, self._warm, self._late):
            pool.clear()
        self._payload = None
        if self._connected:
            self._connected = False
            ray.shutdown()

    def _close_workers(self, workers: list[_Worker]) -> None:
        refs = []
        try:
            for worker in workers:
                worker.dead = True
                refs.append(worker.handle.close.remote())
            if refs:
                ray.wait(refs, num_returns=len(refs), timeout=_CLOSE_S)
        finally:
            for worker in workers:
                _kill(worker)

    # leases

    def _launch(self, launch: Launch) -> None:
        worker = self._leases.get(launch.trial)  # a clone goes on in the process that it has
        try:
            if worker is None:
                worker = self._take(launch)
        except (SpecError, ValueError) as error:
            failure = Failure("exception", str(error), fatal=True)
            self._ready.append(failure.event(self.now(), launch.trial, launch.attempt))
            return
        worker.lease = launch
        worker.order += 1
        worker.running, worker.ended = True, False
        self._leases[launch.trial] = worker
        # A config may hold functions and the like, which only cloudpickle can send.
        packed = pickle.dumps(launch, protocol=5) if _is_plain(launch.config) else cloudpickle.dumps(launch)
        self._call(worker, "launch", worker.order, packed, worker.warm)
        worker.warm = False

    def _take(self, launch: Launch) -> _Worker:
        shape = shape_of(launch.nodes or (0,) * launch.resources.workers, launch.resources)
        warm = self._warm.pop(launch.trial, None)
        # One that is still ending before a new process: it holds the resources that the new one would wait for.
        for pool in (self._idle[shape], self._ending[shape]):
            if warm in pool:
                pool.remove(warm)
                return warm
        for pool in (self._idle[shape], self._ending[shape]):
            if pool:
                return pool.pop(0)  # the one that was started first is the likeliest to be up
        return self._spawn(shape)

    def _release(self, worker: _Worker, release: Release) -> None:
        assert self._job is not None
        worker.lease = None
        if release.kill:
            self._discard(worker)
            return
        if not self._job.reuse_workers:
            self._retire(worker)
            return
        worker.warm = release.warm
        if release.warm:
            self._warm[release.trial] = worker
        if worker.running:
            self._ending[worker.shape].append(worker)
            self._limit(worker)
        else:
            self._idle[worker.shape].append(worker)

    # processes

    def _spawn(self, shape: Shape) -> _Worker:
        job = self._job
        assert job is not None
        self._make_room(shape)
        amounts = ray_names(shape.bundle)
        options: dict[str, Any] = {
            "num_cpus": amounts.pop("CPU", 0), "num_gpus": amounts.pop("GPU", 0), "max_restarts": 0,
            "max_task_retries": 0,
        }  # fmt: skip
        if "memory" in amounts:
            options["memory"] = amounts.pop("memory")
        placement = None
        if len(shape.nodes) > 1:
            placement = reserve(shape, self._node_ids)
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(placement, 0)
        elif len(self._node_ids) > 1:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                self._node_ids[shape.nodes[0]], soft=False
            )  # fmt: skip
        actor = self._actor.options(resources=amounts, **options)
        workers = len(shape.nodes)
        # Whether an entrypoint asks for its gang is not known here; where it has several workers, it will.
        asks = isinstance(job.trainable, str) or getattr(job.trainable, "uses_gang", False)
        gang = Gang("ray", workers, dict(shape.bundle)) if workers > 1 and asks else None
        worker = _Worker(actor.remote(self._payload, sys.path, gang), shape, placement)
        self._workers[worker] = None
        return worker

    def _make_room(self, shape: Shape) -> None:
        """End idle workers of other shapes whose resources a new worker needs; Ray lets it wait for them."""
        for node in dict.fromkeys(shape.nodes):
            bundle = shape.of_node(node)
            free = dict(self._nodes[node]) if node < len(self._nodes) else {}
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
                    self._idle[worker.shape].remove(worker)
                    self._retire(worker)
                    for name, amount in held.items():
                        free[name] += amount

    def _retire(self, worker: _Worker) -> None:
        """Have the process give back what it holds, then end it."""
        self._call(worker, "close")
        self._limit(worker)

    def _discard(self, worker: _Worker) -> None:
        """End the process at once and forget it."""
        worker.dead = True
        worker.calls.clear()
        self._workers.pop(worker, None)
        self._late.pop(worker, None)
        for pool in (self._idle[worker.shape], self._ending[worker.shape]):
            if worker in pool:
                pool.remove(worker)
        if self._warm:
            self._warm = {trial: other for trial, other in self._warm.items() if other is not worker}
        _kill(worker)

    def _limit(self, worker: _Worker) -> None:
        assert self._job is not None
        # Calls that are queued are not cancelled, each ends within `flush_s` and a step: after ray.cancel of an
        # actor's call, Ray may never run the calls that follow it.
        worker.deadline = time.monotonic() + self._grace_s + _DEPTH * self._job.flush_s
        self._late[worker] = None

    def _end_late(self, now: float, events: list[Event]) -> None:
        for worker in [worker for worker in self._late if worker.deadline is not None and now >= worker.deadline]:
            self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        """End a process that cannot be used again; a trial that waits for it is launched on another."""
        launch = worker.lease
        self._discard(worker)
        if launch is not None:
            del self._leases[launch.trial]
            self._launch(launch)

    # calls and their results

    def _call(self, worker: _Worker, kind: str, *args: Any) -> None:
        call = _Call(kind, worker.order, worker.lease)
        worker.calls.append(call)
        call.ref = getattr(worker.handle, kind).remote(*args)
        results = self._results
        call.ref.future().add_done_callback(lambda future: results.put((worker, call, future)))

    def _settle(self, worker: _Worker, call: _Call, result: Future[Any], events: list[Event]) -> None:
        # A large result may arrive after the small one that follows it: they are taken in the order of the calls.
        call.result = result
        while not worker.dead and worker.calls and worker.calls[0].result is not None:
            self._take_result(worker, worker.calls.popleft(), events)
        if worker.dead or worker.deadline is None:
            return
        if not worker.calls or (worker.lease is not None and worker.calls[0].lease is worker.lease):
            worker.deadline = None
            self._late.pop(worker, None)
            if worker in self._ending[worker.shape]:
                worker.running = False
                self._ending[worker.shape].remove(worker)
                self._idle[worker.shape].append(worker)

    def _take_result(self, worker: _Worker, call: _Call, events: list[Event]) -> None:
        assert call.result is not None
        error = call.result.exception()
        if error is not None:
            self._lose(worker, error, events)
            return
        value = call.result.result()
        if isinstance(value, bytes):
            value = pickle.loads(value)
        if call.kind == "close":
            self._discard(worker)
        if call.kind == "launch":
            worker.name, value = value
        if call.lease is None or call.lease is not worker.lease:
            return  # what a released trial still reports is not wanted
        if value == _worker.SPOILT:
            self._replace(worker)
        elif isinstance(value, Batch):
            events.extend(value.events(self.now(), worker.name))
            worker.running = value.state == "running"
            worker.ended = value.state in ("done", "failed")
            if worker.running and call.order == worker.order:
                for _ in range(_DEPTH - sum(other.kind in _RUNS for other in worker.calls)):
                    self._call(worker, "go_on", worker.order)
        elif isinstance(value, Failure):
            events.append(value.event(self.now(), call.lease.trial, call.lease.attempt))
        elif call.kind == "save":
            events.append(Saved(time=self.now(), trial=call.lease.trial, attempt=call.lease.attempt, checkpoint=value))

    def _lose(self, worker: _Worker, error: BaseException, events: list[Event]) -> None:
        lease = worker.lease
        self._discard(worker)
        if lease is not None:
            del self._leases[lease.trial]
            if isinstance(error, RayTaskError) or not isinstance(error, RayError):
                failure = Failure("exception", str(error.__cause__ or error), str(error))
            else:
                failure = Failure("worker_died", _obituary(worker, lease.trial, error))
                self._mourn(failure.message)
                self._refresh(math.inf, events)  # first: with its node, perhaps, where it must not be launched again
            events.append(failure.event(self.now(), lease.trial, lease.attempt))

    def _mourn(self, message: str) -> None:
        """Raise ExperimentError where it is not a worker that has died but the cluster: no trial is to blame."""
        self._never_ran = self._never_ran + 1 if "never ran" in message else 0
        if self._never_ran >= _CLUSTER_IS_GONE:
            raise ExperimentError(
                f"{self._never_ran} workers in a row could not be started: is the Ray cluster gone? Nothing that was "
                f"reported is lost: resume the experiment once Ray is back. The last: {message}"
            )

    # the cluster

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        before = os.environ.get("RAY_USAGE_STATS_ENABLED")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        defaults = {"log_to_driver": False, "include_dashboard": False, "logging_level": logging.ERROR}
        # Ray reads the variable set above when it is first imported, which may have been before this module.
        ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] not in (
            "0",
            "false",
        )
        names = {"namespace": f"tune-platform-{os.getpid()}-{time.time_ns():x}"}
        try:
            ray.init(address=self._address, **{**defaults, **names, **self._init})
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"at {self._address!r}" if self._address not in (None, "local") else "on this machine"
            raise ExperimentError(f"cannot connect to or start Ray {where}: {error}") from error
        finally:
            if before is None:
                del os.environ["RAY_USAGE_STATS_ENABLED"]
        self._connected = True

    def _look_up_nodes(self) -> tuple[dict[str, float], ...]:
        self._next_refresh = time.monotonic() + self._refresh_s
        alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        self._node_ids += [node for node in alive if node not in self._node_ids]
        # The place of a node that is gone stays, empty: trials and leases name nodes by their place.
        return tuple(amounts_of(alive.get(node, {})) for node in self._node_ids)

    def _refresh(self, now: float, events: list[Event]) -> None:
        if now >= self._next_refresh:
            nodes = self._look_up_nodes()
            if nodes != self._nodes:
                self._nodes = nodes
                events.append(CapacityChanged(time=self.now(), nodes=nodes))


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _kill(worker: _Worker) -> None:
    with suppress(RayError, ValueError, RuntimeError):
        ray.kill(worker.handle, no_restart=True)
    if worker.placement is not None:  # with it go the other workers of the gang, whoever holds them
        with suppress(RayError, ValueError, RuntimeError):
            remove_placement_group(worker.placement)


def _obituary(worker: _Worker, trial: int, error: BaseException) -> str:
    text = " ".join(str(error).split())
    detail = text[text.find("The actor is dead because") :] if "The actor is dead because" in text else text
    return (
        f"the worker process {worker.name or '(not started yet)'} of trial {trial} died: {detail} Common causes: "
        "it was killed for lack of memory, it crashed in native code, or its node was lost"
    )
