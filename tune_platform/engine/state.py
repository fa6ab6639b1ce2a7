"""The state of an experiment: what its log means.

Facts are folded in, effects are applied, and nothing is decided here, so that a log means the same whatever has become
of the code that decides. What is to be done about it comes out as commands. The scheduler is told on the way; what it
answers is given back, to be carried out (`Controller.handle`) or to be compared (`Controller.replay`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from tune_platform.engine.failures import FirstTrials
from tune_platform.engine.queue import Queue
from tune_platform.engine.settings import Settings
from tune_platform.engine.shelf import Shelf
from tune_platform.engine.spending import Spending
from tune_platform.engine.supply import Supply
from tune_platform.engine.trial import Kept, Trial, TrialStatus
from tune_platform.protocol.commands import Command, Finish, Tell
from tune_platform.protocol.effects import (
    Ending,
)
from tune_platform.protocol.reports import CheckpointRef, Config, Report, finite
from tune_platform.protocol.reports import number as number_of
from tune_platform.protocol.scheduler import Scheduler
from tune_platform.protocol.searcher import RUNGS, Outcome
from tune_platform.protocol.verdicts import Clone
from tune_platform.resources import Ledger


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of the first metric that any trial has reported so far, with a copy of the config."""

    value: float
    trial: int
    step: int
    config: Config


class Awaited(NamedTuple):
    """What a trial waits for, to go on as a `clone`: its source's checkpoint of that `step` of the source.

    `lost_at`: it has gone on from that before, at this step of its own, and lost it.
    """

    clone: Clone
    step: int
    lost_at: int | None = None


class State:
    """Trials, places and budgets. `fold` and `apply` change it; `commands` is what they gave rise to."""

    def __init__(self, settings: Settings, scheduler: Scheduler) -> None:
        self.settings = settings
        self.scheduler = scheduler
        self.trials: dict[int, Trial] = {}
        self.ledger = Ledger()
        self.queue = Queue(self.ledger)
        self.shelf = Shelf(keep_last=settings.keep_last, keep_best=settings.keep_best, mode=settings.modes[0])
        self.supply = Supply(settings)
        self.counts: Counter[TrialStatus] = Counter()
        self.best: Best | None = None
        self.first = FirstTrials()
        self.ending: Ending | None = None  # no new launches; over once nothing runs
        self.finished: Finish | None = None
        self.paused = False  # a person wants no new launches for now
        self.interrupted = False  # the driver is about to end
        self.last_request = 0  # the number of the newest request that was carried out
        self.held = 0  # trials that a person holds
        self.reclaim = ""  # why trials beyond the capacity are to give their places back soon
        self.extra_time = 0.0  # seconds that persons added to the budget
        self.spending = Spending(settings.limits)
        self.now = 0.0  # time of the last fact, for people
        self.elapsed = 0.0  # seconds of searching until then
        self.shared = False  # others have some of the nodes
        self.stable_since = 0.0  # elapsed, when the capacity changed last
        self.placed: dict[int, None] = {}  # trials that hold a place
        self.heard: OrderedDict[int, float] = OrderedDict()  # running: elapsed when last heard of, oldest first
        self.returning: dict[int, None] = {}  # had a place when their driver was lost: they get one before all others
        # Trials that wait for a checkpoint that their source is writing, or is to write again. Those that have no place
        # do so before they wait for one.
        self.awaiting: dict[int, Awaited] = {}
        self.moved = True  # something that the supply of trials depends on has changed
        self.commands: list[Command] = []
        self.metric = settings.metrics[0]
        self.begin()

    def begin(self) -> None:
        """Have the scheduler start from nothing."""
        settings = self.settings
        self.scheduler.setup(metric=settings.metrics[0], mode=settings.modes[0], seed=settings.seed)

    def value(self, report: Report) -> float | None:
        """Return the first metric, where it was reported and is a finite number."""
        return finite(report.value(self.metric))

    def _valued(self, trial: Trial) -> bool:
        """Whether a trial has a value: one at least, or all that are judged, of which the last report counts."""
        if trial.best is None or trial.last is None or len(self.settings.metrics) == 1:
            return trial.best is not None
        return all(finite(trial.last.value(name)) is not None for name in self.settings.metrics)

    def reached(self, report: Report) -> float | None:
        """Return how far a trial is, in the scheduler's unit, where it says so."""
        return number_of(report.value(self.scheduler.resource))

    def forget(self, number: int) -> None:
        """Drop an ended trial, once the store has it: memory does not grow with history.

        Nothing that is decided later may depend on whether it has been dropped.
        """
        trial = self.trials[number]
        if trial.status.final:
            self.shelf.leave(trial)
            del self.trials[number]

    @property
    def launches(self) -> bool:
        """Whether trials are launched at the moment."""
        return self.finished is None and self.ending is None and not self.paused and not self.interrupted

    def reopen(self) -> None:
        """Go on with a search that had come to its end: a person has asked for more."""
        if self.finished is not None and self.finished.status == "finished":
            self.finished = self.ending = None

    def hear(self, trial: Trial, *, at: bool = False) -> None:
        """Note a sign of life; `at`: it is that its code begins now."""
        if trial.status is TrialStatus.STARTING:
            if trial.started is None and not at:  # nothing has told; its process was up then
                trial.started = trial.launched
            self.move(trial, TrialStatus.RUNNING, "")
        if trial.number not in self.awaiting:  # that one waits for another, and is never overdue
            self.heard[trial.number] = self.elapsed
            self.heard.move_to_end(trial.number)

    def hold(self, trial: Trial, held: bool) -> None:
        """Note that a person holds a trial, or does not any more."""
        self.held += int(held) - int(trial.held)
        trial.held = held

    def keep(self, trial: Trial, ref: CheckpointRef) -> None:
        """Give a trial a checkpoint that is whole."""
        value = self.value(trial.last) if trial.last is not None and trial.last.step == ref.step else None
        value = next((value for step, value in trial.unsaved if step == ref.step), value)
        trial.unsaved = [entry for entry in trial.unsaved if entry[0] > ref.step]
        trial.fresh = [one for one in trial.fresh if one.step > ref.step]
        trial.lent = [step for step in trial.lent if step > ref.step]
        self.shelf.put(trial, Kept(ref.step, ref, value))

    def move(self, trial: Trial, status: TrialStatus, reason: str) -> None:
        """Put a trial into another state, with all that hangs on that."""
        self.moved = True
        if trial.number in self.returning:
            del self.returning[trial.number]
        self.counts[trial.status] -= 1
        self.queue.discard(trial)
        trial.move(status, self.now, reason)
        if status.final:
            self.first.note(reason if status is TrialStatus.FAILED else None, valued=self._valued(trial))
        self.counts[status] += 1
        number = trial.number
        if status is TrialStatus.STARTING:
            self.placed[number] = None
        elif not status.placed:
            self.placed.pop(number, None)
            self.heard.pop(number, None)
            self.ledger.release(number)
            self.spending.release(number)
            trial.waits = trial.saving = False
            trial.fresh, trial.again = [], ()
            if status is not TrialStatus.PENDING:
                self.awaiting.pop(number, None)
            trial.resources, trial.resize = trial.resize or trial.resources, None
            if status is TrialStatus.PENDING:
                trial.resizing = False
                if number not in self.awaiting:
                    self.queue.add(trial)
            elif status is TrialStatus.PAUSED:
                self.queue.add_paused(trial)
                if trial.last is not None:  # most trials of a promotion end here: a searcher must not wait for more
                    self.tell(trial)

    def tell(self, trial: Trial) -> None:
        """Have the searcher told how a trial stands."""
        last = trial.last
        # Of several metrics the last values count, of one the best: other configs of a clone are not told of.
        config = trial.last_config if len(self.settings.metrics) > 1 else trial.best_config
        rungs, reached = [(resource, value) for number, resource, value in trial.rungs if number == config], 0.0
        if last is not None:
            value, reached = self.value(last), self.reached(last) or 0.0
            if value is not None and trial.last_config == config and (not rungs or rungs[-1][0] != reached):
                rungs.append((reached, value))
        values = tuple(last.value(name) for name in self.settings.metrics) if last else ()
        if trial.pruned:
            values, rungs = (), []
        outcome = Outcome(
            status=trial.status.value.lower(),
            value=None if trial.pruned else trial.best,
            step=trial.step,
            values=values,
            config=trial.config_number(config),
            resource=reached,
            rungs=tuple(rungs[-RUNGS:]),
            worst=trial.pruned,
        )
        self.commands.append(Tell(trial=trial.number, outcome=outcome))

    # ------------------------------------------------------------------------------- for tests

    def check(self) -> None:
        """Raise AssertionError where derived state disagrees with the trials themselves, or an invariant is broken."""
        self.ledger.check()
        by_status: Counter[TrialStatus] = Counter(trial.status for trial in self.trials.values())
        for status in TrialStatus:
            if not status.final:
                assert self.counts[status] == by_status[status], f"{status}: {self.counts[status]} is not so"
        for number, trial in self.trials.items():
            assert self.ledger.holds(number) == trial.status.placed, f"trial {number}'s lease disagrees"
            assert (number in self.placed) == trial.status.placed
            runs = trial.status in (TrialStatus.RUNNING, TrialStatus.PAUSING)
            assert (number in self.heard) == (runs and number not in self.awaiting)
            assert self.queue.is_waiting(trial) == (trial.status is TrialStatus.PENDING and number not in self.awaiting)
            assert self.queue.is_paused(trial) == (trial.status is TrialStatus.PAUSED)
        assert self.awaiting.keys() <= self.trials.keys()
        self.spending.check({number: self.trials[number].resources for number in self.placed})
        pending = [number for number, trial in self.trials.items() if trial.status is TrialStatus.PENDING]
        assert self.queue.size == len(set(pending) - self.awaiting.keys())
        assert self.queue.paused_size == self.counts[TrialStatus.PAUSED]
        assert sum(trial.held for trial in self.trials.values()) == self.held
