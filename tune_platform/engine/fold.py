"""Takes facts into the state: what each of them means, and what the scheduler says to it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

from tune_platform.engine.state import Best, State
from tune_platform.engine.trial import HELD, Trial, TrialStatus
from tune_platform.protocol.commands import Save
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
from tune_platform.protocol.milestones import bad_metric, stopped_by
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import decisions_of
from tune_platform.protocol.verdicts import Decision

#: Reports of a trial whose checkpoints may still come; most trials save more often, or never.
_UNSAVED = 10_000


def fold(state: State, event: Event, elapsed: float) -> list[Decision]:
    """Take in a fact; return what the scheduler says to it. `elapsed`: seconds of searching until then."""
    state.now = event.time
    state.spending.wait(max(0.0, elapsed - state.elapsed))
    state.elapsed = max(state.elapsed, elapsed)
    return _FOLD[type(event)](state, event)


def _capacity(state: State, event: CapacityChanged) -> list[Decision]:
    state.moved = True
    state.ledger.resize(event.nodes)
    state.queue.refit()
    state.reclaim, state.shared = event.reclaim, event.shared
    state.stable_since = -math.inf if event.fixed and not event.shared else state.elapsed
    return []


def _suggested(state: State, event: Suggested) -> list[Decision]:
    state.moved = True
    state.supply.suggested(event)
    if event.origin == "user":
        state.reopen()
    resources = event.resources or state.settings.resources
    trial = Trial(event.trial, event.config, resources, origin=event.origin, created=event.time)
    state.trials[event.trial] = trial
    state.counts[trial.status] += 1
    if not event.problem:
        state.queue.add(trial)
    return decisions_of(state.scheduler, state.scheduler.on_add(trial), event.trial)


def _exhausted(state: State, event: Exhausted) -> list[Decision]:
    state.moved = True
    state.supply.exhaust(event.reason)
    return []


def _started(state: State, event: Started) -> list[Decision]:
    trial = state.trials[event.trial]
    trial.worker = event.worker or trial.worker
    state.hear(trial, at=True)
    return []


def _reported(state: State, event: Reported) -> list[Decision]:
    trial = state.trials[event.trial]
    trial.worker = event.worker or trial.worker
    state.hear(trial)
    decisions: list[Decision] = []
    settings = state.settings
    for report in event.reports:
        if report.step != trial.step + 1:
            raise ValueError(f"trial {trial.number}: step {report.step} was reported after step {trial.step}")
        trial.last, trial.last_config = report, len(trial.configs)
        value, reached = state.value(report), state.reached(report)
        if value is not None:
            _note_best(state, trial, report, value)
            if settings.keep_best is not None:
                # A checkpoint comes behind its report, perhaps after later ones: what it is worth is known by then.
                trial.unsaved.append((report.step, value))
                del trial.unsaved[:-_UNSAVED]
            decisions += decisions_of(state.scheduler, state.scheduler.on_report(trial, report), trial.number)
        if trial.until is not None and reached is not None and reached >= trial.until:
            trial.waits, trial.milestone = True, report.step
            if value is not None:
                trial.rungs.append((trial.last_config, reached, value))
        if settings.on_bad_metric == "prune" and bad_metric(report, settings.metrics):
            trial.waits = trial.pruned = True
        if state.settings.stop and stopped_by(report, state.settings.stop):
            trial.waits = True
    trial.fresh += event.held
    for ref in event.saved:
        state.keep(trial, ref)
    trial.saving = event.saving
    return decisions


def _saved(state: State, event: Saved) -> list[Decision]:
    trial = state.trials.get(event.trial)
    if trial is not None and trial.status.placed and trial.attempt == event.attempt:
        state.hear(trial)
        if event.checkpoint:
            state.keep(trial, event.checkpoint)
    return []


def _failed(state: State, event: Failed) -> list[Decision]:
    trial = state.trials[event.trial]
    trial.error = event.traceback or event.message
    trial.failures[event.cause] = trial.failures.get(event.cause, 0) + 1
    return []


def _requested(state: State, event: Requested) -> list[Decision]:
    state.last_request = event.request
    state.moved = True
    if event.refused:
        return []
    if event.trial is not None:
        trial = state.trials.get(event.trial)
        if trial is not None and not trial.status.final and event.action in ("pause", "unpause"):
            state.hold(trial, event.action == "pause")
    elif event.action in ("pause", "unpause"):
        state.paused = event.action == "pause"
    elif event.action == "extend":  # tags concern those who read the experiment alone
        state.supply.extend(int(event.data.get("trials", 0)))
        state.extra_time += float(event.data.get("time", 0.0))
        state.spending.extend(event.data)
        state.reopen()
    return []


def _interrupted(state: State, event: Interrupted) -> list[Decision]:
    state.interrupted = True
    for number in state.placed:
        if state.trials[number].status is not TrialStatus.PAUSING:
            state.commands.append(Save(trial=number, halt=True))
    return []


def _resumed(state: State, event: Resumed) -> list[Decision]:
    if state.finished is not None or event.retry_failed:
        state.first.again()
    state.finished = state.ending = None
    state.interrupted = state.spending.saving = False
    state.moved = True
    state.supply.reopen()
    state.reclaim, state.shared = "", False
    state.ledger.resize(())  # nothing can be leased until the new driver says what there is
    state.queue.refit()
    state.stable_since = state.elapsed
    for number in list(state.placed):
        trial = state.trials[number]
        # One that was to pause is paused now, unless it has been sent on meanwhile.
        onward = trial.onward
        if trial.status is TrialStatus.PAUSING and (trial.held or not onward):
            state.move(trial, TrialStatus.PAUSED, HELD if onward else trial.reason)
        else:
            state.move(trial, TrialStatus.PENDING, "the driver restarted")
            state.returning[number] = None
    decisions: list[Decision] = []
    if event.retry_failed:
        for trial in list(state.trials.values()):
            if trial.status is TrialStatus.FAILED:
                trial.failures.clear()
                trial.error = ""
                state.move(trial, TrialStatus.PENDING, "a person had it tried again")
                decisions += decisions_of(state.scheduler, state.scheduler.on_add(trial), trial.number)
    return decisions


def _note_best(state: State, trial: Trial, report: Report, value: float) -> None:
    maximise = state.settings.modes[0] == "max"
    if trial.best is None or (value > trial.best if maximise else value < trial.best):
        trial.best, trial.best_step, trial.best_config = value, report.step, trial.last_config
        if state.best is None or (value > state.best.value if maximise else value < state.best.value):
            state.best = Best(value, trial.number, report.step, copy.deepcopy(dict(trial.config)))


_FOLD: dict[type[Event], Callable[..., list[Decision]]] = {
    CapacityChanged: _capacity,
    Suggested: _suggested,
    Exhausted: _exhausted,
    Started: _started,
    Reported: _reported,
    Saved: _saved,
    Failed: _failed,
    Requested: _requested,
    Interrupted: _interrupted,
    Resumed: _resumed,
    Ticked: lambda state, event: [],
}
