"""What is news to an experiment, when it is time for something although nothing happens, and when to give up."""

from __future__ import annotations

import math

from tune_platform.engine.places import misfits_due
from tune_platform.engine.state import State
from tune_platform.engine.trial import TrialStatus
from tune_platform.protocol.events import Event, Exhausted, Failed, Reported, Requested, Saved, Started, Suggested


def accepts(state: State, event: Event) -> bool:
    """Whether the event is news. One of an ended lease is stale: it is neither logged nor handled."""
    if isinstance(event, (Started, Reported, Saved, Failed)):
        trial = state.trials.get(event.trial)
        if trial is None or not trial.status.placed or trial.attempt != event.attempt:
            # A checkpoint that was being written when its trial ended is there all the same.
            ended = event.trial <= state.supply.newest if trial is None else trial.status.final
            return isinstance(event, Saved) and event.checkpoint is not None and ended
        if isinstance(event, Started):
            return trial.status is TrialStatus.STARTING
        return not isinstance(event, Saved) or trial.status is TrialStatus.PAUSING or bool(event.checkpoint)
    if isinstance(event, Suggested):
        return event.trial in state.supply.asked or event.trial == state.supply.next_number
    if isinstance(event, Exhausted):
        return not state.supply.exhausted
    if isinstance(event, Requested):
        return event.request > state.last_request
    return True


def deadline(state: State) -> float:
    """Return the elapsed seconds at which a Ticked event is due if nothing else happens before; inf: never."""
    if state.finished:
        return math.inf
    deadline = state.settings.time_budget + state.extra_time
    if state.spending.limited and (state.ending is None or state.placed):
        deadline = min(deadline, state.elapsed + state.spending.due(state.now, state.elapsed))
    if state.heard:
        deadline = min(deadline, next(iter(state.heard.values())) + state.settings.step_timeout)
    return min(deadline, misfits_due(state))


def overdue(state: State, time: float, elapsed: float) -> Failed | None:
    """Return the failure of the trial that has not been heard of for too long, if any: a fact, for the log."""
    number, heard = next(iter(state.heard.items()), (0, math.inf))
    if heard + state.settings.step_timeout > elapsed:
        return None
    message = f"no report for {state.settings.step_timeout:g} s (step_timeout)"
    attempt = state.trials[number].attempt
    return Failed(time=time, trial=number, attempt=attempt, cause="timeout", message=message)


def given_up(state: State, reason: str) -> str:
    """Return why the search ends with the failure of one more trial, which was for `reason`; empty where it goes on."""
    settings, failed = state.settings, state.counts[TrialStatus.FAILED]
    if failed > settings.max_failures:
        return f"{failed} trials failed, more than the budget of {settings.max_failures:g}; the last: {reason}"
    if not settings.fail_alike or state.first.differ:
        return ""
    places = min(state.ledger.slots(state.supply.ordinary), settings.max_concurrent)
    return state.first.hopeless(settings.fail_alike, int(places))


def target_reached(state: State) -> str:
    """Return why the search ends, where a trial has reached the budget's target; else nothing."""
    target, best = state.settings.target, state.best
    if target is None or best is None or state.ending is not None:
        return ""
    reached = best.value >= target if state.settings.modes[0] == "max" else best.value <= target
    return "" if not reached else f"{state.settings.metrics[0]} reached the target {target:g} in trial {best.trial}"
