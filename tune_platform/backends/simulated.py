"""A virtual clock and simulated workers: the unchanged controller, schedulers and store at any scale.

A trial's training is a curve: a function of the config and the step, or a table. Time passes only
when everybody waits, so 10,000 workers and a week of training take seconds. Faults are injected by rate:
all draws come from the seed, the trial, its attempt and the step, so a run is a function of its inputs,
and a new driver finds the work in flight where the old one left it (`replay`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_platform.protocol.backend import Job, Work
from tune_platform.protocol.commands import Advance, Launch, Release, Save
from tune_platform.protocol.events import CapacityChanged, Event, Failed, Reported, Resumed, Saved, Started
from tune_platform.protocol.reports import CheckpointRef, Config, Report

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
    coming: int = 0  # how many of them are on their way
    halted: bool = False  # waits at a milestone
    over: bool = False  # done, failed or hanging: nothing more comes of it
    save_asked: bool = False


class SimulatedBackend:
    """Runs curves instead of training.

    `curve(config, step)` returns the metrics of step 1, 2, ..., or None once the training has ended. `step_time(config,
    step)` is in virtual seconds; without it a step takes between 0.5 and 1.5 seconds. `batch` bounds how many reports
    travel together, as the flush interval does on a real backend.
    """

    parallel = False
    virtual = True

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
    ) -> None:
        self._curve = curve
        self._nodes = tuple(nodes) if nodes is not None else ({"cpu": float(workers)},)
        self._step_time = step_time
        self._setup_time = setup_time
        self._faults = faults
        self._batch = batch
        self._workers: dict[int, _Worker] = {}
        # (time, trial, attempt, serial, event): a total order that does not depend on when it was pushed.
        self._heap: list[tuple[float, int, int, int, Event]] = []
        self._now = 0.0

    def start(self, job: Job) -> CapacityChanged:
        """Take the job; the capacity is what the constructor was told."""
        self._job = job
        return CapacityChanged(time=self._now, nodes=self._nodes)

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def submit(self, work: Sequence[Work]) -> None:
        """Start, advance, save or end simulated trials."""
        for item in work:
            match item:
                case Launch():
                    self._workers[item.trial] = _Worker(item, item.start, item.until, item.save)
                    self._plan(item.trial, self._now + self._setup_time)
                case Advance():
                    worker = self._workers[item.trial]
                    worker.until, worker.save, worker.halted = item.until, item.save, False
                    if not (worker.coming or worker.over):
                        self._plan(item.trial, self._now)
                case Save():
                    worker = self._workers[item.trial]
                    worker.save_asked = True
                    if not (worker.coming or worker.over):
                        self._plan_saved(item.trial)
                case Release():
                    self._workers.pop(item.trial, None)

    def poll(self, timeout: float | None) -> list[Event]:
        """Return the next event and move the clock to it; with a timeout, move it by that much at most.

        Time passes only when the loop waits: with a timeout of 0 nothing happens.
        """
        while self._heap:
            time, number, attempt, _, event = self._heap[0]
            worker = self._workers.get(number)
            if worker is None or worker.launch.attempt != attempt:
                heapq.heappop(self._heap)  # the lease has ended
                continue
            if timeout is not None and time > self._now + timeout:
                break
            heapq.heappop(self._heap)
            self._now = max(self._now, time)
            self._deliver(worker, event)
            return [event]
        if timeout is not None and timeout > 0:
            self._now += timeout
        return []

    def wake(self) -> None:
        """Do nothing: the virtual clock waits for nobody."""

    def replay(self, event: Event, work: Sequence[Work]) -> None:
        """Pass through what an earlier driver has seen and done, so that its work in flight is found again."""
        if isinstance(event, Resumed):
            self._workers.clear()  # the work in flight was lost
        if isinstance(event, (Reported, Saved, Started)) or (isinstance(event, Failed) and event.cause != "timeout"):
            again = self.poll(None)
            if [_identity(found) for found in again] != [_identity(event)]:
                raise ValueError(f"the log says {event}, the simulation {again}: curve or faults were changed")
        self._now = max(self._now, event.time)
        self.submit(work)

    def close(self) -> None:
        """Forget the workers."""
        self._workers.clear()
        self._heap.clear()

    # ------------------------------------------------------------------------------------------ inside

    def _deliver(self, worker: _Worker, event: Event) -> None:
        """Go on after an event has arrived: the checkpoint that was asked for, or the next batch of the leg."""
        worker.coming -= 1
        if worker.coming or worker.over:
            return
        if worker.save_asked:
            self._plan_saved(worker.launch.trial)
        elif not worker.halted:
            self._plan(worker.launch.trial, event.time)

    def _halts(self, worker: _Worker, report: Report) -> bool:
        """Whether a trial waits for the controller after this report."""
        if worker.until is not None and _number(report.value(self._job.resource)) >= worker.until:
            return True
        return bool(self._job.stop) and any(
            _number(report.value(name)) >= threshold for name, threshold in self._job.stop.items()
        )

    def _plan_saved(self, number: int) -> None:
        worker = self._workers[number]
        worker.save_asked = False
        ref = self._checkpoint(number, worker.step)
        self._push(worker, Saved(time=self._now, trial=number, attempt=worker.launch.attempt, checkpoint=ref))

    def _plan(self, number: int, time: float) -> None:
        """Compute what next comes of a trial: a batch of reports, its end, or what goes wrong."""
        worker = self._workers[number]
        launch, every = worker.launch, self._job.checkpoint_every
        reports: list[Report] = []
        saved: list[CheckpointRef] = []
        done = False
        cause, begin = "", time
        while not (worker.over or worker.halted) and len(reports) < self._batch:
            step = worker.step + 1
            metrics = self._curve(launch.config, step)
            if metrics is None:
                done = worker.over = True
                break
            time += self._seconds(launch, step)
            cause = self._fault(launch, step) if self._faults is not None else ""
            worker.over = bool(cause)
            if cause and cause != "bad_metric":
                break
            worker.step = step
            report = Report(step, {**metrics, self._job.metrics[0]: math.nan} if cause else metrics, time)
            if step > launch.committed:
                reports.append(report)
            worker.halted = not cause and step >= launch.committed and self._halts(worker, report)
            if not cause and ((worker.halted and worker.save) or (every and step % every == 0)):
                saved.append(self._checkpoint(number, step))
        if cause == "hang" and not reports and not worker.serial:
            # Else a report says that the trial's code has begun, and when it was heard of last.
            self._push(worker, Started(time=begin, trial=number, attempt=launch.attempt))
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


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else -math.inf


def _uniform(seed: int, trial: int, step: int, attempt: int) -> float:
    """A number in [0, 1) that is a function of its arguments (splitmix64's finaliser; far cheaper than a generator)."""
    mask = (1 << 64) - 1
    x = (seed * 0x9E3779B97F4A7C15 + trial * 0xBF58476D1CE4E5B9 + step * 0x94D049BB133111EB + attempt) & mask
    for _ in range(2):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        x ^= x >> 31
    return x / 2.0**64
