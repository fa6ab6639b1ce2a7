"""Which worker of the Ray backend runs which trial, how far that is, and what comes of it."""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Iterable
from functools import partial
from threading import Thread
from typing import Any

from tune_platform.backends import _worker
from tune_platform.backends._batch import Batch, Failure
from tune_platform.backends._outage import Outage
from tune_platform.backends._pickling import dumps, is_plain
from tune_platform.backends._ray_capacity import Capacity
from tune_platform.backends._ray_delay import Delayed
from tune_platform.backends._ray_held import Held
from tune_platform.backends._ray_link import Link
from tune_platform.backends._ray_losses import Losses
from tune_platform.backends._ray_pool import Pool
from tune_platform.backends._ray_worker import Arrived, Call, RayWorker, Results
from tune_platform.errors import SpecError
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Advance, Launch, Release, Save
from tune_platform.protocol.events import CapacityChanged, Event
from tune_platform.protocol.milestones import halts
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.resources import Resources

logger = logging.getLogger(__name__)

#: Checkpoints of which it is known which process may have a copy.
_MANY_HELD = 4096


class Leases:
    """The workers that trials have. What comes of them is added to `events`. Times are on the monotonic clock."""

    def __init__(self, job: Job, pool: Pool, results: Results, capacity: Capacity, grace_s: float) -> None:
        self.events: list[Event] = []
        self._job = job
        self._pool = pool
        self._results = results
        self._capacity = capacity
        self._losses = Losses(job, capacity.nodes)
        self._grace_s = grace_s
        self._of: dict[int, RayWorker] = {}
        self._legs: dict[RayWorker, float] = {}  # those shorter than flush_s, as yet, and until when; that rises
        self._late: dict[RayWorker, None] = {}  # those with a deadline
        self._holders: dict[str, RayWorker] = {}  # of checkpoints that may be in memory, by URI, oldest first
        self._delayed = Delayed()
        self._outage = Outage()
        self._told_spoilt = self._told_strange = False

    @property
    def count(self) -> int:
        """How many trials have a worker."""
        return len(self._of)

    @property
    def running(self) -> list[tuple[Resources, tuple[int, ...]]]:
        """Return what each trial holds that has a worker, and its nodes."""
        return [(w.lease.resources, w.shape.nodes) for w in self._of.values() if w.lease is not None]

    @property
    def active(self) -> bool:
        """Whether there is something to run, or workers are kept for it."""
        return bool(self._of or self._delayed or self._pool.idle)

    # commands

    def launch(self, launch: Launch) -> None:
        """Begin a trial, now or once the disk has room and storage answers."""
        if launch.trial in self._of or not self._delayed.hold(launch):
            self._launch(launch)

    def advance(self, advance: Advance) -> None:
        """Let a trial go on to its next milestone."""
        if (worker := self._worker_of(advance.trial)) is not None:
            self._begin_leg(worker, advance.until)
            worker.call(self._results, "advance", pickle.dumps((worker.order, advance.until, advance.save)))

    def save(self, save: Save) -> None:
        """Have a trial save after its present step."""
        if (worker := self._worker_of(save.trial)) is not None:
            self._save(worker, save.halt)

    def release(self, release: Release) -> RayWorker | None:
        """Take a trial back; return its worker, which is to `end` it unless another is launched there at once."""
        worker = self._of.get(release.trial)
        if self._delayed.take(release.trial) is not None or worker is None:
            return None
        del self._of[release.trial]
        self._release(worker, release)
        return worker

    def end(self, workers: Iterable[RayWorker]) -> None:
        """End what has been released: a launch on the same worker does that in the same call."""
        for worker in workers:
            if worker.lease is None and not worker.ended and not worker.dead:
                worker.ended = True
                worker.call(self._results, "end", worker.warm)
                self._limit(worker)

    def do_what_is_due(self, now: float) -> None:
        """Collect what legs have brought that last, end what does not come back, and launch what was held back."""
        while self._legs and next(iter(self._legs.values())) <= now:
            worker = next(iter(self._legs))
            del self._legs[worker]
            self._collect(worker)
        for worker in [worker for worker in self._late if worker.deadline is not None and now >= worker.deadline]:
            self._replace(worker)
        for launch in self._delayed.due(now):
            self._launch(launch)
        self.retire_rested(now)

    def retire_rested(self, now: float, surplus: int = 0) -> None:
        """Retire workers that were idle for too long, and `surplus` idle ones, whatever their time."""
        for worker in self._pool.retire_rested(now, surplus):
            self._limit(worker)

    @property
    def due(self) -> float:
        """When there is something to do next."""
        leg = next(iter(self._legs.values()), math.inf)
        late = (worker.deadline or 0.0 for worker in self._late)
        return min([leg, self._delayed.at, self._pool.next_rested(), *late])

    @property
    def idle(self) -> int:
        """How many workers are kept for trials to come."""
        return self._pool.idle

    @property
    def surplus(self) -> float:
        """How many workers there are beyond what this driver may have."""
        return len(self._of) + self._pool.idle - self._capacity.share.places

    # inside: to the workers

    def _worker_of(self, trial: int) -> RayWorker | None:
        """Return the worker of a trial; one that is held back is launched first."""
        if (held := self._delayed.take(trial)) is not None:
            self._launch(held)
        return self._of.get(trial)

    def _launch(self, launch: Launch) -> None:
        worker = self._of.get(launch.trial)  # a clone goes on in the process that it has
        try:
            if worker is None:
                worker = self._pool.take(launch)
        except (SpecError, ValueError) as error:
            failure = Failure("exception", str(error), fatal=True)
            self.events.append(failure.event(time.time(), launch.trial, launch.attempt))
            return
        if not self._of:
            self._capacity.look_at_once()  # the others are to know that it has something to run again
        worker.lease, worker.step, worker.saved = launch, launch.committed, set()
        worker.ended = False
        self._of[launch.trial] = worker
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
        if release.kill:
            worker.lease = None
            self._discard(worker)
            return
        if worker.running:
            worker.call(self._results, "ask", worker.order, False, True)
        worker.lease = None
        self._legs.pop(worker, None)
        if not self._job.reuse_workers or self.surplus >= 0:  # with this one there is one more
            self._pool.retire(worker)
            self._limit(worker)
            return
        worker.warm = release.warm
        if release.warm:
            self._pool.keep_warm(worker, release.trial)
        if worker.running:
            self._pool.await_end(worker)
            self._limit(worker)
        else:
            self._pool.rest(worker)

    def _discard(self, worker: RayWorker) -> None:
        """End the process at once and forget it."""
        self._legs.pop(worker, None)
        self._late.pop(worker, None)
        self._pool.discard(worker)

    def _limit(self, worker: RayWorker) -> None:
        worker.deadline = time.monotonic() + self._grace_s
        self._late[worker] = None

    def _replace(self, worker: RayWorker) -> None:
        """End a process that cannot be used again; a trial that waits for it is launched on another."""
        launch = worker.lease
        self._discard(worker)
        if launch is not None:
            del self._of[launch.trial]
            self._launch(launch)

    # inside: from the workers

    def settle(self, worker: RayWorker, call: Call, value: Any) -> None:
        """Take the result of a call, or the exception that it raised."""
        if worker.dead:
            return
        came_back = worker.returned(call)
        if isinstance(value, BaseException):
            self._lose(worker, value)
        elif call.kind in ("open_door", "serve"):
            self._settle_link(worker, call, value)
        elif isinstance(value, bytes) and value.startswith(_worker.SPOILT):
            if call.lease is worker.lease:
                self._tell_spoilt(worker, value.removeprefix(_worker.SPOILT).decode())
                self._replace(worker)
        elif call.kind == "ask":
            self._take_asked(worker, call, value)
        else:
            self._take_batches(worker, call, value)
        if call.kind == "close":
            self._discard(worker)
        elif came_back and not worker.dead:
            worker.deadline = None
            self._late.pop(worker, None)
            if worker.lease is None:
                worker.running = False
                self._pool.came_back(worker)

    def _take_batches(self, worker: RayWorker, call: Call, value: bytes | None) -> None:
        for arrived in worker.unpack(value) if value is not None else ():
            self._tell_strange(worker)
            self._take(worker, arrived)
        if call.kind == "collect":
            self._collect_on(worker, all_told=value is None and call.order == worker.order)
        elif call.kind == "launch" and worker.link is None and not worker.dead:
            self._open_link(worker)

    def _open_link(self, worker: RayWorker) -> None:
        """Open a way to the worker that costs less than Ray's calls: its first leg is over, the next may be short."""
        host = self._capacity.nodes.address_of(worker.shape.nodes[0]) if self._job.reuse_workers else None
        if host is not None:
            worker.link = Link(host)
            worker.call(self._results, "open_door", host, worker.link.key)

    def _settle_link(self, worker: RayWorker, call: Call, value: Any) -> None:
        """Go on with a link; where there is none to be had, all goes through Ray."""
        link = worker.link
        assert link is not None
        if type(value) is int:  # the worker's door is open
            knock = partial(link.knock, value)
            Thread(target=lambda: self._results.put((worker, call, knock())), name="knock", daemon=True).start()
        elif call.kind == "open_door" and value:
            self._results.add(link, worker)
            link.serves = True
            worker.call(self._results, "serve")
        elif call.kind == "serve" and not value:
            link.serves = False
            if link.waits:
                self._lose(worker, ConnectionError("its connection to the driver has broken"))

    def _take_asked(self, worker: RayWorker, call: Call, accepted: bool) -> None:
        """Ask again for a Save that came when its leg was over already."""
        _, save, halt = call.args
        if save and not accepted and call.lease is worker.lease:
            if call.order == worker.order:
                worker.call(self._results, "save")
            else:
                self._save(worker, halt)

    def _take(self, worker: RayWorker, arrived: Arrived) -> None:
        lease, batch = worker.lease, arrived.batch
        for ref in (*batch.held, *batch.saved, *(answer.checkpoint for answer in batch.answered)):
            self._note_holder(worker, ref)
        if lease is None or (lease.trial, lease.attempt) != (batch.trial, batch.attempt):
            self.events += batch.late(time.time())  # what else a released trial still reports is not wanted
        else:
            if batch.state in ("waiting", "done"):
                self._losses.went_well(worker)
            elif batch.failure is not None and self._losses.note(worker, lease.trial, batch.failure):
                self.look_up_nodes()
            self.events += batch.events(time.time(), worker.name)
            worker.step = batch.reports[-1].step if batch.reports else worker.step
            worker.saved.update(ref.uri for ref in batch.saved)
            worker.ended = worker.ended or batch.state in ("done", "failed")
            self._note_outage(batch)
        if arrived.order == worker.order:
            if batch.state != "running":
                worker.running = False
                self._legs.pop(worker, None)
            worker.more = arrived.more or self._halts(worker, batch)
            if worker.more:
                self._collect(worker)

    def _note_outage(self, batch: Batch) -> None:
        """Hold launches back while a disk is full or storage does not answer."""
        if batch.failure is not None:
            if self._outage.note(batch.failure.cause, batch.failure.message):
                self._delayed.hold_until(self._outage.until)
        elif batch.saved or batch.state != "running":
            self._outage.went_well(saved=bool(batch.saved))

    def _note_holder(self, worker: RayWorker, ref: CheckpointRef | None) -> None:
        if ref is not None and self._job.memory > 0:
            self._holders[ref.uri] = worker
            if len(self._holders) > _MANY_HELD:
                del self._holders[next(iter(self._holders))]

    def _halts(self, worker: RayWorker, batch: Batch) -> bool:
        """Whether the leg goes on only to save: its last report has reached where the trial halts."""
        job = self._job
        return (
            batch.state == "running"
            and bool(batch.reports)
            and halts(batch.reports[-1], job.resource, worker.until, job.stop, job.pruned)
        )

    def _lose(self, worker: RayWorker, error: BaseException) -> None:
        self._capacity.nodes.check()
        for call, value in worker.link.answers() if worker.link is not None else ():  # its last words
            self.settle(worker, call, value)
        if worker.dead:  # one of them was the end of it already
            return
        lease = worker.lease
        self._discard(worker)
        if lease is None:
            return
        del self._of[lease.trial]
        failure = self._losses.failure(worker, lease.trial, error)
        if failure.cause != "exception":
            self._losses.note(worker, lease.trial, failure)
            self.look_up_nodes()  # first: with its node, perhaps, where the trial must not be launched again
        if items := self._losses.left_behind(worker, lease, error):
            batch = Batch.of(lease.trial, lease.attempt, items, "running")
            self.events += batch.events(time.time(), worker.name)
        self.events.append(failure.event(time.time(), lease.trial, lease.attempt))

    def look_up_nodes(self) -> None:
        """See what the cluster has now, and tell it where that has changed."""
        nodes = self._capacity.nodes
        nodes.look_up()
        self._pool.nodes, self._pool.node_ids = nodes.have, nodes.ids
        self.tell_capacity()

    def tell_capacity(self) -> None:
        """Tell what can be leased, where that has changed."""
        if self._capacity.changed():
            capacity = self._capacity
            offered, own = capacity.offered, capacity.nodes.own
            self.events.append(
                CapacityChanged(
                    time=time.time(), nodes=offered, fixed=own, reclaim=capacity.reclaim, shared=capacity.shared
                )
            )

    # told once

    def _tell_spoilt(self, worker: RayWorker, left: str) -> None:
        """Say why a process that has served a trial does not serve another."""
        if not self._told_spoilt:
            self._told_spoilt = True
            logger.warning(
                "a trial in the worker %s has ended, but %s still runs training code there, which cannot be ended from "
                "outside: the process is replaced, here and wherever it happens again. End threads in `finally` or "
                "cleanup(), or set `reuse_workers: false`, which gives each trial a process of its own",
                worker.name, left,
            )  # fmt: skip

    def _tell_strange(self, worker: RayWorker) -> None:
        """Say that trials do not run in this process's working folder."""
        if worker.strange and not self._told_strange:
            self._told_strange = True
            logger.warning(
                "trials on %s cannot run in the driver's working folder %s: relative paths of the training code lead "
                "elsewhere there. Use absolute ones, or start the search from a folder that every node has",
                worker.name.partition(":")[0], worker.strange,
            )  # fmt: skip
