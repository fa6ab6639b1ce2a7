"""A virtual clock and simulated workers: the unchanged controller, schedulers and store at any scale.

A trial's training is a curve: a function of the config and the step, or a table. Time passes only
when everybody waits, so 10,000 workers and a week of training take seconds. Faults are injected by rate:
all draws come from the seed, the trial, its attempt and the step, so a run is a function of its inputs,
and a new driver finds the work in flight where the old one left it (`replay`).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_platform.protocol.backend import Job, Work
from tune_platform.protocol.commands import Advance, Launch, Release, Save
from tune_platform.protocol.events import CapacityChanged, Event, Failed, Reported, Resumed, Saved, Started
from tune_platform.protocol.milestones import halts
from tune_platform.protocol.reports import CheckpointRef, Config, Report
from tune_platform.protocol.seeds import derive

Curve = Callable[[Config, int], Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often things go wrong, each per step: exceptions, dead workers, NaN metrics, and steps that hang."""

    exception: float = 0.0
    worker_died: float = 0.0
    nan: float = 0.0
    hang: float = 0.0


def table_curve(table: Mapping[str, Sequence[float]], metric: str, key: str) -> Curve:
    """Return a curve that reads `table[config[key]]`, one value per step; the trial ends where the row ends."""

    def curve(config: Config, step: int) -> Mapping[str, Any] | None:
        row = table[config[key]]
        return {metric: row[step - 1]} if step <= len(row) else None

    return curve


@dataclass(slots=True)
class _Worker:
    """One simulated worker at work on a trial."""

    launch: Launch
    step: int  # which the training has reached when the planned event arrives
    until: float | None
    save: bool
    serial: int = 0  # counts the events planned for this attempt
    dropped: int = 0  # ... of which those up to this one were planned in vain
    coming: int = 0  # how many of them are on their way
    halted: bool = False  # waits at a milestone
    over: bool = False  # done, failed or hanging: nothing more comes of it
    origin: tuple[int, float] | None = None  # step and time from which the batch under way was planned
    asked: float | None = None  # when a Save was asked for that has not been carried out
    halt: bool = False  # ... and it is to wait then


class SimulatedBackend:
    """Runs curves instead of training.

    `curve(config, step)` returns the metrics of step 1, 2, ..., or None once the training has ended. `step_time(config,
    step)` is in virtual seconds; without it a step takes between 0.5 and 1.5 seconds. `batch` bounds how many reports
    travel together, as the flush interval does on a real backend. `changes` are what there is to lease
    from a time on: (seconds, nodes, why what is beyond them is to be given back at once; empty where not), in order.
    """

    parallel = False
    virtual = True
    writing = False  # they are written in the training's time

    def __init__(
        self,
        curve: Curve,
        *,
        workers: int = 4,
        nodes: Sequence[Mapping[str, float]] | None = None,
        step_time: Callable[[Config, int], float] | None = None,
        setup_time: float = 0.0,
        faults: Faults | None = None,
        batch: int = 16,
        changes: Sequence[tuple[float, Sequence[Mapping[str, float]], str]] = (),
    ) -> None:
        self._curve = curve
        self._nodes = tuple(nodes) if nodes is not None else ({"cpu": float(workers)},)
        self._first = self._nodes
        self._step_time = step_time
        self._setup_time = setup_time
        self._faults = faults
        self._batch = batch
        self._changes = deque(
            CapacityChanged(time=time, nodes=tuple(found), reclaim=reclaim) for time, found, reclaim in changes
        )
        self._workers: dict[int, _Worker] = {}
        # (time, trial, attempt, serial, event): a total order that does not depend on when it was pushed.
        self._heap: list[tuple[float, int, int, int, Event]] = []
        self._now = 0.0

    def start(self, job: Job) -> CapacityChanged:
        """Take the job; the capacity is what the constructor was told."""
        self._job = job
        while self._changes and self._changes[0].time <= self._now:
            self._change()
        return CapacityChanged(time=self._now, nodes=self._nodes)

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def submit(self, work: Sequence[Work]) -> None:
        """Start, advance, save or end simulated trials."""
        for item in work:
            match item:
                case Launch():
                    self._launch(item)
                case Advance():
                    worker = self._workers[item.trial]
                    worker.until, worker.save, worker.halted = item.until, item.save, False
                    if not (worker.coming or worker.over):
                        self._plan(item.trial, self._now)
                case Save():
                    self._save(self._workers[item.trial], item.halt)
                case Release():
                    self._workers.pop(item.trial, None)

    def poll(self, timeout: float | None) -> list[Event]:
        """Return the next event and move the clock to it; with a timeout, move it by that much at most.

        A timeout of 0 does not wait, so that nothing happens in it.
        """
        while self._heap and (timeout is None or timeout > 0):
            time, number, attempt, serial, event = self._heap[0]
            if self._changes and self._changes[0].time <= time:
                break
            worker = self._workers.get(number)
            if worker is None or worker.launch.attempt != attempt or serial <= worker.dropped:
                heapq.heappop(self._heap)  # the lease has ended, or other plans were made
                continue
            if timeout is not None and time > self._now + timeout:
                break
            heapq.heappop(self._heap)
            self._now = max(self._now, time)
            self._deliver(worker, event)
            return [event]
        if self._changes and (timeout is None or 0 < timeout >= self._changes[0].time - self._now):
            self._now = max(self._now, self._changes[0].time)
            return [self._change()]
        if timeout is not None and timeout > 0:
            self._now += timeout
        return []

    def wake(self) -> None:
        """Do nothing: the virtual clock waits for nobody."""

    def replay(self, event: Event, work: Sequence[Work]) -> None:
        """Pass through what an earlier driver has seen and done, so that its work in flight is found again."""
        if isinstance(event, Resumed):
            self._workers.clear()  # the work in flight was lost
            if self._nodes is not self._first:  # the new driver has started with those
                self._changes.appendleft(CapacityChanged(time=self._now, nodes=self._nodes))
        if isinstance(event, CapacityChanged) and self._changes and self._changes[0].time <= event.time:
            self._change()
        if isinstance(event, (Started, Reported, Saved)) or (isinstance(event, Failed) and event.cause != "timeout"):
            again = self.poll(None)
            while [type(found) for found in again] == [Started] and not isinstance(event, Started):
                again = self.poll(None)  # the log is older than these events
            if [_identity(found) for found in again] != [_identity(event)]:
                raise ValueError(f"the log says {event}, the simulation {again}: curve or faults were changed")
        self._now = max(self._now, event.time)
        self.submit(work)

    def close(self) -> None:
        """Forget the workers."""
        self._workers.clear()
        self._heap.clear()

    # ------------------------------------------------------------------------------------------ inside

    def _change(self) -> CapacityChanged:
        change = self._changes.popleft()
        self._nodes = change.nodes
        return change

    def _launch(self, launch: Launch) -> None:
        worker = self._workers[launch.trial] = _Worker(launch, launch.start, launch.until, launch.save)
        if self._setup_time > 0:
            up = self._now + self._setup_time
            name = f"simulated-{launch.trial}"
            self._push(worker, Started(time=up, trial=launch.trial, attempt=launch.attempt, worker=name))
        else:
            self._plan(launch.trial, self._now)

    def _deliver(self, worker: _Worker, event: Event) -> None:
        """Go on after an event has arrived: with the checkpoint that was asked for, or the next batch of the leg."""
        worker.coming -= 1
        if isinstance(event, Reported):
            worker.origin = None
        if worker.coming or worker.over:
            return
        if not worker.halted:
            self._plan(worker.launch.trial, event.time)
        elif worker.asked is not None:
            self._plan_saved(worker, event.time)

    def _save(self, worker: _Worker, halt: bool) -> None:
        """Save after the present step, or at once where the trial waits."""
        if worker.asked is None:
            worker.asked = self._now
        worker.halt = worker.halt or halt
        if worker.origin is not None:  # the batch that was planned ends with the present step instead
            worker.step, time = worker.origin
            worker.over = worker.halted = False
            worker.dropped, worker.coming = worker.serial, 0
            self._plan(worker.launch.trial, time)
        elif not (worker.coming or worker.over):
            self._plan_saved(worker, self._now)

    def _plan_saved(self, worker: _Worker, time: float) -> None:
        trial = worker.launch.trial
        worker.asked, worker.halt = None, False
        ref = self._checkpoint(trial, worker.step)
        self._push(worker, Saved(time=time, trial=trial, attempt=worker.launch.attempt, checkpoint=ref))

    def _plan(self, number: int, time: float) -> None:
        """Compute what next comes of a trial: a batch of reports, its end, or what goes wrong."""
        worker = self._workers[number]
        launch, every = worker.launch, self._job.checkpoint_every
        reports: list[Report] = []
        saved: list[CheckpointRef] = []
        done = answers = False
        cause = ""
        worker.origin = worker.step, time
        while not (answers or worker.over or worker.halted) and len(reports) < self._batch:
            step = worker.step + 1
            metrics = self._curve(launch.config, step)
            if metrics is None:
                done = worker.over = True
                break
            time += self._seconds(launch, step)
            cause = self._fault(launch, step) if self._faults is not None else ""
            bad = cause == "bad_metric"
            if bad and self._job.on_bad_metric != "fail":
                cause = ""
            worker.over = bool(cause)
            if cause and cause != "bad_metric":
                break
            worker.step = step
            report = Report(step, {**metrics, self._job.metrics[0]: math.nan} if bad else metrics, time)
            if step > launch.committed:
                reports.append(report)
            job = self._job
            halted = step >= launch.committed and halts(report, job.resource, worker.until, job.stop, job.pruned)
            answers = not cause and worker.asked is not None and time >= worker.asked
            worker.halted = not cause and (halted or (answers and worker.halt))
            if not cause and ((halted and worker.save) or (every and step % every == 0) or step in launch.again):
                saved.append(self._checkpoint(number, step))
        if cause == "hang" and not (reports or worker.serial):
            # The only word that comes of it, so that it can be missed: else a report says that the code has begun.
            self._push(worker, Started(time=worker.origin[1], trial=number, attempt=launch.attempt))
        if reports or saved or done:
            batch = Reported(
                time=time,
                trial=number,
                attempt=launch.attempt,
                reports=tuple(reports),
                saved=tuple(saved),
                done=done,
                worker=f"simulated-{number}",
            )
            self._push(worker, batch)
        if answers:
            self._plan_saved(worker, time)
        if cause and cause != "hang":
            message = f"injected at step {worker.step + (cause != 'bad_metric')}"
            failed = Failed(time=time, trial=number, attempt=launch.attempt, cause=cause, message=message)
            self._push(worker, failed)

    def _push(self, worker: _Worker, event: Event) -> None:
        worker.coming += 1
        worker.serial += 1
        heapq.heappush(self._heap, (event.time, worker.launch.trial, worker.launch.attempt, worker.serial, event))

    def _checkpoint(self, number: int, step: int) -> CheckpointRef:
        return CheckpointRef(number, step, f"simulated://{number}/{step}/{self._workers[number].launch.attempt}")

    def _seconds(self, launch: Launch, step: int) -> float:
        if self._step_time is not None:
            return self._step_time(launch.config, step)
        return 0.5 + _uniform(self._job.seed, launch.trial, step, 0)

    def _fault(self, launch: Launch, step: int) -> str:
        """What goes wrong in this step of this attempt; an empty string for nothing."""
        assert self._faults is not None
        draw = _uniform(self._job.seed, launch.trial, step, launch.attempt)
        for cause, rate in (
            ("exception", self._faults.exception),
            ("worker_died", self._faults.worker_died),
            ("bad_metric", self._faults.nan),
            ("hang", self._faults.hang),
        ):
            if draw < rate:
                return cause
            draw -= rate
        return ""


def _identity(event: Event) -> tuple[Any, ...]:
    reports = event.reports if isinstance(event, Reported) else ()
    return type(event), getattr(event, "trial", None), getattr(event, "attempt", None), [r.step for r in reports]


def _uniform(seed: int, trial: int, step: int, attempt: int) -> float:
    """A number in [0, 1) that is a function of its arguments."""
    return (derive(seed, "simulated", trial, step, attempt) >> 11) * 2.0**-53
