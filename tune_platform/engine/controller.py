"""The pure controller: events in, commands out.

It has no clock, does no I/O and draws no random numbers; time arrives inside events. So the same
controller runs on a cluster, in one process under a debugger and on a virtual clock, and folding the log
through a fresh one rebuilds an experiment exactly.

    Suggested ─> a trial waits ─> Launch ─> Reported ─> the scheduler's verdict ─> Advance | Save | Release ...

What does not belong here: anything that waits, writes, imports Ray, or knows which searcher is used.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tune_platform.engine.queue import PATIENCE, Queue
from tune_platform.engine.settings import Settings
from tune_platform.engine.shelf import Shelf
from tune_platform.engine.trial import Kept, Trial, TrialStatus
from tune_platform.protocol.commands import (
    Advance,
    Ask,
    Command,
    Decide,
    DropCheckpoints,
    Finish,
    Launch,
    Release,
    Save,
    Tell,
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
    Suggested,
    Ticked,
)
from tune_platform.protocol.reports import CheckpointRef, Config, Report
from tune_platform.protocol.scheduler import Scheduler
from tune_platform.protocol.searcher import Outcome
from tune_platform.protocol.verdicts import Clone, Continue, Pause, Stop, Verdict
from tune_platform.resources import Ledger, Resources

__all__ = ["PATIENCE", "Best", "Controller", "Settings"]

#: The reason of a pause that only a person lifts.
_HELD = "a person paused it"
_LIFTED = "a person let it go on"
#: Seconds within which two times are the same: sums of times of the epoch are not exact.
_INSTANT = 1e-6


@dataclass(slots=True)
class Best:
    """The best value of the first metric that any trial has reported so far."""

    value: float
    trial: int
    step: int
    config: Config


class Controller:
    """Folds events into the state of an experiment and says what is to be done about them."""

    def __init__(self, settings: Settings, scheduler: Scheduler) -> None:
        self.settings = settings
        self.scheduler = scheduler
        self.trials: dict[int, Trial] = {}
        self.ledger = Ledger()
        self.counts: Counter[TrialStatus] = Counter()
        self.best: Best | None = None
        self.finished: Finish | None = None
        self.paused = False  # a person wants no new launches for now
        self.interrupted = False  # the driver is about to end
        self.next_number = 0
        self.last_request = 0  # the number of the newest request that was carried out
        self.asked: dict[int, None] = {}  # numbers that the searcher owes a suggestion for, in order
        self._queue = Queue(self.ledger)
        self._running: OrderedDict[int, float] = OrderedDict()  # number -> when last heard of, oldest first
        self._held = 0
        self._shelf = Shelf(keep_last=settings.keep_last, keep_best=settings.keep_best, mode=settings.modes[0])
        self._extra = 0  # trials that persons added or extended by
        self._exhausted = ""
        self._ending: Finish | None = None  # no new launches; Finish once nothing runs
        self._cancel = False  # ... and what runs is to be stopped at the end of this turn
        self._spent = 0.0
        self._clock: float | None = None
        self._slots = 1
        self._newest = -1  # the highest number that any trial has
        self._out: list[Command] = []
        self._handlers: dict[type[Event], Callable[..., None]] = {
            CapacityChanged: self._on_capacity,
            Suggested: self._on_suggested,
            Exhausted: self._on_exhausted,
            Reported: self._on_reported,
            Saved: self._on_saved,
            Failed: self._on_failed,
            Requested: self._on_requested,
            Interrupted: self._on_interrupted,
            Resumed: self._on_resumed,
            Ticked: self._on_ticked,
        }
        scheduler.setup(metric=settings.metrics[0], mode=settings.modes[0], seed=settings.seed)

    # ------------------------------------------------------------------------------- the two entry points

    def accepts(self, event: Event) -> bool:
        """Whether the event is news. One of an ended lease is stale: it is neither logged nor handled."""
        if isinstance(event, (Reported, Saved, Failed)):
            trial = self.trials.get(event.trial)
            if trial is None or trial.number not in self._running or trial.attempt != event.attempt:
                return False
            return not isinstance(event, Saved) or trial.status is TrialStatus.PAUSING or bool(event.checkpoint)
        if isinstance(event, Suggested):
            return event.trial in self.asked or event.trial == self.next_number
        if isinstance(event, Exhausted):
            return not self._exhausted
        if isinstance(event, Requested):
            return event.request > self.last_request
        return True

    def handle(self, event: Event) -> list[Command]:
        """Fold one event and return what is to be done, in order."""
        if self._clock is not None and not isinstance(event, Resumed):
            self._spent += max(0.0, event.time - self._clock)
        self._clock = event.time if self._clock is None or isinstance(event, Resumed) else max(self._clock, event.time)
        self._out = []
        self._handlers[type(event)](event)
        self._check_budget(event.time)
        self._schedule(event.time)
        return self._out

    def deadline(self) -> float:
        """Return the time at which a Ticked event is due if nothing else happens before; inf: never."""
        if self._clock is None or self.finished:
            return math.inf
        deadline = self._clock + self.settings.time_budget - self._spent
        if self._running:
            deadline = min(deadline, next(iter(self._running.values())) + self.settings.step_timeout)
        return deadline

    def overdue(self, time: float) -> Failed | None:
        """Return the failure of the trial that has not been heard of for too long, if any: a fact, for the log."""
        number, heard = next(iter(self._running.items()), (0, math.inf))
        if heard + self.settings.step_timeout > time:
            return None
        message, attempt = f"no report for {self.settings.step_timeout:g} s (step_timeout)", self.trials[number].attempt
        return Failed(time=time, trial=number, attempt=attempt, cause="timeout", message=message)

    @property
    def supplied(self) -> bool:
        """Whether a trial waits for a place already."""
        return self._queue.size > 0

    def forget(self, number: int) -> None:
        """Drop an ended trial, once the store has it: the engine's memory does not grow with history.

        Nothing that is decided later may depend on whether it has been dropped.
        """
        trial = self.trials[number]
        if trial.status.final:
            self._shelf.leave(trial)
            del self.trials[number]

    # ------------------------------------------------------------------------------- events

    def _on_capacity(self, event: CapacityChanged) -> None:
        self.ledger.resize(event.nodes)
        # How many ordinary trials can run at a time, which is how many suggestions are kept ready.
        try:
            ordinary = self.settings.resources({})
        except Exception:  # a function of the config, which there is none of yet
            ordinary = Resources()
        self._slots = int(min(self.ledger.slots(ordinary), self.settings.max_concurrent, 10_000))

    def _on_suggested(self, event: Suggested) -> None:
        if event.origin == "user":
            self._extra += 1
        self.asked.pop(event.trial, None)
        self._newest = max(self._newest, event.trial)
        self.next_number = max(self.next_number, event.trial + 1)
        trial = Trial(event.trial, event.config, Resources(), origin=event.origin, created=event.time)
        self.trials[event.trial] = trial
        self.counts[trial.status] += 1
        try:
            trial.resources = self.settings.resources(event.config)
        except Exception as error:
            self._fail(trial, event.time, f"resources: the function of the config raised {error!r}")
        else:
            self._queue.add(trial)

    def _on_exhausted(self, event: Exhausted) -> None:
        self._exhausted = event.reason
        self.asked.clear()
        self.next_number = self._newest + 1
        if event.failed:
            self._end(Finish(status="failed", reason=event.reason))

    def _on_reported(self, event: Reported) -> None:
        trial = self.trials[event.trial]
        trial.worker = event.worker or trial.worker
        self._hear(trial, event.time)
        verdict: Verdict | None = None
        for report in event.reports:
            if report.step != trial.step + 1:
                raise ValueError(f"trial {trial.number}: step {report.step} was reported after step {trial.step}")
            trial.last = report
            self._note_best(trial, report)
            if verdict is None or isinstance(verdict, Continue):
                verdict = self._judge(trial, report)
        for ref in event.saved:
            self._keep(trial, ref)
        if event.done:
            # The training code is at its end, whatever the scheduler thinks of the last report.
            self._leave(trial, TrialStatus.COMPLETED, event.time, "the training code ended")
        elif verdict is not None:
            self._act(trial, verdict, event.time)

    def _on_saved(self, event: Saved) -> None:
        trial = self.trials[event.trial]
        self._hear(trial, event.time)
        if event.checkpoint:
            self._keep(trial, event.checkpoint)
        if trial.status is TrialStatus.PAUSING:
            self._pause(trial, event.time, trial.reason)

    def _on_failed(self, event: Failed) -> None:
        trial = self.trials[event.trial]
        trial.error = event.traceback or event.message
        trial.failures[event.cause] = trial.failures.get(event.cause, 0) + 1
        if event.cause == "lost_checkpoint" and trial.checkpoints:
            self._drop(trial, self._shelf.take(trial, [trial.checkpoints[-1]]))
        # A process in which user code has raised may be spoilt (a CUDA error, half-changed globals): take a fresh one.
        kill = event.cause not in ("bad_metric", "bad_report")
        allowed = 0 if event.fatal else self.settings.retries.get(event.cause, 0)
        if trial.failures[event.cause] <= allowed and self._ending is None:
            reason = f"retry {trial.failures[event.cause]} of {allowed} after {event.cause}: {event.message}"
            self._again(trial, event.time, reason, kill=kill)
        else:
            self._fail(trial, event.time, f"{event.cause}: {event.message}", kill=kill)

    def _fail(self, trial: Trial, time: float, reason: str, *, kill: bool = False) -> None:
        trial.error = trial.error or reason
        self._leave(trial, TrialStatus.FAILED, time, reason, kill=kill)
        failed = self.counts[TrialStatus.FAILED]
        if failed > self.settings.max_failures:
            text = f"{failed} trials failed, more than the budget of {self.settings.max_failures:g}; the last: {reason}"
            self._end(Finish(status="failed", reason=text), cancel=True)

    def _again(self, trial: Trial, time: float, reason: str, *, kill: bool = False, release: bool = True) -> None:
        """Have a trial whose lease was lost wait for another; one that was to pause is paused now."""
        if trial.status is TrialStatus.PAUSING and not self._lifted(trial, trial.reason):
            self._leave(trial, TrialStatus.PAUSED, time, trial.reason, kill=kill, release=release)
        else:
            self._leave(trial, TrialStatus.PENDING, time, reason, kill=kill, release=release)

    def _lifted(self, trial: Trial, reason: str) -> bool:
        """Whether it was to pause for a person who has let it go on meanwhile."""
        return reason == _HELD and not trial.held

    def _on_requested(self, event: Requested) -> None:
        self.last_request = event.request
        if event.trial is not None:
            self._on_trial_request(event, event.trial)
        elif event.action in ("stop", "cancel"):
            finish = Finish(status="stopped", reason="a person stopped it")
            self._end(finish, cancel=event.action == "cancel")
        elif event.action == "pause":
            self.paused = True
        elif event.action == "unpause":
            self.paused = False
        elif event.action == "extend":
            self._extra += int(event.data.get("trials", 0))
            self._spent -= float(event.data.get("time", 0.0))
            if self.finished is not None and self.finished.status == "finished":
                self.finished = self._ending = None

    def _on_trial_request(self, event: Requested, number: int) -> None:
        trial = self.trials.get(number)
        if trial is None or trial.status.final:
            return  # it ended before the request arrived
        if event.action in ("stop", "cancel"):
            self._act(trial, Stop(reason="a person stopped it"), event.time)
        elif event.action == "pause" and not trial.held:
            trial.held = True
            self._held += 1
            if trial.status is TrialStatus.RUNNING:
                self._act(trial, Pause(reason=_HELD), event.time)
            elif trial.status is TrialStatus.PENDING:
                self._pause(trial, event.time, _HELD)
        elif event.action == "unpause" and trial.held:
            self._free(trial)
            # One that the scheduler had paused already goes on waiting for the scheduler.
            if trial.status is TrialStatus.PAUSED and trial.reason == _HELD:
                self._move(trial, TrialStatus.PENDING, event.time, _LIFTED)

    def _on_interrupted(self, event: Interrupted) -> None:
        self.interrupted = True
        for number in self._running:
            if self.trials[number].status is TrialStatus.RUNNING:
                self._out.append(Save(trial=number))

    def _on_resumed(self, event: Resumed) -> None:
        self.finished = self._ending = None
        self.interrupted = False
        self._exhausted = ""  # a searcher that failed, or a longer grid: ask again
        self.ledger.resize(())  # nothing can be leased until the new driver says what there is
        for number in list(self._running):
            self._again(self.trials[number], event.time, "the driver restarted", release=False)
        if event.retry_failed:
            for trial in list(self.trials.values()):
                if trial.status is TrialStatus.FAILED:
                    trial.failures.clear()
                    trial.error = ""
                    self._move(trial, TrialStatus.PENDING, event.time, "a person had it tried again")

    def _on_ticked(self, event: Ticked) -> None:
        while failed := self.overdue(event.time):  # older logs have nothing but the tick
            self._on_failed(failed)

    # ------------------------------------------------------------------------------- reports and verdicts

    def _note_best(self, trial: Trial, report: Report) -> None:
        value = self._value(report)
        if value is None:
            return
        maximise = self.settings.modes[0] == "max"
        if trial.best is None or (value > trial.best if maximise else value < trial.best):
            trial.best, trial.best_step = value, report.step
            if self.best is None or (value > self.best.value if maximise else value < self.best.value):
                self.best = Best(value, trial.number, report.step, trial.config)

    def _value(self, report: Report) -> float | None:
        """The first metric, where it was reported and is a finite number."""
        value = report.value(self.settings.metrics[0])
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None

    def _judge(self, trial: Trial, report: Report) -> Verdict | None:
        target = self.settings.target
        if target is not None and self.best is not None and self._ending is None:
            met = self.best.value >= target if self.settings.modes[0] == "max" else self.best.value <= target
            if met:
                reason = f"{self.settings.metrics[0]} reached the target {target:g} in trial {self.best.trial}"
                self._end(Finish(status="finished", reason=reason), cancel=True)
        verdict: Verdict | None = None
        if self._value(report) is not None:
            verdict = self.scheduler.on_report(trial, report)
        elif report.value(self.settings.metrics[0]) is not None:
            return None  # not a number: the worker fails the trial over it
        for name, threshold in self.settings.stop.items():
            value = report.value(name)
            if isinstance(value, (int, float)) and value >= threshold:
                return Stop(reason=f"{name} {value:g} reached the stop condition {threshold:g}", completed=True)
        reached = report.value(self.scheduler.resource)
        if verdict is None and trial.until is not None and isinstance(reached, (int, float)) and reached >= trial.until:
            until, save = self.scheduler.until(trial)
            verdict = Continue(until=until, save=save, reason="the scheduler has no objection")
        return verdict

    def _act(self, trial: Trial, verdict: Verdict, time: float) -> None:
        if isinstance(verdict, Clone) and not self._cloneable(verdict.source):
            until, save = self.scheduler.until(trial)
            verdict = Continue(until=until, save=save, reason=f"trial {verdict.source} has no checkpoint to clone")
        if isinstance(verdict, Continue) and trial.status is TrialStatus.PAUSING:
            return
        self._out.append(Decide(trial=trial.number, step=trial.step, verdict=verdict))
        match verdict:
            case Continue():
                trial.until, trial.save = verdict.until, verdict.save
                self._out.append(Advance(trial=trial.number, until=verdict.until, save=verdict.save))
            case Stop():
                status = TrialStatus.COMPLETED if verdict.completed else TrialStatus.STOPPED
                self._leave(trial, status, time, verdict.reason)
            case Pause():
                kept = trial.checkpoint
                if trial.status is TrialStatus.PAUSING:
                    trial.reason = verdict.reason
                elif kept is not None and kept.step == trial.step:
                    self._pause(trial, time, verdict.reason)
                else:
                    self._move(trial, TrialStatus.PAUSING, time, verdict.reason)
                    self._out.append(Save(trial=trial.number))
            case Clone():
                kept = self.trials[verdict.source].checkpoint
                assert kept is not None
                trial.config = verdict.config
                self._drop(trial, self._shelf.put(trial, Kept(trial.step, kept.ref, None)))
                if trial.status is TrialStatus.PAUSING:  # it has what it goes on from later
                    self._pause(trial, time, trial.reason)
                else:
                    trial.until, trial.save = verdict.until, verdict.save
                    self._launch(trial, self.ledger.nodes(trial.number))

    def _cloneable(self, source: int) -> bool:
        trial = self.trials.get(source)
        return trial is not None and not trial.status.final and trial.checkpoint is not None

    # ------------------------------------------------------------------------------- checkpoints

    def _keep(self, trial: Trial, ref: CheckpointRef) -> None:
        value = self._value(trial.last) if trial.last is not None and trial.last.step == ref.step else None
        self._drop(trial, self._shelf.put(trial, Kept(ref.step, ref, value)))

    def _drop(self, trial: Trial, unused: Sequence[CheckpointRef]) -> None:
        if unused:
            self._out.append(DropCheckpoints(trial=trial.number, checkpoints=tuple(unused)))

    # ------------------------------------------------------------------------------- moves

    def _move(self, trial: Trial, status: TrialStatus, time: float, reason: str) -> None:
        self.counts[trial.status] -= 1
        self._queue.discard(trial)
        trial.move(status, time, reason)
        self.counts[status] += 1
        number = trial.number
        if status is TrialStatus.RUNNING:
            self._hear(trial, time)
        elif status is not TrialStatus.PAUSING:
            self._running.pop(number, None)
            self.ledger.release(number)
            if status is TrialStatus.PENDING:
                self._queue.add(trial)
            elif status is TrialStatus.PAUSED:
                self._queue.add_paused(trial)
                if trial.last is not None:  # most trials of a promotion end here: a searcher must not wait for more
                    self._tell(trial, trial.last)

    def _leave(
        self, trial: Trial, status: TrialStatus, time: float, reason: str, *, kill: bool = False, release: bool = True
    ) -> None:
        """End a trial's leg, and the trial itself where `status` is final."""
        leased = trial.number in self._running
        self._move(trial, status, time, reason)
        if leased and release:
            self._out.append(Release(trial=trial.number, kill=kill))
        if status.final:
            self._free(trial)
            self.scheduler.on_end(trial, status.value.lower())
            self._tell(trial, trial.last)

    def _tell(self, trial: Trial, last: Report | None) -> None:
        values = tuple(last.value(name) for name in self.settings.metrics) if last else ()
        outcome = Outcome(status=trial.status.value.lower(), value=trial.best, step=trial.step, values=values)
        self._out.append(Tell(trial=trial.number, outcome=outcome))

    def _pause(self, trial: Trial, time: float, reason: str) -> None:
        leased = trial.number in self._running
        if self._lifted(trial, reason):
            self._move(trial, TrialStatus.PENDING, time, _LIFTED)
        else:
            self._move(trial, TrialStatus.PAUSED, time, reason)
        if leased:
            self._out.append(Release(trial=trial.number, warm=self.settings.keep_warm))

    def _free(self, trial: Trial) -> None:
        if trial.held:
            trial.held = False
            self._held -= 1

    def _hear(self, trial: Trial, time: float) -> None:
        self._running[trial.number] = time
        self._running.move_to_end(trial.number)

    def _end(self, finish: Finish, *, cancel: bool = False) -> None:
        """Launch nothing more; with `cancel`, stop what runs at the end of this turn."""
        self._ending = finish
        self._cancel = cancel

    # ------------------------------------------------------------------------------- places

    def _check_budget(self, time: float) -> None:
        if self._spent + _INSTANT >= self.settings.time_budget and self.finished is None:
            # It ends what a person lets run out, too.
            reason = f"the time budget of {self.settings.time_budget:g} s is used up"
            self._end(self._ending or Finish(status="finished", reason=reason), cancel=True)
        if self._cancel and self._ending is not None:
            self._cancel = False
            for number in list(self._running):
                self._act(self.trials[number], Stop(reason=self._ending.reason), time)

    def _schedule(self, time: float) -> None:
        """Give out free places, ask for suggestions, and see whether all is done."""
        if self.finished is not None:
            return
        while self._ending is None and not self.paused and not self.interrupted:
            self._give_places(time)
            self._ask()
            if self._running or not self._fail_misfits(time):
                break
        if not self._running:
            self._finish_if_done()

    def _give_places(self, time: float) -> None:
        while self.ledger.leases() < self.settings.max_concurrent and not self._queue.stuck():
            number = self.scheduler.choose(self._queue)
            if number is None:
                return
            trial = self.trials[number]
            self._queue.pass_over(number)
            promoted = trial.status is TrialStatus.PAUSED
            self._move(trial, TrialStatus.RUNNING, time, "")
            nodes = self.ledger.lease(number, trial.resources)
            if nodes is None:
                raise ValueError(f"the scheduler chose trial {number}, which does not fit")
            trial.until, trial.save = self.scheduler.until(trial)
            if promoted:
                verdict = Continue(until=trial.until, save=trial.save, reason="the scheduler sent it on")
                self._out.append(Decide(trial=number, step=trial.step, verdict=verdict))
            self._launch(trial, nodes)

    def _fail_misfits(self, time: float) -> bool:
        """Fail the trials that do not fit although the whole cluster is idle; whether there were any."""
        if not self.ledger.capacity:
            return False  # it is not known yet
        misfits = [trial for trial in self._queue.all_waiting() if not self.ledger.possible(trial.resources)]
        for trial in misfits:
            nodes = "; ".join(", ".join(f"{v:g} {k}" for k, v in node.items()) for node in self.ledger.capacity)
            reason = f"resources: the trial needs {trial.resources}, but the nodes have only: {nodes}"
            self._fail(trial, time, reason)
        return bool(misfits)

    def _launch(self, trial: Trial, nodes: list[int]) -> None:
        trial.attempt += 1
        kept = trial.checkpoint
        self._out.append(
            Launch(
                trial=trial.number,
                attempt=trial.attempt,
                config=trial.config,
                checkpoint=kept.ref if kept else None,
                start=kept.step if kept else 0,
                committed=trial.step,
                until=trial.until,
                save=trial.save,
                resources=trial.resources,
                nodes=tuple(nodes),
            )
        )

    def _ask(self) -> None:
        limit = self.settings.num_samples + self._extra
        ready = self._slots if self.settings.prefetch is None else self.settings.prefetch
        while not self._exhausted and self._queue.size + len(self.asked) < max(1, ready) and self.next_number < limit:
            self.asked[self.next_number] = None
            self._out.append(Ask(trial=self.next_number))
            self.next_number += 1

    def _finish_if_done(self) -> None:
        if self._ending is not None:
            self.finished = self._ending
        elif self.ledger.capacity and not (
            self._queue.size or self.asked or self.paused or self.interrupted or self._held
        ):
            reason = self._exhausted or f"all {self.next_number} trials are done"
            if self._queue.paused_size:
                reason += f"; {self._queue.paused_size} of them stay paused, as no rung promotes them"
            self.finished = Finish(status="finished", reason=reason)
        if self.finished is not None:
            self._out.append(self.finished)

    # ------------------------------------------------------------------------------- for tests

    def check(self) -> None:
        """Raise AssertionError where derived state disagrees with the trials themselves, or an invariant is broken."""
        self.ledger.check()
        by_status: Counter[TrialStatus] = Counter(trial.status for trial in self.trials.values())
        for status in (TrialStatus.PENDING, TrialStatus.RUNNING, TrialStatus.PAUSING, TrialStatus.PAUSED):
            assert self.counts[status] == by_status[status], f"{status}: {self.counts[status]} != {by_status[status]}"
        for number, trial in self.trials.items():
            active = trial.status in (TrialStatus.RUNNING, TrialStatus.PAUSING)
            assert self.ledger.holds(number) == active, f"trial {number} is {trial.status} and its lease disagrees"
            assert (number in self._running) == active
            assert self._queue.is_waiting(trial) == (trial.status is TrialStatus.PENDING)
            assert self._queue.is_paused(trial) == (trial.status is TrialStatus.PAUSED)
        assert self._queue.size == self.counts[TrialStatus.PENDING]
        assert self._queue.paused_size == self.counts[TrialStatus.PAUSED]
        assert sum(trial.held for trial in self.trials.values()) == self._held
