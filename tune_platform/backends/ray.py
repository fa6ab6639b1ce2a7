"""Runs trials in Ray actors: a warm pool of worker processes that are leased to one trial after the other.

A leg, from a launch or an advance to where the trial halts, is one call; a launch also ends the trial before. A
worker's first goes through Ray, the others through a socket where there is a way, which costs a tenth. Of a leg that
lasts longer than `flush_s` a second call collects the reports on the way. A save, a pause and a stop reach the trial by
calls of their own, and act after the present step. The training never waits for the driver. A turn costs what is ready,
not what is outstanding.
"""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, assert_never

# Where the driver was started by `uv run`, Ray would build an environment anew for every worker.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray

from tune_platform.backends._journal import clear
from tune_platform.backends._pickling import dumps
from tune_platform.backends._ray_capacity import Capacity
from tune_platform.backends._ray_cluster import connect, is_own
from tune_platform.backends._ray_connection import Connection
from tune_platform.backends._ray_leases import Leases
from tune_platform.backends._ray_nodes import Nodes
from tune_platform.backends._ray_noise import Quiet
from tune_platform.backends._ray_pool import Pool
from tune_platform.backends._ray_worker import RayWorker, Results
from tune_platform.cluster.address import check_address, check_options
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.protocol.backend import Job, Work
from tune_platform.protocol.commands import Advance, Launch, Release, Save
from tune_platform.protocol.events import CapacityChanged, Event
from tune_platform.resources import Resources

#: Seconds for which a busy loop does not look what is due.
_CHECK_S = 0.05
#: Seconds that a node may take to come up once the autoscaler has been asked.
_NODES_COME_WITHIN = 900.0


class RayBackend:
    """Runs trials on a Ray cluster, or on a Ray of its own on this machine.

    Uses the Ray that this process is connected to already; else connects to `address`, to `RAY_ADDRESS` or to
    a cluster that `ray start` made here; else (or with "local", or where `num_cpus` or `num_gpus` are given)
    starts a Ray of its own. `close` ends what the backend has started, and nothing else. A worker that is in
    the middle of a step when its trial is released has `grace_s` seconds to come back before its process is
    killed. One that has had nothing to do for `idle_s` seconds is ended, so that others can have its place. Nodes are
    looked up every `refresh_s` seconds. A Ray whose address was given has `connect_s` seconds to answer. With
    `autoscale` Ray's autoscaler is asked for places for the trials that run, wait and are to come, as many at a time as
    may run (a number: at most so many), and told when they are not wanted any more. Of a Ray that several searches
    share, one of `weight` 2 has twice as much as one of weight 1, and what one of higher `priority` wants, others give
    back at once: their trials save and wait. Further arguments go to `ray.init`. Raises SpecError
    for an address that is none, for less than one trial, and for no weight.
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
        idle_s: float = 5.0,
        refresh_s: float = 5.0,
        connect_s: float = 15.0,
        autoscale: bool | int = False,
        weight: float = 1.0,
        priority: int = 0,
        **init_kwargs: Any,
    ) -> None:
        if address is not None:
            address = check_address(address)
        seconds = {"grace_s": grace_s, "idle_s": idle_s, "refresh_s": refresh_s, "connect_s": connect_s}
        check_options({**seconds, "autoscale": autoscale, "weight": weight, "priority": priority})
        amounts = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self._init = {name: amount for name, amount in amounts.items() if amount is not None} | init_kwargs
        if address is None and self._init and not os.environ.get("RAY_ADDRESS"):
            address = "local"
        self._address = address
        self._grace_s, self._idle_s, self._refresh_s = grace_s, idle_s, refresh_s
        self._priority = priority
        self._connect_s, self._autoscale, self._weight = connect_s, autoscale, float(weight)
        self._connection: Connection | None = None  # where this backend has made it
        self._quiet = Quiet()
        self._results = Results()
        self._pool: Pool | None = None
        self._capacity: Capacity | None = None
        self._leases: Leases | None = None
        self._next_check = 0.0

    # the protocol

    @property
    def writing(self) -> bool:
        """Whether checkpoints of trials that have halted are still being written."""
        return self._pool is not None and self._pool.has_more

    def start(self, job: Job) -> CapacityChanged:
        """Connect to Ray and take the job.

        Raises SpecError where the trainable cannot be sent to a worker, and ExperimentError where no Ray is to be had.
        """
        try:
            payload = dumps(job)
        except Exception as error:
            raise SpecError(
                f"the trainable {job.trainable!r} cannot be sent to worker processes: {error}. Open files, "
                "locks and connections inside setup(), or name it as 'module:name'"
            ) from error
        self._connection = connect(self._address, self._init, self._connect_s) or self._connection
        self._quiet.start()
        atexit.register(self.close)
        clear(job.directory)
        nodes = Nodes(self._refresh_s, own=self._connection is not None and is_own())
        pool = self._pool = Pool(job, ray.put(payload), self._results, self._idle_s)
        capacity = self._capacity = Capacity(
            job, nodes, autoscale=self._autoscale, weight=self._weight, priority=self._priority
        )
        pool.nodes, pool.node_ids = nodes.have, nodes.ids
        self._leases = Leases(job, pool, self._results, capacity, self._grace_s)
        if job.resources is not None and job.reuse_workers:
            self.prepare(job.resources, job.max_concurrent)
        return CapacityChanged(time=self.now(), nodes=capacity.offered, fixed=nodes.own, shared=capacity.shared)

    def prepare(self, resources: Resources, count: float) -> None:
        """Start up to `count` workers for trials with these resources ahead of time, as far as they fit."""
        if self._pool is not None and self._capacity is not None:
            self._pool.prepare(self._capacity.offered, resources, count)

    def expect(self, trials: Sequence[tuple[Resources, int]]) -> None:
        """Make known to Ray's autoscaler for how many trials of which kind places are wanted."""
        if self._capacity is not None:
            self._capacity.expect(trials)

    @property
    def misfit_after(self) -> float | None:
        """Seconds for which a trial that no node could hold waits, where they are more than usual: for new nodes."""
        return _NODES_COME_WITHIN if self._autoscale else None

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def submit(self, work: Sequence[Work]) -> None:
        """Send the commands to the workers, without waiting for them."""
        leases = self._started
        released: list[RayWorker] = []
        for item in work:
            match item:
                case Launch():
                    leases.launch(item)
                case Advance():
                    leases.advance(item)
                case Save():
                    leases.save(item)
                case Release():
                    if (worker := leases.release(item)) is not None:
                        released.append(worker)
                case _:
                    assert_never(item)
        leases.end(released)

    def poll(self, timeout: float | None) -> list[Event]:
        """Return all events that are ready; wait for the first at most `timeout` seconds (None: for ever)."""
        leases, woken = self._started, False
        end = math.inf if timeout is None else time.monotonic() + timeout
        wait = 0.0
        while True:
            for item in self._results.take(wait):
                if item is None:
                    woken = True
                else:
                    leases.settle(*item)
            now = time.monotonic()
            due = now
            if not leases.events or now >= self._next_check:
                self._next_check = now + _CHECK_S
                due = self._do_what_is_due(now)
            if leases.events or woken or now >= end:
                events, leases.events = leases.events, []
                return events
            wait = max(0.0, min(due, end) - now)

    def _do_what_is_due(self, now: float) -> float:
        """Do what is to be done at certain times, and return the next of them, on the monotonic clock."""
        leases, capacity = self._started, self._capacity
        assert capacity is not None
        capacity.nodes.check()
        leases.do_what_is_due(now)
        if now >= capacity.nodes.due:
            leases.look_up_nodes()
        if now >= capacity.share_due:
            capacity.look_at_share(active=leases.active, running=leases.running)
            leases.tell_capacity()
            leases.retire_rested(now, int(max(0, min(leases.idle, leases.surplus))))
        return min(capacity.due, leases.due)

    def wake(self) -> None:
        """Have a `poll` that waits return at once; from any thread."""
        self._results.put(None)

    def replay(self, event: Event, work: Sequence[Work]) -> None:
        """Do nothing: the workers of an earlier driver ended with it."""

    def close(self) -> None:
        """End all workers, and the connection to Ray if this backend has made it. Safe to call twice."""
        atexit.unregister(self.close)
        pool, self._pool = self._pool, None
        capacity, self._capacity = self._capacity, None
        self._leases = None
        there = ray.is_initialized() and capacity is not None and not capacity.nodes.gone and capacity.nodes.answer()
        if pool is not None and capacity is not None and there:
            pool.close()
            with suppress(Exception):  # Ray may be gone
                capacity.close()
        self._results.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._quiet.stop()

    @property
    def _started(self) -> Leases:
        if self._leases is None:
            raise ExperimentError("the backend has not been started, or is closed: call start(job) first")
        return self._leases
