"""Runs trials in this very process, a step at a time: for debugging, for tests, and for very short trials.

Class trainables run in the caller's thread, so that a breakpoint in `step` works. The order of steps does not
depend on how long they take: the same seed gives the same table of trials.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from tune_platform.backends._batch import Answer, Batch, Failure, Item, State, failure_of
from tune_platform.backends._memory import Memory
from tune_platform.backends._outage import Outage
from tune_platform.backends.executor import Executor, trial_folder
from tune_platform.distributed.gang import GangKind
from tune_platform.errors import ExperimentError
from tune_platform.isolation.output import StreamLog
from tune_platform.isolation.process import Process
from tune_platform.protocol.backend import Job, Work
from tune_platform.protocol.commands import Advance, Launch, Release, Save
from tune_platform.protocol.events import CapacityChanged, Event

logger = logging.getLogger(__name__)

#: Of each resource, where nobody knows what trials will ask for.
_PLENTY = 10_000.0
#: Seconds to sleep at most where nothing runs: what a person asks for meanwhile should not wait long.
_IDLE_S = 0.1


class _Place:
    """A leased trial: its executor and what it is to do next."""

    def __init__(self, launch: Launch, executor: Executor) -> None:
        self.launch = launch
        job = executor.job
        self.log = StreamLog(trial_folder(job, launch.trial), launch.attempt, job.log_limit)
        self.executor = executor
        self.until, self.save = launch.until, launch.save
        self.begun = False


class InlineBackend:
    """This process; trials take turns. Runs whatever a spec asks of a cluster, one trial at a time.

    With `num_cpus` (default then: 1), `num_gpus` or `custom` it is one node with so much, which bounds how many trials
    are open at once, and which of them fit at all. A trial that asks for a GPU that is not here runs on the CPU. A step
    that hangs, hangs this process. The workers of a gang are "threads", which take turns, or "processes".
    """

    parallel = False
    virtual = False
    writing = False  # they are written in the training's time

    def __init__(
        self,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        custom: Mapping[str, float] | None = None,
        gang: GangKind = "threads",
    ) -> None:
        self._gang = gang
        self._bounded = num_cpus is not None or num_gpus is not None or bool(custom)
        amounts = {"cpu": 1.0 if num_cpus is None else float(num_cpus), "gpu": float(num_gpus or 0.0), **(custom or {})}
        self._node = {name: amount for name, amount in amounts.items() if amount > 0}
        #: How many trials are open at once, beside what fits.
        self.at_a_time = math.inf if self._bounded else 1.0
        self._job: Job | None = None
        self._process = Process(alone=False)
        self._memory: Memory | None = None  # of all executors: a copy is handed over by reference
        self._told = self._told_gpu = False
        self._places: dict[int, _Place] = {}
        self._idle: list[Executor] = []
        self._turns: deque[tuple[int, int]] = deque()  # (trial, attempt) of those that run, in turn
        self._asked: deque[Save] = deque()
        self._outage = Outage()

    def start(self, job: Job) -> CapacityChanged:
        """Take the job; the capacity is what the constructor was told, or what the trials of the job need."""
        self._job = job
        self._memory = Memory(job.memory) if job.memory > 0 else None
        nodes = (self._node,) if self._bounded else _nodes_for(job)
        return CapacityChanged(time=self.now(), nodes=nodes, fixed=True)

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def submit(self, work: Sequence[Work]) -> None:
        """Take the commands; user code runs in `poll`, except the cleanup of a trial that is released."""
        for item in work:
            match item:
                case Launch():
                    self._launch(item)
                case Advance():
                    place = self._places.get(item.trial)
                    if place is not None:
                        place.until, place.save = item.until, item.save
                        self._take_turn(place)
                case Save():
                    self._asked.append(item)
                case Release():
                    place = self._places.pop(item.trial, None)
                    if place is not None:
                        with place.log, self._process.inside(place.executor):
                            place.executor.end(warm=item.warm)
                        self._tell_what_is_left(place)
                        self._idle.append(place.executor)
                case _:
                    assert_never(item)

    def poll(self, timeout: float | None) -> list[Event]:
        """Run one step of the trial whose turn it is, and return its events; none where no trial runs."""
        while self._asked:
            asked = self._asked.popleft()
            place = self._places.get(asked.trial)
            if place is not None and not place.begun:  # after its first step
                self._asked.appendleft(asked)
                return self._step(place)
            if place is not None:
                return [self._save(place, asked.halt)]
        left = self._outage.until - time.monotonic()
        if left > 0:
            time.sleep(min(left, _IDLE_S))
            return []
        while self._turns:
            trial, attempt = self._turns.popleft()
            place = self._places.get(trial)
            if place is not None and place.launch.attempt == attempt:
                return self._step(place)
        if timeout is not None:
            time.sleep(min(max(timeout, 0.0), _IDLE_S))
        return []

    def wake(self) -> None:
        """Do nothing: `poll` does not wait for anybody else here."""

    def replay(self, event: Event, work: Sequence[Work]) -> None:
        """Do nothing: what ran in an earlier process is gone with it."""

    def close(self) -> None:
        """End every trial. Safe to call twice."""
        executors = [place.executor for place in self._places.values()] + self._idle
        self._places.clear()
        self._turns.clear()
        self._asked.clear()
        self._idle = []
        try:
            for executor in executors:
                with self._process.inside(executor):
                    executor.close()
        finally:
            self._process.close()

    def _launch(self, launch: Launch) -> None:
        launch = self._on_this_machine(launch)
        place = self._places.get(launch.trial)  # a clone goes on in the place that it has
        executor = place.executor if place is not None else self._executor(launch.trial)
        self._places[launch.trial] = place = _Place(launch, executor)
        self._take_turn(place)

    def _on_this_machine(self, launch: Launch) -> Launch:
        """Return a launch without the GPU that it holds elsewhere, where there is none here."""
        if self._bounded or launch.resources.gpu == 0 or _has_gpu():
            return launch
        if not self._told_gpu:
            self._told_gpu = True
            logger.warning("trials hold a GPU, and torch finds none on this machine: inline they run on the CPU")
        return replace(launch, resources=replace(launch.resources, gpu=0.0))

    def _executor(self, trial: int) -> Executor:
        for executor in self._idle:
            if executor.holds_warm(trial):
                self._idle.remove(executor)
                return executor
        if self._idle:
            return self._idle.pop()
        if self._job is None:
            raise ExperimentError("the backend has not been started: call start(job) before submit()")
        return Executor(self._job, self._gang, process=self._process, memory=self._memory)

    def _in_time(self, executor: Executor, state: State, seconds: float) -> tuple[State, Failure | None]:
        """Fail a trial whose step took too long. It is seen once the step has ended: nobody else could end it."""
        limit = self._job.step_timeout if self._job is not None else math.inf
        if seconds <= limit:
            return state, None
        executor.end(reusable=False)
        return "failed", Failure("timeout", f"a step took {seconds:.1f} s, longer than {limit:g} s (step_timeout)")

    def _take_turn(self, place: _Place) -> None:
        turn = (place.launch.trial, place.launch.attempt)
        if turn not in self._turns:
            self._turns.append(turn)

    def _step(self, place: _Place) -> list[Event]:
        launch, executor = place.launch, place.executor
        items: list[Item] = []
        state: State = "failed"
        failure: Failure | None = None
        began = time.monotonic()
        with place.log, self._process.inside(executor):
            if not place.begun:
                place.begun = True
                failure = executor.begin(launch)
            if failure is None:
                state, failure = executor.run(place.until, place.save, items.append, back=lambda: True)
            if failure is None:
                state, failure = self._in_time(executor, state, time.monotonic() - began)
            if failure is not None:
                place.log.write(failure.traceback or failure.message + "\n")
        self._tell_what_is_left(place)
        batch = Batch.of(launch.trial, launch.attempt, [*items, *executor.late()], state, failure)
        if failure is not None:
            self._outage.note(failure.cause, failure.message)
        elif batch.saved or state != "running":
            self._outage.went_well(saved=bool(batch.saved))
        if state == "running":
            self._take_turn(place)
            if not batch.reports and not batch.saved:
                return []  # a report that is known already
        return batch.events(self.now(), "inline")

    def _tell_what_is_left(self, place: _Place) -> None:
        """Say, once, that something of a trial goes on in this process, which cannot be replaced."""
        if not place.executor.clean and not self._told:
            self._told = True
            logger.warning(
                "trial %d has ended, but %s still runs training code in this process, beside the trials that follow: "
                "end threads in `finally` or cleanup()", place.launch.trial, place.executor.left,
            )  # fmt: skip

    def _save(self, place: _Place, halt: bool) -> Event:
        launch = place.launch
        if halt:
            self._turns = deque(turn for turn in self._turns if turn[0] != launch.trial)
        try:
            with place.log, self._process.inside(place.executor):
                checkpoint = place.executor.save()
        except BaseException as error:
            if place.executor.passes(error):
                raise
            return failure_of(error).event(self.now(), launch.trial, launch.attempt)
        return Answer(launch.trial, launch.attempt, checkpoint).event(self.now())


def _nodes_for(job: Job) -> tuple[dict[str, float], ...]:
    """Return nodes that hold one trial of the job, whatever it asks for."""
    resources = job.resources
    if resources is None:  # they differ from trial to trial
        return ({"cpu": _PLENTY, "gpu": _PLENTY},)
    bundle = resources.bundle()
    if resources.strategy in ("SPREAD", "STRICT_SPREAD"):
        return (bundle,) * resources.workers
    return ({name: amount * resources.workers for name, amount in bundle.items()},)


def _has_gpu() -> bool:
    """Whether this machine has a GPU, or no torch that could tell."""
    try:
        import torch
    except ImportError:
        return True
    return torch.cuda.is_available()
