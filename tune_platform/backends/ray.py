"""Runs trials in Ray actors: a warm pool of worker processes that are leased to one trial after the other.

A leg, from a launch or an advance to where the trial halts, is one actor call; a launch also ends the trial before. Of
a leg that lasts longer than `flush_s` a second call collects the reports on the way. A save, a pause and a stop reach
the trial by calls of their own, and act after the present step. The training never waits for the driver. Results
arrive through callbacks: a turn costs what is ready, not what is outstanding.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import pickle
import queue
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, assert_never

# Where the driver was started by `uv run`, Ray would build an environment anew for every worker.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray
from ray.exceptions import RayError, RayTaskError

from tune_platform.backends import _worker
from tune_platform.backends._batch import Batch, Failure, Item
from tune_platform.backends._full_disk import FullDisk
from tune_platform.backends._journal import clear, recover
from tune_platform.backends._obituary import cause_of, obituary, process_of
from tune_platform.backends._pickling import dumps, is_plain
from tune_platform.backends._ray_avoid import IN_A_ROW, Rows
from tune_platform.backends._ray_board import RayBoard
from tune_platform.backends._ray_cluster import connect, is_own
from tune_platform.backends._ray_connection import Connection
from tune_platform.backends._ray_held import Held
from tune_platform.backends._ray_nodes import Nodes
from tune_platform.backends._ray_noise import Quiet
from tune_platform.backends._ray_pool import Pool
from tune_platform.backends._ray_turns import Turns
from tune_platform.backends._ray_worker import Arrived, Call, RayWorker, Results
from tune_platform.backends._writer import Written
from tune_platform.backends.executor import trial_folder
from tune_platform.cluster.address import check_address
from tune_platform.cluster.admission import ALL, Admission, offered
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.protocol.backend import Job, Work
from tune_platform.protocol.commands import Advance, Launch, Release, Save
from tune_platform.protocol.events import CapacityChanged, Event
from tune_platform.protocol.milestones import halts
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.protocol.text import plain
from tune_platform.resources import Resources

logger = logging.getLogger(__name__)

#: Seconds for which a busy loop does not look what is due.
_CHECK_S = 0.05
#: Seconds between two looks at what other drivers want.
_LOOK_S = 1.0
#: Workers in a row that Ray gives up before they run, after which it is the cluster that is missing.
_CLUSTER_IS_GONE = 3
#: Checkpoints of which it is known which process may have a copy.
_MANY_HELD = 4096


class RayBackend:
    """Runs trials on a Ray cluster, or on a Ray of its own on this machine.

    Uses the Ray that this process is connected to already; else connects to `address`, to `RAY_ADDRESS` or to
    a cluster that `ray start` made here; else (or with "local", or where `num_cpus` or `num_gpus` are given)
    starts a Ray of its own. `close` ends what the backend has started, and nothing else. A worker that is in
    the middle of a step when its trial is released has `grace_s` seconds to come back before its process is
    killed. One that has had nothing to do for `idle_s` seconds is ended, so that others can have its place. Nodes are
    looked up every `refresh_s` seconds. A Ray whose address was given has `connect_s` seconds to answer. Further
    arguments go to `ray.init`. Raises SpecError for an address that is none.
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
        **init_kwargs: Any,
    ) -> None:
        if address is not None:
            address = check_address(address)
        amounts = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self._init = {name: amount for name, amount in amounts.items() if amount is not None} | init_kwargs
        if address is None and self._init and not os.environ.get("RAY_ADDRESS"):
            address = "local"
        self._address = address
        self._grace_s, self._idle_s, self._refresh_s = grace_s, idle_s, refresh_s
        self._nodes = Nodes(refresh_s)
        self._rows = Rows()
        self._full = FullDisk()
        self._connect_s = connect_s
        self._connection: Connection | None = None  # where this backend has made it
        self._quiet = Quiet()
        self._job: Job | None = None
        self._pool: Pool | None = None
        self._results: Results = queue.SimpleQueue()
        self._ready: list[Event] = []
        self._leases: dict[int, RayWorker] = {}
        self._legs: dict[RayWorker, float] = {}  # those shorter than flush_s, as yet, and until when; that rises
        self._late: dict[RayWorker, None] = {}  # those with a deadline
        self._holders: dict[str, RayWorker] = {}  # of checkpoints that may be in memory, by URI, oldest first
        self._admission: Admission | None = None  # where all trials hold the same
        self._share = ALL
        self._offered: tuple[Mapping[str, float], ...] = ()
        self._next_look = 0.0
        self._next_check = 0.0
        self._turns = Turns()
        self._told_spoilt = self._told_strange = False
        self._never_ran = 0  # workers in a row that Ray gave up before they ran

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
        self._nodes = Nodes(self._refresh_s, own=self._connection is not None and is_own())
        atexit.register(self.close)
        self._job = job
        clear(job.directory)
        self._pool = Pool(job, ray.put(payload), self._results, self._idle_s)
        self._look_up_nodes()
        if job.resources is not None and job.resources.bundle():
            self._admission = Admission(RayBoard(), job.resources, job.max_concurrent)
        self._look_at_share(active=True)
        self._offered = self._offer()
        if job.resources is not None and job.reuse_workers:
            self.prepare(job.resources, job.max_concurrent)
        return CapacityChanged(time=self.now(), nodes=self._offered, fixed=self._nodes.own)

    def prepare(self, resources: Resources, count: float) -> None:
        """Start up to `count` workers for trials with these resources ahead of time, as far as they fit."""
        self._started_pool.prepare(self._offered, resources, count)

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def submit(self, work: Sequence[Work]) -> None:
        """Send the commands to the workers, without waiting for them."""
        released: list[RayWorker] = []
        for item in work:
            if isinstance(item, Launch):
                if item.trial in self._leases or not self._turns.hold(item):
                    self._launch(item)
                continue
            if (held := self._turns.take(item.trial)) is not None:
                if isinstance(item, Release):
                    continue
                self._launch(held)
            worker = self._leases.get(item.trial)
            if worker is None:
                continue
            match item:
                case Advance():
                    self._begin_leg(worker, item.until)
                    worker.call(self._results, "advance", pickle.dumps((worker.order, item.until, item.save)))
                case Save():
                    self._save(worker, item.halt)
                case Release():
                    del self._leases[item.trial]
                    self._release(worker, item)
                    released.append(worker)
                case _:
                    assert_never(item)
        for worker in released:  # a launch on the same worker ends the trial before in the same call
            if worker.lease is None and not worker.ended and not worker.dead:
                worker.ended = True
                worker.call(self._results, "end", worker.warm)
                self._limit(worker)

    def poll(self, timeout: float | None) -> list[Event]:
        """Return all events that are ready; wait for the first at most `timeout` seconds (None: for ever)."""
        events, self._ready = self._ready, []
        end = math.inf if timeout is None else time.monotonic() + timeout
        results, woken = self._results, False
        while True:
            while not results.empty():
                woken |= self._receive(results.get_nowait(), events)
            now = time.monotonic()
            if events and now < self._next_check:
                return events
            self._next_check = now + _CHECK_S
            due = self._do_what_is_due(now, events)
            if events or woken or now >= end:
                return events
            with suppress(queue.Empty):
                woken = self._receive(results.get(timeout=max(0.0, min(due, end) - now)), events)

    def _receive(self, item: tuple[RayWorker, Call, Any] | None, events: list[Event]) -> bool:
        """Take a result that has arrived; True where it is only a wake-up."""
        if item is not None:
            self._settle(*item, events)
        return item is None

    def _do_what_is_due(self, now: float, events: list[Event]) -> float:
        """Do what is to be done at certain times, and return the next of them, on the monotonic clock."""
        self._nodes.check()
        while self._legs and next(iter(self._legs.values())) <= now:
            worker = next(iter(self._legs))
            del self._legs[worker]
            self._collect(worker)
        for worker in [worker for worker in self._late if worker.deadline is not None and now >= worker.deadline]:
            self._replace(worker)
        for launch in self._turns.due(now):
            self._launch(launch)
        pool = self._started_pool
        for worker in pool.retire_rested(now):
            self._limit(worker)
        self._refresh(now, events)
        if self._admission is not None and now >= self._next_look:
            self._look_at_share(active=bool(self._leases or self._turns or pool.idle))
            self._report_capacity(events)
            for worker in pool.retire_rested(now, int(max(0, min(pool.idle, self._surplus)))):
                self._limit(worker)
        leg = next(iter(self._legs.values()), math.inf)
        look = self._next_look if self._admission is not None else math.inf
        late = (worker.deadline or 0.0 for worker in self._late)
        return min([self._nodes.due, look, leg, self._turns.at, pool.next_rested(), *late])

    def wake(self) -> None:
        """Have a `poll` that waits return at once; from any thread."""
        self._results.put(None)

    def replay(self, event: Event, work: Sequence[Work]) -> None:
        """Do nothing: the workers of an earlier driver ended with it."""

    def close(self) -> None:
        """End all workers, and the connection to Ray if this backend has made it. Safe to call twice."""
        atexit.unregister(self.close)
        pool, self._pool = self._pool, None
        admission, self._admission = self._admission, None
        if ray.is_initialized() and pool is not None and not self._nodes.gone and self._nodes.answer():
            pool.close()
            with suppress(Exception):  # Ray may be gone
                if admission is not None:
                    admission.close()
        self._turns = Turns()
        for held in (self._leases, self._legs, self._late, self._holders):
            held.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._quiet.stop()

    # leases

    @property
    def _started_pool(self) -> Pool:
        if self._pool is None:
            raise ExperimentError("the backend has not been started, or is closed: call start(job) first")
        return self._pool

    def _launch(self, launch: Launch) -> None:
        worker = self._leases.get(launch.trial)  # a clone goes on in the process that it has
        try:
            if worker is None:
                worker = self._started_pool.take(launch)
        except (SpecError, ValueError) as error:
            failure = Failure("exception", str(error), fatal=True)
            self._ready.append(failure.event(self.now(), launch.trial, launch.attempt))
            return
        assert self._job is not None
        if launch.resources != self._job.resources:
            self._share, self._admission = ALL, None  # what is a share of the cluster is not known any more
        elif not self._leases:
            self._next_look = 0.0  # the others are to know at once that it has something to run again
        worker.lease, worker.step, worker.saved = launch, launch.committed, set()
        worker.ended = False
        self._leases[launch.trial] = worker
        self._begin_leg(worker, launch.until)
        content = (worker.order, _worker.plain_launch(launch), worker.warm)
        # A config may hold functions and the like, which only cloudpickle can send.
        packed = pickle.dumps(content, protocol=5) if is_plain(launch.config) else dumps(content)
        worker.call(self._results, "launch", packed, self._held(worker, launch))
        worker.warm = False
        if not worker.name:  # its process has to come up: the trial begins when that is told
            self._legs.pop(worker, None)
            self._collect(worker)

    def _held(self, worker: RayWorker, launch: Launch) -> Held | None:
        """Have another process that may have a copy of the trial's checkpoint in memory hand it over."""
        checkpoint = launch.checkpoint
        holder = self._holders.get(checkpoint.uri) if checkpoint is not None else None
        if checkpoint is None or holder is None or holder is worker or holder.dead:
            return None
        return Held(holder.give(checkpoint))

    def _begin_leg(self, worker: RayWorker, until: float | None) -> None:
        assert self._job is not None
        worker.order += 1
        worker.until = until
        worker.running, worker.more = True, False
        self._legs.pop(worker, None)
        self._legs[worker] = time.monotonic() + self._job.flush_s

    def _save(self, worker: RayWorker, halt: bool) -> None:
        if worker.running:
            worker.call(self._results, "ask", worker.order, True, halt)
            self._legs.pop(worker, None)
            self._collect(worker)  # brings the answer
        elif not worker.ended:
            worker.call(self._results, "save")

    def _collect(self, worker: RayWorker) -> None:
        if not worker.collecting:
            worker.collecting = True
            worker.call(self._results, "collect", worker.order)

    def _collect_on(self, worker: RayWorker, *, all_told: bool) -> None:
        """Go on collecting where there is more to come; the call that has returned may have been of an older leg."""
        worker.more = worker.more and not all_told
        if worker.more or (worker.running and not all_told and worker not in self._legs):
            self._collect(worker)

    def _release(self, worker: RayWorker, release: Release) -> None:
        assert self._job is not None
        pool = self._started_pool
        if release.kill:
            worker.lease = None
            self._discard(worker)
            return
        if worker.running:
            worker.call(self._results, "ask", worker.order, False, True)
        worker.lease = None
        self._legs.pop(worker, None)
        if not self._job.reuse_workers or self._share.crowded or self._surplus >= 0:  # with this one there is one more
            pool.retire(worker)
            self._limit(worker)
            if self._share.crowded:
                self._turns.give_way()
            return
        worker.warm = release.warm
        if release.warm:
            pool.keep_warm(worker, release.trial)
        if worker.running:
            pool.await_end(worker)
            self._limit(worker)
        else:
            pool.rest(worker)

    @property
    def _surplus(self) -> float:
        """How many workers there are beyond what this driver may have."""
        return len(self._leases) + self._started_pool.idle - self._share.places

    def _discard(self, worker: RayWorker) -> None:
        """End the process at once and forget it."""
        self._turns.gave_way()
        self._legs.pop(worker, None)
        self._late.pop(worker, None)
        self._started_pool.discard(worker)

    def _limit(self, worker: RayWorker) -> None:
        worker.deadline = time.monotonic() + self._grace_s
        self._late[worker] = None

    def _replace(self, worker: RayWorker) -> None:
        """End a process that cannot be used again; a trial that waits for it is launched on another."""
        launch = worker.lease
        self._discard(worker)
        if launch is not None:
            del self._leases[launch.trial]
            self._launch(launch)

    def _tell_spoilt(self, worker: RayWorker, left: str) -> None:
        """Say, once, why a process that has served a trial does not serve another."""
        if not self._told_spoilt:
            self._told_spoilt = True
            logger.warning(
                "a trial in the worker %s has ended, but %s still runs training code there, which cannot be ended from "
                "outside: the process is replaced, here and wherever it happens again. End threads in `finally` or "
                "cleanup(), or set `reuse_workers: false`, which gives each trial a process of its own",
                worker.name, left,
            )  # fmt: skip

    def _tell_strange(self, worker: RayWorker) -> None:
        """Say, once, that trials do not run in this process's working folder."""
        if worker.strange and not self._told_strange:
            self._told_strange = True
            logger.warning(
                "trials on %s cannot run in the driver's working folder %s: relative paths of the training code lead "
                "elsewhere there. Use absolute ones, or start the search from a folder that every node has",
                worker.name.partition(":")[0], worker.strange,
            )  # fmt: skip

    # results of calls

    def _settle(self, worker: RayWorker, call: Call, value: Any, events: list[Event]) -> None:
        if worker.dead:
            return
        came_back = worker.returned(call)
        if isinstance(value, BaseException):
            self._lose(worker, value, events)
        elif isinstance(value, bytes) and value.startswith(_worker.SPOILT):
            if call.lease is worker.lease:
                self._tell_spoilt(worker, value.removeprefix(_worker.SPOILT).decode())
                self._replace(worker)
        elif call.kind == "ask":
            self._take_asked(worker, call, value)
        else:
            for arrived in worker.unpack(value) if value is not None else ():
                self._tell_strange(worker)
                self._take(worker, arrived, events)
            if call.kind == "collect":
                self._collect_on(worker, all_told=value is None and call.order == worker.order)
        if call.kind == "close":
            self._discard(worker)
        elif came_back and not worker.dead:
            worker.deadline = None
            self._late.pop(worker, None)
            if worker.lease is None:
                worker.running = False
                self._started_pool.came_back(worker)

    def _take_asked(self, worker: RayWorker, call: Call, accepted: bool) -> None:
        """Ask again for a Save that came when its leg was over already."""
        _, save, halt = call.args
        if save and not accepted and call.lease is worker.lease:
            if call.order == worker.order:
                worker.call(self._results, "save")
            else:
                self._save(worker, halt)

    def _take(self, worker: RayWorker, arrived: Arrived, events: list[Event]) -> None:
        lease, batch = worker.lease, arrived.batch
        for ref in (*batch.held, *batch.saved, *(answer.checkpoint for answer in batch.answered)):
            self._note_holder(worker, ref)
        if lease is None or (lease.trial, lease.attempt) != (batch.trial, batch.attempt):
            events.extend(batch.late(self.now()))  # what else a released trial still reports is not wanted
        else:
            self._note_end(worker, batch.state, batch.failure, events)
            events.extend(batch.events(self.now(), worker.name))
            worker.step = batch.reports[-1].step if batch.reports else worker.step
            worker.saved.update(ref.uri for ref in batch.saved)
            worker.ended = worker.ended or batch.state in ("done", "failed")
            self._note_room(batch)
        if arrived.order == worker.order:
            if batch.state != "running":
                worker.running = False
                self._legs.pop(worker, None)
            worker.more = arrived.more or self._halts(worker, batch)
            if worker.more:
                self._collect(worker)

    def _note_end(
        self, worker: RayWorker, state: str, failure: Failure | None, events: list[Event], trial: int | None = None
    ) -> None:
        """Note how a leg has ended on its node, and avoid one where trial after trial fails: before the next launch."""
        if len(set(worker.shape.nodes)) != 1:
            return  # which of the nodes of a gang it was is not known
        (node,) = set(worker.shape.nodes)
        if state in ("waiting", "done"):
            self._rows.went_well(node)
        elif failure is not None and not failure.fatal:
            number = trial if trial is not None else worker.lease.trial if worker.lease is not None else -1
            if self._rows.failed(node, number, failure.cause) and self._nodes.avoid(node):
                logger.warning(
                    "node %d (%s) is avoided from now on: %d trials in a row have failed there, while others went well "
                    "elsewhere; the last: %s. Mend it, and resume the experiment: that tries it again",
                    node, worker.name.rpartition(":")[0] or "its name is not known", IN_A_ROW, failure.message,
                )  # fmt: skip
                self._refresh(math.inf, events)

    def _note_room(self, batch: Batch) -> None:
        """Hold launches back while a disk is full."""
        if batch.failure is not None:
            if self._full.note(batch.failure.cause, batch.failure.message):
                self._turns.hold_until(self._full.until)
        elif batch.saved or batch.state != "running":
            self._full.went_well()

    def _note_holder(self, worker: RayWorker, ref: CheckpointRef | None) -> None:
        assert self._job is not None
        if ref is not None and self._job.memory > 0:
            self._holders[ref.uri] = worker
            if len(self._holders) > _MANY_HELD:
                del self._holders[next(iter(self._holders))]

    def _halts(self, worker: RayWorker, batch: Batch) -> bool:
        """Whether the leg goes on only to save: its last report has reached where the trial halts."""
        job = self._job
        assert job is not None
        return (
            batch.state == "running"
            and bool(batch.reports)
            and halts(batch.reports[-1], job.resource, worker.until, job.stop, job.pruned)
        )

    def _lose(self, worker: RayWorker, error: BaseException, events: list[Event]) -> None:
        self._nodes.check()
        lease = worker.lease
        self._discard(worker)
        if lease is not None:
            del self._leases[lease.trial]
            if isinstance(error, RayTaskError) or not isinstance(error, RayError):
                failure = Failure("exception", str(error.__cause__ or error), str(error))
            else:
                cause = cause_of(error)
                if cause == "worker_died" and self._nodes.lose(worker.shape.nodes):
                    cause = "node_lost"
                failure = self._obituary(worker, lease.trial, plain(str(error)), cause)
                self._mourn(failure.message)
                self._note_end(worker, "failed", failure, events, lease.trial)
                self._refresh(math.inf, events)  # first: with its node, perhaps, where it must not be launched again
            items = self._left_behind(worker, lease, process_of(worker.name, str(error)))
            if items:
                events.extend(Batch.of(lease.trial, lease.attempt, items, "running").events(self.now(), worker.name))
            events.append(failure.event(self.now(), lease.trial, lease.attempt))

    def _left_behind(self, worker: RayWorker, lease: Launch, process: str) -> list[Item]:
        """Return what a dead process had reported and nobody has fetched."""
        assert self._job is not None
        found = recover(self._job.directory, process, lease.trial, lease.attempt, worker.step)
        return [item for item in found if not (isinstance(item, Written) and item.ref.uri in worker.saved)]

    def _obituary(self, worker: RayWorker, trial: int, said: str, cause: str) -> Failure:
        assert self._job is not None
        message = obituary(worker.name, said, trial_folder(self._job, trial), cause)
        # What Ray has to say goes where a traceback would be; the last line is the one that is shown in short.
        return Failure(cause, message, f"{said.strip()}\n{message}")

    def _mourn(self, message: str) -> None:
        """Raise ExperimentError where it is not a worker that has died but the cluster: no trial is to blame."""
        self._never_ran = self._never_ran + 1 if "never ran" in message else 0
        if self._never_ran >= _CLUSTER_IS_GONE:
            raise ExperimentError(
                f"{self._never_ran} workers in a row could not be started: is the Ray cluster gone? Nothing that was "
                f"reported is lost: resume the experiment once Ray is back. The last: {message}"
            )

    # the cluster

    def _look_up_nodes(self) -> None:
        self._nodes.look_up()
        pool = self._started_pool
        pool.nodes, pool.node_ids = self._nodes.have, self._nodes.ids

    def _refresh(self, now: float, events: list[Event]) -> None:
        if now >= self._nodes.due:
            self._look_up_nodes()
            self._report_capacity(events)

    def _look_at_share(self, *, active: bool) -> None:
        self._next_look = time.monotonic() + _LOOK_S
        if self._admission is not None and self._nodes.answer():
            try:
                self._share = self._admission.share(self._nodes.have, active=active)
            except Exception:  # of Ray's, where its store cannot be reached: the share stays as it was
                logger.debug("the notes of other drivers cannot be read", exc_info=True)

    def _offer(self) -> tuple[Mapping[str, float], ...]:
        resources = self._job.resources if self._job is not None else None
        return self._nodes.have if resources is None else offered(self._nodes.have, resources, self._share)

    def _report_capacity(self, events: list[Event]) -> None:
        offer = self._offer()
        if offer != self._offered:
            self._offered = offer
            events.append(CapacityChanged(time=self.now(), nodes=self._offered, fixed=self._nodes.own))
