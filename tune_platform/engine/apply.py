"""Applies effects to the state: what each of them means, and what is to be done about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tune_platform.engine.clones import saved_at, to_save_again
from tune_platform.engine.state import Awaited, State
from tune_platform.engine.trial import HELD, SAVED_FIRST, STOPPING, Kept, Trial, TrialStatus
from tune_platform.protocol.commands import Advance, Ask, DropCheckpoints, Finish, Launch, Release, Save
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
from tune_platform.protocol.reports import CheckpointRef, finite
from tune_platform.protocol.scheduler import decisions_of
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Pause, Resize, Stop


def apply(state: State, effect: Effect) -> list[Decision]:
    """Take in what was decided; return what the scheduler says to that."""
    return _APPLY[type(effect)](state, effect)


def _asked(state: State, effect: Asked) -> list[Decision]:
    for number in effect.numbers:
        state.supply.ask(number)
        state.commands.append(Ask(trial=number))
    return []


def _launch(state: State, effect: Launched) -> list[Decision]:
    trial = state.trials[effect.trial]
    state.awaiting.pop(trial.number, None)  # as a driver of a former release decided
    if not trial.status.placed:  # else it begins anew where it is
        state.queue.pass_over(trial.number)
        state.move(trial, TrialStatus.STARTING, "")
        trial.launched = state.now
        state.ledger.hold(trial.number, effect.resources, effect.nodes)
        state.spending.hold(trial.number, effect.resources)
        state.supply.launched(state.elapsed, effect.resources)
        state.scheduler.on_start(trial)
    trial.attempt = effect.attempt
    trial.until, trial.save = effect.until, effect.save
    trial.waits = trial.sent_on = False
    kept = trial.checkpoint
    trial.again, trial.known = to_save_again(state, trial), trial.step
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
        seconds=(finite(trial.last.value("time_total_s")) or 0.0) if trial.last else 0.0,
        again=trial.again,
    )
    state.commands.append(launch)
    return []


def _decide(state: State, effect: Decided) -> list[Decision]:
    trial, verdict = state.trials[effect.trial], effect.verdict
    stays = isinstance(verdict, Resize) and not trial.status.placed
    awaited = None if stays else _awaits_no_more(state, trial)
    match verdict:
        case Stop():
            status = TrialStatus.COMPLETED if verdict.completed else TrialStatus.STOPPED
            return _leave(state, trial, status, verdict.reason)
        case Continue():
            trial.until, trial.save = verdict.until, verdict.save
            if trial.status in (TrialStatus.STARTING, TrialStatus.RUNNING):
                if trial.waits and state.settings.follow:
                    state.tell(trial)
                trial.waits = False
                state.commands.append(Advance(trial=trial.number, until=verdict.until, save=verdict.save))
            else:
                _send_on(state, trial, verdict.reason)
        case Clone():
            _clone(state, trial, verdict, awaited)
        case Resize() if stays:
            state.queue.discard(trial)
            trial.resources = verdict.resources
            if trial.status is TrialStatus.PAUSED:
                state.queue.add_paused(trial)
            elif trial.number not in state.awaiting:
                state.queue.add(trial)
        case Pause() | Resize():
            trial.resize = verdict.resources if isinstance(verdict, Resize) else None
            trial.resizing = trial.resize is not None
            _pause(state, trial, verdict.reason)
    return []


def _awaits(state: State, effect: Awaits) -> list[Decision]:
    source, step = state.trials.get(effect.verdict.source), effect.lost
    if step is None:
        step = source.milestone if source is not None else 0
    trial = state.trials[effect.trial]
    if trial.status is TrialStatus.PENDING:
        state.queue.discard(trial)
    state.awaiting[effect.trial] = Awaited(effect.verdict, step, None if effect.lost is None else effect.step)
    state.heard.pop(effect.trial, None)  # it is no fault of its own that nothing is heard of it
    return []


def _moved(state: State, effect: Moved) -> list[Decision]:
    return _leave(state, state.trials[effect.trial], TrialStatus(effect.status), effect.reason, kill=effect.kill)


def _dropped(state: State, effect: Dropped) -> list[Decision]:
    unused = state.shelf.take(state.trials[effect.trial], effect.uris)
    # One that its own trial is still to be given, once it is written, stays.
    if unused := [ref for ref in unused if not _comes(state, ref)]:
        state.commands.append(DropCheckpoints(trial=effect.trial, checkpoints=tuple(unused)))
    return []


def _comes(state: State, ref: CheckpointRef) -> bool:
    trial = state.trials.get(ref.trial)
    return trial is not None and any(ref.uri == one.uri for one in trial.fresh)


def _supply_ended(state: State, effect: SupplyEnded) -> list[Decision]:
    state.supply.told = True
    return decisions_of(state.scheduler, state.scheduler.on_supply_end())


def _ending(state: State, effect: Ending) -> list[Decision]:
    state.ending = effect
    return []


def _finished(state: State, effect: Finished) -> list[Decision]:
    state.finished = Finish(status=effect.status, reason=effect.reason)
    state.commands.append(state.finished)
    return []


def _regained(state: State, effect: Regained) -> list[Decision]:
    trial = state.trials[effect.trial]
    _lend(state.trials[effect.checkpoint.trial], effect.checkpoint)
    state.shelf.put(trial, Kept(effect.step, effect.checkpoint, None))
    _awaits_no_more(state, trial)
    return []


def _lend(source: Trial, ref: CheckpointRef) -> None:
    if ref in source.fresh:
        source.lent.append(ref.step)


def _awaits_no_more(state: State, trial: Trial) -> Awaited | None:
    """Have a trial wait no longer, and return what it waited for."""
    found = state.awaiting.pop(trial.number, None)
    if found is None:
        return None
    if trial.status is TrialStatus.RUNNING:
        state.hear(trial)
    elif trial.status is TrialStatus.PENDING:
        state.queue.add(trial)
    return found


def _clone(state: State, trial: Trial, verdict: Clone, awaited: Awaited | None) -> None:
    """Have a trial go on from the checkpoint that it waited for, where there is that very one, else the newest."""
    source = state.trials[verdict.source]
    taken = (saved_at(source, awaited.step) if awaited is not None else None) or source.newest
    assert taken is not None, "the controller sees to it"
    _lend(source, taken)
    trial.fresh, trial.lent, trial.again = [], [], ()  # what it was is not what it goes on from
    trial.configs.append((trial.step, trial.config))
    trial.config = verdict.config
    state.shelf.put(trial, Kept(trial.step, taken, None))
    trial.until, trial.save = verdict.until, verdict.save
    if trial.status not in (TrialStatus.STARTING, TrialStatus.RUNNING):
        _send_on(state, trial, verdict.reason)


def _send_on(state: State, trial: Trial, reason: str) -> None:
    trial.sent_on = True
    if trial.status is TrialStatus.PAUSED:
        if trial.held:
            trial.reason = HELD  # it goes on once the person lets it
        else:
            state.move(trial, TrialStatus.PENDING, reason)


def _pause(state: State, trial: Trial, reason: str) -> None:
    kept = trial.checkpoint
    if reason != HELD:
        trial.sent_on = False  # a person only delays what was decided
    trial.stopping = trial.stopping or reason == STOPPING
    state.spending.saving = state.spending.saving or reason == SAVED_FIRST
    if trial.status in (TrialStatus.PAUSING, TrialStatus.PAUSED):
        trial.reason = reason
    elif trial.status is not TrialStatus.RUNNING or (
        kept is not None and kept.step == trial.step and not trial.stopping  # its present step is to be told
    ):
        _leave(state, trial, TrialStatus.PAUSED, reason)
    else:
        state.move(trial, TrialStatus.PAUSING, reason)
        state.commands.append(Save(trial=trial.number, halt=not trial.waits))


def _leave(state: State, trial: Trial, status: TrialStatus, reason: str, *, kill: bool = False) -> list[Decision]:
    """End a trial's lease, if it has one, and the trial itself where `status` is final."""
    placed = trial.status.placed
    if status is TrialStatus.FAILED:
        trial.error = trial.error or reason
    state.move(trial, status, reason)
    trial.stopping = trial.stopping and not status.final
    if placed:
        warm = status is TrialStatus.PAUSED and state.settings.keep_warm
        state.commands.append(Release(trial=trial.number, kill=kill, warm=warm))
    if not status.final:
        return []
    state.hold(trial, False)
    decisions = decisions_of(state.scheduler, state.scheduler.on_end(trial, status.value.lower()))
    state.tell(trial)
    return decisions


_APPLY: dict[type[Any], Callable[..., list[Decision]]] = {
    Asked: _asked,
    Launched: _launch,
    Decided: _decide,
    Awaits: _awaits,
    Regained: _regained,
    Moved: _moved,
    Dropped: _dropped,
    SupplyEnded: _supply_ended,
    Ending: _ending,
    Finished: _finished,
}
