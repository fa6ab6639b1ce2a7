"""Goes on from a log: the state is what the log means, and what was in flight is begun again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tune_platform.engine import snapshot
from tune_platform.engine.log import LOGGER, Group, Turn, groups, misplaced
from tune_platform.engine.memory import Memory
from tune_platform.engine.runner import Runner
from tune_platform.engine.trial import TrialStatus
from tune_platform.errors import IllegalTransition
from tune_platform.protocol.backend import Work
from tune_platform.protocol.commands import Ask, Command
from tune_platform.protocol.events import CapacityChanged, Requested, Resumed, Ticked


def recover(runner: Runner, *, retry_failed: bool = False, choices: Mapping[str, Sequence[Any]] | None = None) -> None:
    """Apply the log, start the backend and have the runner go on from where the log ends.

    `choices` are values that the space has got since, see `Resumed`: the searcher knows them already.
    Where the scheduler would decide otherwise than the log has it, that is one warning: what the log has holds.
    """
    controller, backend = runner.controller, runner.backend
    state = controller.state
    capacity = runner.start_backend()
    after, searcher = (0, None) if retry_failed or choices else _load_snapshot(runner)
    memory = Memory(searcher.ahead if searcher else ())
    memory.owed.extend(Ask(trial=number) for number in state.supply.asked)
    seq, adding, found = after, None, 0
    told = bool(state.ledger.capacity)  # what there is to lease
    for group in groups(runner.log.read_log(after), after):
        event = group.event
        memory.note_event(event, _failed(runner) if isinstance(event, Resumed) else ())
        commands = _apply(runner, group)
        seq = max(group.last, runner.seq)
        if controller.comparison.difference and not found:
            found = group.seq
        memory.note_commands(commands)
        told = isinstance(event, CapacityChanged) or (told and not isinstance(event, Resumed))
        adding = event if isinstance(event, Requested) and event.action == "enqueue" else None
        if backend.virtual and controller.comparison.off:
            backend.replay(Ticked(time=event.time), ())  # it cannot be found in flight: only the time is known
        elif backend.virtual:
            backend.replay(event, [command for command in commands if isinstance(command, Work)])
        # Those that failed are kept: they may be tried again.
        runner.forget([n for n in _touched(group) if n in state.trials], failed=False)
    if found:
        LOGGER.warning(
            "the scheduler %s has changed since the log was written (row %d: %s); what the log has holds",
            type(controller.scheduler).__name__, found, controller.comparison.difference,
        )  # fmt: skip
    runner.go_on_from(seq, state.elapsed, after)
    now = backend.now()
    if adding is not None and (added := runner.added(adding)) is not None:
        runner.early.append(added)
    if seq and (retry_failed or choices or state.interrupted or controller.comparison.off or not backend.virtual):
        resumed = Resumed(time=now, retry_failed=retry_failed, choices=choices or None)
        memory.note_event(resumed, _failed(runner))
        if backend.virtual:
            backend.replay(resumed, ())
        # What persons asked for meanwhile comes before there are places: without an extension it may be over at once.
        runner.early.extend([resumed, *runner.requested(), replace(capacity, time=now)])
    elif not told:
        runner.early.append(replace(capacity, time=now))
    elif controller.finished is not None:
        runner.early.extend(runner.requested())  # an extension, perhaps
    runner.feed.restore(memory.past(), later=memory.later() if searcher else ())
    for call in memory.owed:
        runner.call_searcher(call)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Look for no garbage while a million objects are made that stay: that takes longer than to make them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_no_collection()
def _load_snapshot(runner: Runner) -> tuple[int, snapshot.Searcher | None]:
    """Bring the state to the newest snapshot; return its row and the searcher's state, or 0 and None without one.

    A virtual backend finds its work in flight by seeing the whole log again, so there it is not used. Nor is it where
    trials are tried again that had failed before: it does not hold them; nor one from before the space had its present
    choices, in which a searcher may have put things down by their number.
    """
    if not runner.backend.virtual and runner.feed.has_state:
        for seq, text in runner.log.snapshots():
            later = (row.data for row, _ in runner.log.read_log(seq) if row.kind == Resumed.kind)
            if any(data.get("retry_failed") or data.get("choices") for data in later):
                break
            searcher = snapshot.load(runner.controller.state, text, runner.feed.load_state)
            if searcher is not None:
                return seq, searcher
    return 0, None


def _apply(runner: Runner, group: Group) -> list[Command]:
    controller = runner.controller
    if group.complete:
        try:
            return controller.replay(group.event, group.elapsed, group.effects)
        except (IllegalTransition, LookupError) as error:
            raise misplaced(group, error) from error
    # The log was cut between a fact and what followed from it: that is decided again, and the rest of it written.
    commands = controller.handle(group.event, group.elapsed)
    turn = Turn(group.seq - 1)
    turn.add(group.event, controller.effects, group.elapsed, known=len(group.effects))
    runner.commit(turn, commands)
    return commands


def _failed(runner: Runner) -> list[int]:
    trials = runner.controller.state.trials.values()
    return [trial.number for trial in trials if trial.status is TrialStatus.FAILED]


def _touched(group: Group) -> list[int]:
    numbers = [getattr(item, "trial", None) for item in (group.event, *group.effects)]
    return [number for number in numbers if number is not None]
