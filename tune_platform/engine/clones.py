"""When a clone can go on: its source's checkpoint is there, comes soon, or is to be made again.

A checkpoint is handed over from memory and written behind the training, so a process that dies may take one with it
from which others have gone on, or were to. The source then trains up to it again, saves there again, and they wait for
that: who is a clone of whom, and of which step, is as if nobody had died.
"""

from __future__ import annotations

from tune_platform.engine.state import State
from tune_platform.engine.trial import Trial, TrialStatus
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.protocol.verdicts import Clone


def can_await(state: State, number: int, source: int) -> bool:
    """Whether a trial can wait for its source's checkpoint of the last milestone: it does nothing meanwhile."""
    trial, of = state.trials[number], state.trials.get(source)
    idle = trial.waits or trial.status in (TrialStatus.PENDING, TrialStatus.PAUSED)
    if not idle or of is None:
        return False
    # A paused source may be sent on in the same breath.
    lost = of.status is TrialStatus.PAUSED and not of.held and _trains_again(of, of.milestone)
    return lost or is_coming(state, number, source, of.milestone)


def is_coming(state: State, number: int, source: int, step: int) -> bool:
    """Whether a trial that is to go on from a source's checkpoint of that step, or a later one, would find it soon.

    It is there as soon as it is in memory; the trial's own once it is written, to go back to if its process dies.
    """
    of = state.trials.get(source)
    if of is None:
        return False
    there = [kept.step for kept in of.checkpoints] + [ref.step for ref in of.fresh if source != number]
    if max(there, default=-1) >= step:
        return False
    if of.saving:
        return True
    if source == number or source in state.awaiting:  # one that is to be a clone itself is not what it was any more
        return False
    if of.status is TrialStatus.PENDING:
        return _trains_again(of, step)
    return of.status.placed and step in of.again and of.step == of.known


def _trains_again(source: Trial, step: int) -> bool:
    """Whether a source comes by a step again, where it is saved for others, once it goes on."""
    return _saved(source) < step <= source.step


def _saved(trial: Trial) -> int:
    return trial.checkpoint.step if trial.checkpoint is not None else 0


def to_save_again(state: State, trial: Trial) -> tuple[int, ...]:
    """Return the steps at which a trial that is to be launched is saved as it trains up to where it was before."""
    start = _saved(trial)
    if start == trial.step:
        return ()
    wanted = {waits.step for waits in state.awaiting.values() if waits.clone.source == trial.number}
    return tuple(sorted(step for step in wanted.union(trial.lent) if start < step <= trial.step))


def held_for_clones(state: State, trial: Trial) -> set[int]:
    """Return the steps of a trial's checkpoints that stay, whatever its policy: clones wait for them, or will."""
    held = {waits.step for waits in state.awaiting.values() if waits.clone.source == trial.number}
    if trial.again:
        own = {kept.ref.uri for kept in trial.checkpoints}
        others = [other.checkpoint.ref for other in state.trials.values() if other.checkpoint is not None]
        held.update(ref.step for ref in others if ref.trial == trial.number and ref.uri not in own)
    return held


def saved_at(source: Trial, step: int) -> CheckpointRef | None:
    """Return a trial's checkpoint of that very step, in memory or written."""
    there = {kept.step: kept.ref for kept in source.checkpoints} | {ref.step: ref for ref in source.fresh}
    return there.get(step)


def cloned_again(state: State, trial: Trial, source: int) -> Clone | None:
    """Return the clone by which a trial goes on whose checkpoint, of a `source`, was lost; None where there is none."""
    of = state.trials.get(source)
    if of is None or of is trial or of.status.final:
        return None
    until, save = state.scheduler.until(trial)
    text = f"cloned from trial {source} again: the checkpoint that it went on from was lost"
    return Clone(source=source, config=trial.config, until=until, save=save, reason=text)


def cloneable(state: State, number: int) -> bool:
    """Whether that trial lives and has a checkpoint."""
    trial = state.trials.get(number)
    return trial is not None and not trial.status.final and trial.newest is not None
