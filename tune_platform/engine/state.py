"""The state of an experiment: what its log means.

Facts are folded in, effects are applied, and nothing is decided here, so that a log means the same whatever has become
of the code that decides. What is to be done about it comes out as commands. The scheduler is told on the way; what it
answers is given back, to be carried out (`Controller.handle`) or to be compared (`Controller.replay`).
"""

from __future__ import annotations

import copy
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tune_platform.engine.queue import Queue
from tune_platform.engine.settings import Settings
from tune_platform.engine.shelf import Shelf
from tune_platform.engine.supply import Supply
from tune_platform.engine.trial import HELD, Kept, Trial, TrialStatus
from tune_platform.protocol.commands import Advance, Ask, Command, DropCheckpoints, Finish, Launch, Release, Save, Tell
from tune_platform.protocol.effects import (
    Asked,
    Awaits,
    Decided,
    Dropped,
    Effect,
    Ending,
    Finished,
    Launched,
    Moved,
    SupplyEnded,
)
from tune_platform.protocol.events import (
    CapacityChanged,
    Event,
    Exhausted,
    Failed,
    Interrupted,
    Reported,
    Requested,
    Resumed,
    Saved,
    Started,
    Suggested,
    Ticked,
)
from tune_platform.protocol.milestones import stopped_by
from tune_platform.protocol.reports import CheckpointRef, Config, Report
from tune_platform.protocol.scheduler import Scheduler, decisions_of
from tune_platform.protocol.searcher import Outcome
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Pause, Resize, Stop
from tune_platform.resources import Ledger


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of the first metric that any trial has reported so far, with a copy of the config."""

    value: float
    trial: int
    step: int
    config: Config


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
        self.ending: Ending | None = None  # no new launches; over once nothing runs
        self.finished: Finish | None = None
        self.paused = False  # a person wants no new launches for now
        self.interrupted = False  # the driver is about to end
        self.last_request = 0  # the number of the newest request that was carried out
        self.held = 0  # trials that a person holds
        self.extra_time = 0.0  # seconds that persons added to the budget
        self.now = 0.0  # time of the last fact, for people
        self.elapsed = 0.0  # seconds of searching until then
        self.stable_since = 0.0  # elapsed, when the capacity changed last
        self.placed: dict[int, None] = {}  # trials that hold a place
        self.heard: OrderedDict[int, float] = OrderedDict()  # running: elapsed when last heard of, oldest first
        self.awaiting: dict[int, Clone] = {}  # trials that wait for the checkpoint that their source is writing
        self.moved = True  # something that the supply of trials depends on has changed
        self.commands: list[Command] = []
        self._facts: dict[type[Event], Callable[..., list[Decision]]] = {
            CapacityChanged: self._on_capacity,
            Suggested: self._on_suggested,
            Exhausted: self._on_exhausted,
            Started: self._on_started,
            Reported: self._on_reported,
            Saved: self._on_saved,
            Failed: self._on_failed,
            Requested: self._on_requested,
            Interrupted: self._on_interrupted,
            Resumed: self._on_resumed,
            Ticked: lambda event: [],
        }
        self._effects: dict[type[Any], Callable[..., list[Decision]]] = {
            Asked: self._on_asked,
            Launched: self._launch,
            Decided: self._decide,
            Awaits: self._on_awaits,
            Moved: self._on_moved,
            Dropped: self._on_dropped,
            SupplyEnded: self._on_supply_ended,
            Ending: self._on_ending,
            Finished: self._on_finished,
        }
        self._metric, self._stop = settings.metrics[0], settings.stop
        self.begin()

    def begin(self) -> None:
        """Have the scheduler start from nothing."""
        settings = self.settings
        self.scheduler.setup(metric=settings.metrics[0], mode=settings.modes[0], seed=settings.seed)

    def fold(self, event: Event, elapsed: float) -> list[Decision]:
        """Take in a fact; return what the scheduler says to it."""
        self.now = event.time
        self.elapsed = max(self.elapsed, elapsed)
        return self._facts[type(event)](event)

    def apply(self, effect: Effect) -> list[Decision]:
        """Take in what was decided; return what the scheduler says to that."""
        return self._effects[type(effect)](effect)

    def value(self, report: Report) -> float | None:
        """Return the first metric, where it was reported and is a finite number."""
        value = report.value(self._metric)
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None

    def reached(self, report: Report) -> float | None:
        """Return how far a trial is, in the scheduler's unit, where it says so."""
        value = report.value(self.scheduler.resource)
        return float(value) if isinstance(value, (int, float)) else None

    def forget(self, number: int) -> None:
        """Drop an ended trial, once the store has it: memory does not grow with history.

        Nothing that is decided later may depend on whether it has been dropped.
        """
        trial = self.trials[number]
        if trial.status.final:
            self.shelf.leave(trial)
            del self.trials[number]

    # ------------------------------------------------------------------------------- facts

    def _on_capacity(self, event: CapacityChanged) -> list[Decision]:
        self.moved = True
        self.ledger.resize(event.nodes)
        self.queue.refit()
        self.stable_since = self.elapsed
        return []

    def _on_suggested(self, event: Suggested) -> list[Decision]:
        self.moved = True
        self.supply.suggested(event)
        if event.origin == "user":
            self._reopen()
        resources = event.resources or self.settings.resources
        trial = Trial(event.trial, event.config, resources, origin=event.origin, created=event.time)
        self.trials[event.trial] = trial
        self.counts[trial.status] += 1
        if not event.problem:
            self.queue.add(trial)
        return decisions_of(self.scheduler, self.scheduler.on_add(trial), event.trial)

    def _on_exhausted(self, event: Exhausted) -> list[Decision]:
        self.moved = True
        self.supply.exhaust(event.reason)
        return []

    def _on_started(self, event: Started) -> list[Decision]:
        trial = self.trials[event.trial]
        trial.worker = event.worker or trial.worker
        self._hear(trial, at=True)
        return []

    def _on_reported(self, event: Reported) -> list[Decision]:
        trial = self.trials[event.trial]
        trial.worker = event.worker or trial.worker
        self._hear(trial)
        decisions: list[Decision] = []
        for report in event.reports:
            if report.step != trial.step + 1:
                raise ValueError(f"trial {trial.number}: step {report.step} was reported after step {trial.step}")
            trial.last, trial.last_config = report, len(trial.configs)
            value, reached = self.value(report), self.reached(report)
            if value is not None:
                self._note_best(trial, report, value)
                decisions += decisions_of(self.scheduler, self.scheduler.on_report(trial, report), trial.number)
            if trial.until is not None and reached is not None and reached >= trial.until:
                trial.waits = True
                if value is not None:
                    trial.rungs.append((trial.last_config, reached, value))
            if self._stop and stopped_by(report, self._stop):
                trial.waits = True
        for ref in event.saved:
            self._keep(trial, ref)
        trial.saving = event.saving
        return decisions

    def _on_saved(self, event: Saved) -> list[Decision]:
        trial = self.trials.get(event.trial)
        if trial is not None and trial.status.placed and trial.attempt == event.attempt:
            self._hear(trial)
            if event.checkpoint:
                self._keep(trial, event.checkpoint)
        return []

    def _on_failed(self, event: Failed) -> list[Decision]:
        trial = self.trials[event.trial]
        trial.error = event.traceback or event.message
        trial.failures[event.cause] = trial.failures.get(event.cause, 0) + 1
        return []

    def _on_requested(self, event: Requested) -> list[Decision]:
        self.last_request = event.request
        self.moved = True
        if event.trial is not None:
            trial = self.trials.get(event.trial)
            if trial is not None and not trial.status.final and event.action in ("pause", "unpause"):
                self._hold(trial, event.action == "pause")
        elif event.action in ("pause", "unpause"):
            self.paused = event.action == "pause"
        elif event.action == "extend":
            self.supply.extend(int(event.data.get("trials", 0)))
            self.extra_time += float(event.data.get("time", 0.0))
            self._reopen()
        return []

    def _reopen(self) -> None:
        """Go on with a search that had come to its end: a person has asked for more."""
        if self.finished is not None and self.finished.status == "finished":
            self.finished = self.ending = None

    def _on_interrupted(self, event: Interrupted) -> list[Decision]:
        self.interrupted = True
        for number in self.placed:
            if self.trials[number].status is not TrialStatus.PAUSING:
                self.commands.append(Save(trial=number, halt=True))
        return []

    def _on_resumed(self, event: Resumed) -> list[Decision]:
        self.finished = self.ending = None
        self.interrupted = False
        self.moved = True
        self.supply.reopen()
        self.ledger.resize(())  # nothing can be leased until the new driver says what there is
        self.queue.refit()
        self.stable_since = self.elapsed
        for number in list(self.placed):
            trial = self.trials[number]
            # One that was to pause is paused now, unless it has been sent on meanwhile.
            onward = trial.onward
            if trial.status is TrialStatus.PAUSING and (trial.held or not onward):
                self._move(trial, TrialStatus.PAUSED, HELD if onward else trial.reason)
            else:
                self._move(trial, TrialStatus.PENDING, "the driver restarted")
        decisions: list[Decision] = []
        if event.retry_failed:
            for trial in list(self.trials.values()):
                if trial.status is TrialStatus.FAILED:
                    trial.failures.clear()
                    trial.error = ""
                    self._move(trial, TrialStatus.PENDING, "a person had it tried again")
                    decisions += decisions_of(self.scheduler, self.scheduler.on_add(trial), trial.number)
        return decisions

    def _note_best(self, trial: Trial, report: Report, value: float) -> None:
        maximise = self.settings.modes[0] == "max"
        if trial.best is None or (value > trial.best if maximise else value < trial.best):
            trial.best, trial.best_step, trial.best_config = value, report.step, trial.last_config
            if self.best is None or (value > self.best.value if maximise else value < self.best.value):
                self.best = Best(value, trial.number, report.step, copy.deepcopy(dict(trial.config)))

    def _hear(self, trial: Trial, *, at: bool = False) -> None:
        """Note a sign of life; `at`: it is that its code begins now."""
        if trial.status is TrialStatus.STARTING:
            if trial.started is None and not at:  # nothing has told; its process was up then
                trial.started = trial.launched
            self._move(trial, TrialStatus.RUNNING, "")
        self.heard[trial.number] = self.elapsed
        self.heard.move_to_end(trial.number)

    def _hold(self, trial: Trial, held: bool) -> None:
        self.held += int(held) - int(trial.held)
        trial.held = held

    def _keep(self, trial: Trial, ref: CheckpointRef) -> None:
        value = self.value(trial.last) if trial.last is not None and trial.last.step == ref.step else None
        self.shelf.put(trial, Kept(ref.step, ref, value))

    # ------------------------------------------------------------------------------- effects

    def _on_asked(self, effect: Asked) -> list[Decision]:
        for number in effect.numbers:
            self.supply.ask(number)
            self.commands.append(Ask(trial=number))
        return []

    def _on_awaits(self, effect: Awaits) -> list[Decision]:
        self.awaiting[effect.trial] = effect.verdict
        self.heard.pop(effect.trial, None)  # it is no fault of its own that nothing is heard of it
        return []

    def _on_moved(self, effect: Moved) -> list[Decision]:
        return self._leave(self.trials[effect.trial], TrialStatus(effect.status), effect.reason, kill=effect.kill)

    def _on_dropped(self, effect: Dropped) -> list[Decision]:
        if unused := self.shelf.take(self.trials[effect.trial], effect.uris):
            self.commands.append(DropCheckpoints(trial=effect.trial, checkpoints=tuple(unused)))
        return []

    def _on_supply_ended(self, effect: SupplyEnded) -> list[Decision]:
        self.supply.told = True
        return decisions_of(self.scheduler, self.scheduler.on_supply_end())

    def _on_ending(self, effect: Ending) -> list[Decision]:
        self.ending = effect
        return []

    def _on_finished(self, effect: Finished) -> list[Decision]:
        self.finished = Finish(status=effect.status, reason=effect.reason)
        self.commands.append(self.finished)
        return []

    def _launch(self, effect: Launched) -> list[Decision]:
        trial = self.trials[effect.trial]
        if not trial.status.placed:  # else it begins anew where it is
            self.queue.pass_over(trial.number)
            self._move(trial, TrialStatus.STARTING, "")
            trial.launched = self.now
            self.ledger.hold(trial.number, effect.resources, effect.nodes)
            self.supply.launched(self.elapsed, effect.resources)
            self.scheduler.on_start(trial)
        trial.attempt = effect.attempt
        trial.until, trial.save = effect.until, effect.save
        trial.waits = trial.sent_on = False
        kept = trial.checkpoint
        launch = Launch(
            trial=trial.number,
            attempt=trial.attempt,
            config=trial.config,
            checkpoint=kept.ref if kept else None,
            start=kept.step if kept else 0,
            committed=trial.step,
            until=trial.until,
            save=trial.save,
            resources=effect.resources,
            nodes=effect.nodes,
        )
        self.commands.append(launch)
        return []

    def _decide(self, effect: Decided) -> list[Decision]:
        trial, verdict = self.trials[effect.trial], effect.verdict
        self._awaits_no_more(trial)
        match verdict:
            case Stop():
                status = TrialStatus.COMPLETED if verdict.completed else TrialStatus.STOPPED
                return self._leave(trial, status, verdict.reason)
            case Continue():
                trial.until, trial.save = verdict.until, verdict.save
                if trial.status in (TrialStatus.STARTING, TrialStatus.RUNNING):
                    trial.waits = False
                    self.commands.append(Advance(trial=trial.number, until=verdict.until, save=verdict.save))
                else:
                    self._send_on(trial, verdict.reason)
            case Clone():
                self._clone(trial, verdict)
            case Resize() if not trial.status.placed:
                self.queue.discard(trial)
                trial.resources = verdict.resources
                (self.queue.add if trial.status is TrialStatus.PENDING else self.queue.add_paused)(trial)
            case Pause() | Resize():
                trial.resize = verdict.resources if isinstance(verdict, Resize) else None
                trial.resizing = trial.resize is not None
                self._pause(trial, verdict.reason)
        return []

    def _awaits_no_more(self, trial: Trial) -> None:
        if self.awaiting.pop(trial.number, None) is not None and trial.status is TrialStatus.RUNNING:
            self._hear(trial)

    def _clone(self, trial: Trial, verdict: Clone) -> None:
        kept = self.trials[verdict.source].checkpoint
        assert kept is not None, "the controller sees to it"
        trial.configs.append((trial.step, trial.config))
        trial.config = verdict.config
        self.shelf.put(trial, Kept(trial.step, kept.ref, None))
        trial.until, trial.save = verdict.until, verdict.save
        if trial.status not in (TrialStatus.STARTING, TrialStatus.RUNNING):
            self._send_on(trial, verdict.reason)

    def _send_on(self, trial: Trial, reason: str) -> None:
        trial.sent_on = True
        if trial.status is TrialStatus.PAUSED:
            if trial.held:
                trial.reason = HELD  # it goes on once the person lets it
            else:
                self._move(trial, TrialStatus.PENDING, reason)

    def _pause(self, trial: Trial, reason: str) -> None:
        kept = trial.checkpoint
        if reason != HELD:
            trial.sent_on = False  # a person only delays what was decided
        if trial.status in (TrialStatus.PAUSING, TrialStatus.PAUSED):
            trial.reason = reason
        elif trial.status is not TrialStatus.RUNNING or (kept is not None and kept.step == trial.step):
            self._leave(trial, TrialStatus.PAUSED, reason)
        else:
            self._move(trial, TrialStatus.PAUSING, reason)
            self.commands.append(Save(trial=trial.number, halt=not trial.waits))

    def _leave(self, trial: Trial, status: TrialStatus, reason: str, *, kill: bool = False) -> list[Decision]:
        """End a trial's lease, if it has one, and the trial itself where `status` is final."""
        placed = trial.status.placed
        if status is TrialStatus.FAILED:
            trial.error = trial.error or reason
        self._move(trial, status, reason)
        if placed:
            warm = status is TrialStatus.PAUSED and self.settings.keep_warm
            self.commands.append(Release(trial=trial.number, kill=kill, warm=warm))
        if not status.final:
            return []
        self._hold(trial, False)
        decisions = decisions_of(self.scheduler, self.scheduler.on_end(trial, status.value.lower()))
        self._tell(trial)
        return decisions

    def _move(self, trial: Trial, status: TrialStatus, reason: str) -> None:
        self.moved = True
        self.counts[trial.status] -= 1
        self.queue.discard(trial)
        trial.move(status, self.now, reason)
        self.counts[status] += 1
        number = trial.number
        if status is TrialStatus.STARTING:
            self.placed[number] = None
        elif not status.placed:
            self.placed.pop(number, None)
            self.heard.pop(number, None)
            self.ledger.release(number)
            trial.waits = trial.saving = False
            self.awaiting.pop(number, None)
            trial.resources, trial.resize = trial.resize or trial.resources, None
            if status is TrialStatus.PENDING:
                trial.resizing = False
                self.queue.add(trial)
            elif status is TrialStatus.PAUSED:
                self.queue.add_paused(trial)
                if trial.last is not None:  # most trials of a promotion end here: a searcher must not wait for more
                    self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        last = trial.last
        # Of several metrics the last values count, of one the best: other configs of a clone are not told of.
        config = trial.last_config if len(self.settings.metrics) > 1 else trial.best_config
        rungs, reached = [(resource, value) for number, resource, value in trial.rungs if number == config], 0.0
        if last is not None:
            value, reached = self.value(last), self.reached(last) or 0.0
            if value is not None and trial.last_config == config and (not rungs or rungs[-1][0] != reached):
                rungs.append((reached, value))
        outcome = Outcome(
            status=trial.status.value.lower(),
            value=trial.best,
            step=trial.step,
            values=tuple(last.value(name) for name in self.settings.metrics) if last else (),
            config=trial.config_number(config),
            resource=reached,
            rungs=tuple(rungs),
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
            assert self.queue.is_waiting(trial) == (trial.status is TrialStatus.PENDING)
            assert self.queue.is_paused(trial) == (trial.status is TrialStatus.PAUSED)
        assert self.awaiting.keys() <= self.trials.keys()
        assert self.queue.size == self.counts[TrialStatus.PENDING]
        assert self.queue.paused_size == self.counts[TrialStatus.PAUSED]
        assert sum(trial.held for trial in self.trials.values()) == self.held
