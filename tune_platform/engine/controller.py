"""The pure controller: events in, effects and commands out.

It has no clock, does no I/O and draws no random numbers; time arrives with the events. So the same controller runs on
a cluster, in one process under a debugger and on a virtual clock.

    Suggested ─> Launched ─> Reported ─> what the scheduler says to it ─> Decided ─> Advance | Save | Release ...

`handle` decides what follows from a fact; `replay` takes what had been decided then from the log. What does not belong
here: anything that waits, writes, imports Ray, or knows which searcher is used.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from tune_platform.engine.apply import apply
from tune_platform.engine.clones import can_await, cloneable, cloned_again, held_for_clones, is_coming, saved_at
from tune_platform.engine.failures import allowed_retries, with_more_memory
from tune_platform.engine.fold import fold
from tune_platform.engine.news import accepts, deadline, given_up, overdue, target_reached
from tune_platform.engine.persons import answer
from tune_platform.engine.places import INSTANT, left_over, misfits, misfits_due, returning, stalling, wanted
from tune_platform.engine.queue import PATIENCE
from tune_platform.engine.replay import (
    Comparison,
    behind,
    moot,
    problem,
    pruning,
    settle,
)
from tune_platform.engine.settings import Settings
from tune_platform.engine.state import Best, State
from tune_platform.engine.trial import HELD, SAVED_FIRST, STOPPED_BY_A_PERSON, TAKEN_BACK, Trial, TrialStatus
from tune_platform.errors import SchedulerError
from tune_platform.protocol.commands import Command, Finish
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
    Regained,
    SupplyEnded,
)
from tune_platform.protocol.events import (
    CapacityChanged,
    Event,
    Exhausted,
    Failed,
    Reported,
    Requested,
    Resumed,
    Saved,
    Suggested,
)
from tune_platform.protocol.scheduler import Scheduler
from tune_platform.protocol.text import TIME_IS_UP, plain
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Pause, Resize, Stop, Verdict

__all__ = ["PATIENCE", "Best", "Controller", "Settings"]

#: Failures after which the process is as good as before. Where user code has raised it may be spoilt (a CUDA error,
#: half-changed globals): the next trial gets a fresh one.
_HARMLESS = ("bad_metric", "bad_report")


class Controller:
    """Says what is to be done about each fact. `state` is what the log means so far."""

    def __init__(self, settings: Settings, scheduler: Scheduler) -> None:
        self.settings = settings
        self.scheduler = scheduler
        self.state = State(settings, scheduler)
        self.effects: list[Effect] = []  # of the last event handled
        self.comparison = Comparison(self.state)
        self._name = type(scheduler).__name__
        self._decisions: deque[Decision] = deque()
        self._cancel: Ending | None = None  # what runs is to be stopped at the end of this turn

    # ------------------------------------------------------------------------------- the entry points

    def accepts(self, event: Event) -> bool:
        """Whether the event is news. One of an ended lease is stale: it is neither logged nor handled."""
        return accepts(self.state, event)

    def handle(self, event: Event, elapsed: float | None = None) -> list[Command]:
        """Fold one event, decide what follows, and return what is to be done, in order; `effects` is what was decided.

        `elapsed`: seconds of searching until now (the event's own time, where that is a virtual clock's).
        Raises SchedulerError where the scheduler decides what cannot be done.
        """
        state = self.state
        state.commands, self.effects = [], []
        said = fold(state, event, event.time if elapsed is None else elapsed)
        verdict, met, others = settle(state, event, said)
        if isinstance(event, Reported):
            self._on_reported(event, verdict, met)
        else:
            self._follow(event)
        self._decisions.extend(others)
        self._carry_out()
        if self._clone_those_that_wait() or isinstance(event, CapacityChanged):
            self._vacate()
        self._fail_misfits()
        self._check_budget()
        if state.spending.limited and not isinstance(event, (Resumed, Requested)):  # more requests may come with it
            self._check_limits()
        self._schedule()
        return state.commands

    def replay(self, event: Event, elapsed: float, effects: Sequence[Effect]) -> list[Command]:
        """Fold one event of the log and apply what had been decided then; `comparison` notes where it differs now."""
        state = self.state
        state.commands = []
        if any(isinstance(effect, Launched) and not effect.nodes for effect in effects):
            self.comparison.off = True  # a log of the former release, until another driver took over
        elif isinstance(event, Resumed):
            self.comparison.off = False
        self.comparison.begin(event, fold(state, event, elapsed))
        for effect in effects:
            self.comparison.before(effect)
            self.comparison.after(apply(state, effect))
        self.comparison.end()
        return state.commands

    def deadline(self) -> float:
        """Return the elapsed seconds at which a Ticked event is due if nothing else happens before; inf: never."""
        return deadline(self.state)

    def overdue(self, time: float, elapsed: float) -> Failed | None:
        """Return the failure of the trial that has not been heard of for too long, if any: a fact, for the log."""
        return overdue(self.state, time, elapsed)

    @property
    def supplied(self) -> bool:
        """Whether a trial waits for a place already."""
        return self.state.queue.size > 0

    @property
    def finished(self) -> Finish | None:
        """How the experiment ended, once it has."""
        return self.state.finished

    # ------------------------------------------------------------------------------- what follows from a fact

    def _follow(self, event: Event) -> None:
        match event:
            case Suggested(problem=problem) if problem:
                self._fail(self.state.trials[event.trial], problem)
            case Exhausted(failed=True):
                self._end("failed", event.reason)
            case Saved():
                self._on_saved(event)
            case Failed():
                self._on_failed(event)
            case Requested():
                self._on_requested(event)
            case Resumed():
                for trial in [trial for trial in self.state.trials.values() if trial.stopping]:
                    self._act(trial, Stop(reason=STOPPED_BY_A_PERSON), "person")

    def _on_reported(self, event: Reported, verdict: Verdict | None, met: tuple[str, float] | None) -> None:
        trial = self.state.trials[event.trial]
        self._check_target()
        self._let_go(trial)
        if trial.pruned:
            self._act(trial, Stop(reason=pruning(event.reports, self.settings.metrics)), "stop")
        elif event.done:
            # The training code is at its end, whatever the scheduler thinks of the last report.
            self._emit(Moved(trial=trial.number, status="COMPLETED", reason="the training code ended"))
        elif met is not None:
            name, value = met
            reason = f"{name} {value:g} reached the stop condition {self.settings.stop[name]:g}"
            self._act(trial, Stop(reason=reason, completed=True), "stop")
        elif verdict is not None:
            self._decisions.appendleft(Decision(trial.number, verdict))
        elif trial.waits and event.reports:  # a batch of nothing but checkpoints comes after the verdict
            self._go_on(trial, "the scheduler has no objection")

    def _on_saved(self, event: Saved) -> None:
        trial = self.state.trials.get(event.trial)
        if trial is None or trial.attempt != event.attempt:
            return  # a late one, of a trial that has ended
        self._let_go(trial)
        if trial.status is TrialStatus.PAUSING:
            self._paused(trial)

    def _on_failed(self, event: Failed) -> None:
        trial = self.state.trials[event.trial]
        if (lost := trial.checkpoint if event.cause == "lost_checkpoint" else None) is not None:
            self._emit(Dropped(trial=trial.number, uris=(lost.ref.uri,)))
        kill = event.cause not in _HARMLESS
        anothers = lost is not None and lost.ref.trial != trial.number
        allowed = allowed_retries(self.settings, event, trial.step, anothers=anothers)
        ending = self.state.ending is not None
        if trial.stopping:
            self._paused(trial, kill=kill)
        elif trial.failures[event.cause] > allowed or (ending and not self.state.spending.saving):
            self._fail(trial, f"{event.cause}: {event.message}", kill=kill)
        elif trial.status is TrialStatus.PAUSING:
            self._paused(trial, kill=kill)
        else:
            of = f" of {allowed:g}" if allowed < math.inf else ""
            reason = f"retry {trial.failures[event.cause]}{of} after {event.cause}: {event.message}"
            self._emit(Moved(trial=trial.number, status="PENDING", reason=reason, kill=kill))
            if event.cause == "out_of_memory" and (more := with_more_memory(self.settings, trial.resources)):
                self._act(trial, more, "engine")
            if lost is not None and (clone := cloned_again(self.state, trial, lost.ref.trial)):
                self._emit(Awaits(trial=trial.number, step=lost.step, verdict=clone, lost=lost.ref.step))

    def _on_requested(self, event: Requested) -> None:
        if event.refused:
            return
        if event.trial is None:
            if event.action in ("stop", "cancel"):
                self._end("stopped", STOPPED_BY_A_PERSON, cancel=event.action == "cancel")
            return
        trial = self.state.trials.get(event.trial)
        if trial is None or trial.status.final:
            return  # it ended before the request arrived
        match answer(trial, event.action):
            case Moved() as move:
                self._emit(move)
            case (Pause() | Stop()) as verdict:
                self._act(trial, verdict, "person")

    def _fail(self, trial: Trial, reason: str, *, kill: bool = False) -> None:
        self._emit(Moved(trial=trial.number, status="FAILED", reason=reason, kill=kill))
        if text := given_up(self.state, reason):
            self._end("failed", text, cancel=True)

    def _paused(self, trial: Trial, *, kill: bool = False) -> None:
        """Pause a trial that was to pause; where it has been sent on meanwhile, it waits for a place at once.

        One that a person stops ends.
        """
        onward = trial.onward
        if trial.stopping:
            self._emit(Moved(trial=trial.number, status="STOPPED", reason=STOPPED_BY_A_PERSON, kill=kill))
        elif onward and not trial.held:
            self._emit(Moved(trial=trial.number, status="PENDING", reason=onward, kill=kill))
        else:
            reason = HELD if onward else trial.reason
            self._emit(Moved(trial=trial.number, status="PAUSED", reason=reason, kill=kill))

    def _check_target(self) -> None:
        if text := target_reached(self.state):
            self._end("finished", text, cancel=True)

    # ------------------------------------------------------------------------------- verdicts

    def _carry_out(self) -> None:
        """Act on the decisions of the scheduler, and on those that it makes when it hears of their effects."""
        while self._decisions:
            decision = self._decisions.popleft()
            if moot(self.state, decision):
                continue
            if said := problem(self.state, decision):
                raise SchedulerError(
                    f"the scheduler {self._name} decided {decision.verdict} on trial {decision.trial}: {said}"
                )
            verdict = decision.verdict
            if "\x1b" in verdict.reason:
                verdict = replace(verdict, reason=plain(verdict.reason))
            self._act(self.state.trials[decision.trial], verdict, "scheduler")

    def _act(self, trial: Trial, verdict: Verdict, by: str) -> None:
        if isinstance(verdict, Clone) and by == "scheduler" and can_await(self.state, trial.number, verdict.source):
            self._emit(Awaits(trial=trial.number, step=trial.step, verdict=verdict))
            return
        if isinstance(verdict, Clone) and not cloneable(self.state, verdict.source):
            waits = trial.waits or trial.number in self.state.awaiting
            if waits or trial.status in (TrialStatus.PAUSING, TrialStatus.PAUSED):
                self._go_on(trial, f"trial {verdict.source} has no checkpoint to clone")
            return
        self._emit(Decided(trial=trial.number, step=trial.step, verdict=verdict, by=by))
        if isinstance(verdict, Clone):
            self._let_go(trial)
            if trial.status in (TrialStatus.STARTING, TrialStatus.RUNNING):
                self._launch(trial, self.state.ledger.nodes(trial.number), trial.until, trial.save)
            elif trial.status is TrialStatus.PAUSING:
                self._paused(trial)
        elif trial.status is TrialStatus.PAUSED and (trial.resizing or trial.reason == SAVED_FIRST):
            self._paused(trial)  # it has a checkpoint already

    def _clone_those_that_wait(self) -> bool:
        """Have clones go on whose source has the checkpoint by now, in memory or written, or writes none any more."""
        went_on = False
        for number, (clone, step, lost_at) in list(self.state.awaiting.items()):
            if not is_coming(self.state, number, clone.source, step):
                source = self.state.trials.get(clone.source)
                if lost_at is not None and source is not None and (again := saved_at(source, step)) is not None:
                    self._emit(Regained(trial=number, step=lost_at, checkpoint=again))
                else:
                    self._act(self.state.trials[number], clone, "engine")
                if source is not None:
                    self._let_go(source)
                went_on = True
        return went_on

    def _go_on(self, trial: Trial, reason: str) -> None:
        until, save = self._milestone(trial)
        verdict: Verdict = Continue(until=until, save=save, reason=reason)
        ignored = self.settings.on_bad_metric == "ignore" and trial.last and self.state.value(trial.last) is None
        if ignored and until is None and trial.until is not None:
            verdict = Stop(reason="at its last milestone its value does not count", completed=True)
        self._act(trial, verdict, "engine")

    def _milestone(self, trial: Trial) -> tuple[float | None, bool]:
        until, save = self.scheduler.until(trial)
        if said := behind(self.state, trial, until):
            raise SchedulerError(f"the scheduler {self._name} answered until({trial.number}): {said}")
        return until, save

    def _let_go(self, trial: Trial) -> None:
        """Let a trial go of the checkpoints that no policy keeps."""
        if surplus := self.state.shelf.surplus(trial):
            held = held_for_clones(self.state, trial) if trial.again or self.state.awaiting else ()
            if uris := tuple(ref.uri for ref in surplus if ref.step not in held or ref.trial != trial.number):
                self._emit(Dropped(trial=trial.number, uris=uris))

    def _emit(self, effect: Effect) -> None:
        self.effects.append(effect)
        self._decisions.extend(apply(self.state, effect))

    def _end(self, status: str, reason: str, *, cancel: bool = False) -> None:
        """Launch nothing more; with `cancel`, stop what runs at the end of this turn."""
        ending = Ending(status=status, reason=reason)
        self._emit(ending)
        self._cancel = ending if cancel else None

    # ------------------------------------------------------------------------------- places

    def _check_budget(self) -> None:
        state = self.state
        budget = self.settings.time_budget + state.extra_time
        if state.elapsed + INSTANT >= budget and state.finished is None:
            # It ends what a person lets run out, too.
            if state.ending is None:
                self._end("finished", f"{TIME_IS_UP} {budget:g} s is used up")
            self._cancel = state.ending
        if self._cancel is not None:
            ending, self._cancel = self._cancel, None
            for number in list(state.placed):
                self._act(state.trials[number], Stop(reason=ending.reason), "budget")
            self._carry_out()

    def _check_limits(self) -> None:
        """Save what runs some time before a limit on what may be spent, and end the search there.

        What could not be saved by then loses its place: its trial would go on from its last checkpoint.
        """
        state, spending = self.state, self.state.spending
        left, reason = spending.left(state.now)
        over = state.finished is not None or (state.ending is not None and not state.placed)
        if over or left > spending.lead(state.elapsed, left) + INSTANT:
            return
        if state.ending is None:
            self._end("finished", reason)
        for trial in [state.trials[number] for number in state.placed]:
            if trial.status is TrialStatus.PAUSING:
                if left <= INSTANT:
                    self._paused(trial, kill=True)
            elif left <= INSTANT:
                self._emit(Moved(trial=trial.number, status="PENDING", reason=reason, kill=True))
            else:
                self._act(trial, Pause(reason=SAVED_FIRST), "budget")
        self._carry_out()

    def _schedule(self) -> None:
        """Give out free places, ask for suggestions, and see whether all is done."""
        state = self.state
        if state.finished is not None:
            return
        stalled = False
        if state.launches:
            stalled = self._give_places()
            self._ask()
            if state.supply.over and not state.supply.told:
                self._emit(SupplyEnded())
                self._carry_out()
                stalled = self._give_places()
            if state.supply.over and not state.queue.size:
                self._grow()
        if not state.placed and state.launches and self._clone_those_that_wait():
            self._schedule()  # what they waited for does not come any more
        elif not state.placed:
            self._finish_if_done(stalled)

    def _grow(self) -> None:
        """Give a trial that may grow more of what no other is left to use; one at a time, from a checkpoint."""
        state = self.state
        if not state.ledger.growing or state.queue.paused_size or state.awaiting:  # all events of a tail come by here
            return
        trials = [state.trials[number] for number in state.placed]
        if any(trial.status is not TrialStatus.RUNNING for trial in trials):
            return
        for trial in trials:
            if trial.resources.grow and trial.newest is not None:  # else it would begin anew
                wants = trial.resources.grown()
                if state.ledger.fits_instead(trial.number, wants):
                    while len(trials) == 1 and state.ledger.fits_instead(trial.number, wants.grown()):
                        wants = wants.grown()
                    self._act(trial, Resize(resources=wants, reason="no other trial is left that needs it"), "engine")
                    self._carry_out()
                    self._give_places()
                    return

    def _give_places(self) -> bool:
        """Launch what the scheduler chooses; return whether it chose none of those that fit although nothing runs.

        While some wait for nodes that may come, it may well wait for these: they run later, or fail.
        """
        state = self.state
        while state.ledger.leases() < self.settings.max_concurrent and not state.queue.stuck():
            number = returning(state)
            if number is None:
                number = self.scheduler.choose(state.queue)
            if number is None:
                return not state.placed and state.queue.fits_any() and misfits_due(state) == math.inf
            trial = state.trials.get(number)
            nodes = state.ledger.place(trial.resources) if trial is not None else None
            if trial is None or nodes is None or trial.status not in (TrialStatus.PENDING, TrialStatus.PAUSED):
                raise SchedulerError(
                    f"the scheduler {self._name} chose trial {number}, which is not among the candidates"
                )
            if trial.status is TrialStatus.PAUSED:
                self._go_on(trial, "the scheduler sent it on")
            elif not trial.sent_on:
                self._launch(trial, nodes, *self._milestone(trial))
                continue
            self._launch(trial, nodes, trial.until, trial.save)
        return False

    def _vacate(self) -> None:
        """Have trials save and give their places back that are wanted for others: those that came last.

        One that waits to become a clone does so first.
        """
        state = self.state
        if not state.reclaim:
            return
        leaving = [number for number in state.placed if state.trials[number].status is TrialStatus.PAUSING]
        others = [number for number in reversed(state.placed) if number not in state.awaiting]
        for number in state.ledger.excess(others, leaving):
            trial = state.trials[number]
            self._act(trial, Resize(resources=trial.resources, reason=TAKEN_BACK + state.reclaim), "engine")
        self._carry_out()

    def _launch(self, trial: Trial, nodes: Sequence[int], until: float | None, save: bool) -> None:
        self._emit(Launched(trial=trial.number, attempt=trial.attempt + 1, nodes=tuple(nodes), until=until, save=save,
                            resources=trial.resources))  # fmt: skip

    def _fail_misfits(self) -> None:
        """Fail the trials that not even the idle cluster could hold, once it has been the same for long enough."""
        if found := misfits(self.state):
            for trial, reason in found:
                self._fail(trial, reason)
            self._carry_out()

    def _ask(self) -> None:
        moved, self.state.moved = self.state.moved, False
        if moved and (numbers := wanted(self.state)):  # else nobody came or went since the last time
            self._emit(Asked(numbers=tuple(numbers)))

    def _finish_if_done(self, stalled: bool) -> None:
        state = self.state
        if state.ending is not None:
            self._finish(state.ending.status, state.ending.reason + left_over(state))
            return
        if not state.ledger.capacity or state.supply.asked or state.paused or state.interrupted or state.held:
            return  # somebody is still to say something
        if stalled and (state.queue.size or not state.supply.over):
            self._finish("failed", f"the scheduler {self._name} {stalling(state)}")
        elif not state.queue.size and state.supply.over:
            self._stop_paused()
            if self.supplied:  # the scheduler had an answer to that
                self._schedule()
                return
            reason = state.supply.exhausted or f"all {state.supply.next_number} trials are done"
            self._finish("finished", reason)

    def _finish(self, status: str, reason: str) -> None:
        waits = self.state.best is not None and self.state.queue.size > 0  # one that may yet end well
        if status == "finished" and not waits and (said := self.state.first.none_good(self.settings.metrics)):
            status, reason = "failed", f"{reason}, and {said}"
        self._emit(Finished(status=status, reason=reason))

    def _stop_paused(self) -> None:
        """Stop the trials that nobody sends on any more."""
        for trial in self.state.queue.all_paused():
            if trial.status is TrialStatus.PAUSED:
                self._act(trial, Stop(reason="it was not sent on before the search ended"), "engine")
                self._carry_out()
