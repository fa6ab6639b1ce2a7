"""The loop around the controller, and the order of effects that makes resume exact:

    drain all ready events -> fold them into the controller, which decides
    -> append the facts and the decisions to the log in ONE transaction -> commit -> only then carry the commands out

A fact that is not committed did not happen. Whatever kills the driver between two turns, or in the middle of one,
the log is whole, and `recovery` goes on from it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, get_args

from tune_platform.engine import snapshot
from tune_platform.engine.controller import Controller
from tune_platform.engine.feed import Feed
from tune_platform.engine.log import LOGGER, Log, Turn, observed, trial_row
from tune_platform.engine.places import demand, lost_nodes
from tune_platform.engine.trial import TrialStatus
from tune_platform.engine.unseen import Unseen
from tune_platform.engine.view import RunView, shown_effects, shown_events
from tune_platform.protocol.backend import Backend, Job, Work
from tune_platform.protocol.commands import Ask, Command, DropCheckpoints, Finish, Tell
from tune_platform.protocol.effects import Effect
from tune_platform.protocol.events import (
    CapacityChanged,
    Event,
    Interrupted,
    Requested,
    Resumed,
    Saved,
    Suggested,
    Ticked,
)
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.protocol.requests import refusal

_WORK = get_args(Work)  # a tuple: asking a union costs several times as much

#: Seconds between two looks at the inbox of requests, and the longest sleep of the loop.
INBOX_PERIOD = 0.25
#: Seconds between two words to a backend on what places are wanted.
EXPECTED_EVERY = 2.0
#: Seconds that an interrupted driver waits for what runs to end its present step and to write a checkpoint.
GRACE = 60.0
#: A loop that has not turned for so many seconds was away (a suspended process, a store that did not answer): reports
#: may have come meanwhile, so nobody is overdue before they have been looked at for so many seconds.
AWAY, LOOKING = 5.0, 2.0


class Listener(Protocol):
    """Hears of every turn after its commit: progress displays, callbacks."""

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect], /) -> None:
        """Look at what happened, and at what was decided. An error is told once and harms nothing."""


class Runner:
    """Drives one experiment to its end. One thread; the only writer of the experiment's log.

    `grace`: seconds that an interrupted driver waits for what runs; `say` tells a person what it waits for.
    """

    def __init__(
        self,
        *,
        controller: Controller,
        feed: Feed,
        backend: Backend,
        log: Log,
        job: Job,
        complete: Callable[[Mapping[str, Any], int], Mapping[str, Any]],
        drop: Callable[[Sequence[CheckpointRef]], None] = lambda refs: None,
        listeners: Sequence[Listener] = (),
        grace: float = GRACE,
        say: Callable[[str], None] = LOGGER.warning,
    ) -> None:
        self.controller, self.feed, self.backend, self.log, self.job = controller, feed, backend, log, job
        self.early: deque[Event] = deque()  # events of our own, for the next turns
        self.seq = 0
        self.starting = False  # nothing runs yet that could end gracefully
        self._complete, self._drop, self._listeners = complete, drop, list(listeners)
        self._grace, self._say = grace, say
        self.view = RunView(controller, job.experiment)
        self._begin = self._turned = time.monotonic()
        self._base = 0.0  # seconds of searching before this driver
        self._looking_until = -math.inf
        self._next_inbox = self._next_expected = 0.0
        self._expect = getattr(backend, "expect", None)  # of one that can have more places
        self._suggestions: deque[Event] = deque()
        self._requests: deque[Event] = deque()
        self._interrupted = False
        self._snapshot = 0  # the row of the last one
        self._unseen = Unseen(())
        self._told_lost = math.nan  # since when the cluster was the same, when it was told who waits for lost nodes

    def listen(self, listener: Listener) -> None:
        """Have one more listener hear of the turns to come."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Start the backend and the experiment. Raises ExperimentError where the backend cannot start."""
        self._unseen = Unseen(self.job.stop)
        self.early.append(self.start_backend())

    def start_backend(self) -> CapacityChanged:
        """Start the backend, which may take a while, and return what it has. Raises ExperimentError."""
        self.starting = True
        try:
            return self.backend.start(self.job)
        finally:
            self.starting = False

    def go_on_from(self, seq: int, elapsed: float, snapshot: int) -> None:
        """Take over where the log ends: its last row, the seconds of searching so far, and the last snapshot's row."""
        self.seq, self._base, self._snapshot = seq, elapsed, snapshot
        self._begin = self._turned = time.monotonic()

    def run(self) -> Finish:
        """Turn until the experiment is finished or `interrupt` was called; return how it ended."""
        while self.early or self.controller.finished is None:
            self.turn()
            if self._interrupted:
                return self._wind_down()
        self._await_checkpoints()
        assert self.controller.finished is not None
        return self.controller.finished

    def _await_checkpoints(self) -> None:
        """Take what is still being written behind the training of those that ended last, for the time of grace."""
        end = time.monotonic() + self._grace
        while self.backend.writing and not self._interrupted:
            if time.monotonic() >= end:
                self._say(f"checkpoints of the last trials were not written within {self._grace:g} s, and are lost")
                return
            self.take([event for event in self.backend.poll(INBOX_PERIOD) if isinstance(event, Saved)])

    def interrupt(self) -> None:
        """Have the loop end soon: running trials write a checkpoint, and a resume goes on from there."""
        self._interrupted = True

    def elapsed(self) -> float:
        """Return the seconds of searching, of a clock that nobody can set and that stands still with the machine."""
        return self.backend.now() if self.backend.virtual else self._base + time.monotonic() - self._begin

    # ------------------------------------------------------------------------------- one turn

    def turn(self) -> None:
        """Drain, fold, append, commit, carry out."""
        self.take(self._drain())
        if self._expect is not None and (now := time.monotonic()) >= self._next_expected:
            self._next_expected = now + EXPECTED_EVERY
            self._expect(demand(self.controller.state))

    def _drain(self) -> list[Event]:
        """Return what has happened.

        On a virtual clock that is one thing at a time, so that a run that is cut after any of them goes on with the
        same next one; and time passes there only when there is nothing else.
        """
        self._watch()
        most = 1 if self.backend.virtual else math.inf
        events: list[Event] = []
        for source in (self._own, self._ready, self._inbox):
            if len(events) < most:
                queue = source()
                while queue and len(events) < most:
                    events.append(queue.popleft())
        if len(events) < most:
            # A suggestion that no place waits for is not worth a transaction of its own: it goes with what comes next.
            urgent = any(not isinstance(event, Suggested) for event in events) or (
                bool(events) and not self.controller.supplied
            )
            timeout, began = 0.0 if urgent else self._timeout(), time.monotonic()
            events += self.backend.poll(timeout)
            if self.backend.parallel:
                self._notice_suspension(time.monotonic() - began - (timeout or 0.0))
        self._turned = time.monotonic()
        if not events and self.backend.virtual and self.controller.deadline() == math.inf:
            time.sleep(0.001)  # nothing happens of itself: only a person, or a slow searcher, can move it on
        return events

    def _watch(self) -> None:
        """Notice that the loop was away."""
        now = time.monotonic()
        if now - self._turned > AWAY:
            self._looking_until = now + LOOKING

    def _notice_suspension(self, seconds: float) -> None:
        """Have the time stand still in which this process was suspended, most likely while it waited for workers.

        Ctrl-Z and a frozen container suspend the workers as well: nobody could report.
        """
        if seconds > AWAY:
            self._begin += seconds
            self._looking_until = time.monotonic() + LOOKING

    def _own(self) -> deque[Event]:
        if not self.early and time.monotonic() >= self._looking_until and self.elapsed() >= self.controller.deadline():
            self.early.append(Ticked(time=self.backend.now()))
        return self.early

    def _ready(self) -> deque[Event]:
        if not self._suggestions:
            self._suggestions.extend(self.feed.ready())
        return self._suggestions

    def _inbox(self) -> deque[Event]:
        """Return what persons have asked for since the last look."""
        now = time.monotonic()
        if not self._requests and now >= self._next_inbox:
            self._next_inbox = now + INBOX_PERIOD
            stamp = self.backend.now()
            self._requests.extend(
                requested(row.id, row.action, row.trial, row.data, stamp)
                for row in self.log.requests(self.controller.state.last_request)
            )
        return self._requests

    def requested(self) -> list[Event]:
        """Return what persons have asked for while no driver ran."""
        found = list(self._inbox())
        self._requests.clear()
        return found

    def _timeout(self) -> float | None:
        """How long to wait for the backend: on a virtual clock as long as it takes, else until the next inbox."""
        left = max(0.0, self.controller.deadline() - self.elapsed())
        if not self.backend.virtual:
            return min(INBOX_PERIOD, left if time.monotonic() >= self._looking_until else INBOX_PERIOD)
        return left if left != math.inf else None

    def take(self, events: Sequence[Event]) -> None:
        """Fold events, write them and all that follows from them in one transaction, then carry it out."""
        if not events:
            return
        saved = self._take_snapshot(events)
        turn, controller = Turn(self.seq), self.controller
        effects: list[Command | Suggested] = []  # the commands, and what a searcher is to observe
        todo, elapsed = deque(events), self.elapsed()
        while todo:
            event = todo.popleft()
            if isinstance(event, Ticked):
                event = controller.overdue(event.time, elapsed) or event  # one a turn: the next tick is due at once
            if not controller.accepts(event):
                continue
            commands = controller.handle(event, elapsed)
            turn.add(event, controller.effects, elapsed, spent=controller.state.spending.told())
            if observed(event):
                assert isinstance(event, Suggested)
                effects.append(event)
            effects += commands
            if isinstance(event, Resumed):
                turn.touched.update(dict.fromkeys(controller.state.trials))
            elif isinstance(event, Requested) and event.action == "enqueue":
                added = self.added(event)
                if added is not None:
                    todo.appendleft(added)
        if turn.rows:
            self.commit(turn, effects, saved)
            self._carry_out(effects)
            ended = any(count for status, count in controller.state.counts.items() if status.final)
            for line in self._unseen.look(turn.events, ended=ended):
                LOGGER.warning("%s", line)
            if (stable := controller.state.stable_since) != self._told_lost and (line := lost_nodes(controller.state)):
                self._told_lost = stable
                LOGGER.warning("%s", line)
            self._tell_listeners(turn)
            self.forget(turn.touched)

    def commit(self, turn: Turn, commands: Sequence[Command | Suggested], saved: tuple[int, str] | None = None) -> None:
        """Write a turn, with the trials and checkpoints as they are after it."""
        trials = self.controller.state.trials
        for command in commands:
            if isinstance(command, DropCheckpoints):
                turn.drop(command.checkpoints)
        changed = [trial_row(trials[number]) for number in turn.touched if number in trials]
        self.log.append(turn.rows, turn.reports, changed, list(turn.checkpoints.values()), snapshot=saved)
        self.seq = turn.seq

    def _take_snapshot(self, events: Sequence[Event]) -> tuple[int, str] | None:
        """Return the state up to here, where one is due, and where scheduler and searcher know theirs.

        The searcher is ahead of it by what it has suggested in `events`, which are not handled yet.
        """
        if not snapshot.due(self.seq, self._snapshot):
            return None
        ahead = [event.trial for event in events if isinstance(event, Suggested) and not observed(event)]
        try:
            searcher = self.feed.state()
            known = snapshot.Searcher(searcher, ahead) if searcher is not None else None
            text = snapshot.to_text(self.controller.state, known) if known is not None else None
        except Exception:  # it is only a short cut
            LOGGER.warning(
                "no snapshot was made: the state of the scheduler or searcher is not to be had", exc_info=True
            )
            self._snapshot = self.seq  # the next one is due as if it had been
            return None
        if text is None:
            return None
        self._snapshot = self.seq
        return (self.seq, text) if len(text) <= snapshot.LARGEST else None

    def _carry_out(self, effects: Sequence[Command | Suggested]) -> None:
        work: list[Any] = []
        for effect in effects:
            if isinstance(effect, _WORK):
                work.append(effect)
            elif isinstance(effect, (Ask, Tell, Suggested)):
                self.call_searcher(effect)
            elif isinstance(effect, DropCheckpoints):
                self._drop(effect.checkpoints)
        if work:
            self.backend.submit(work)

    def call_searcher(self, call: Ask | Tell | Suggested) -> None:
        """Have the searcher hear of it."""
        if isinstance(call, Suggested):
            self.feed.observe(call.trial, call.config)
        else:
            self.feed.submit(call)

    def _tell_listeners(self, turn: Turn) -> None:
        if not self._listeners:
            return
        events, effects = shown_events(turn.events), shown_effects(turn.effects)
        for listener in list(self._listeners):
            try:
                listener(self.view, events, effects)
            except Exception:
                LOGGER.warning("%r raised and is not called any more; the search goes on", listener, exc_info=True)
                self._listeners.remove(listener)

    def forget(self, numbers: Iterable[int], *, failed: bool = True) -> None:
        """Drop ended trials from memory; `failed` ones too."""
        state = self.controller.state
        for number in numbers:
            trial = state.trials.get(number)
            if trial is not None and trial.status.final and (failed or trial.status is not TrialStatus.FAILED):
                state.forget(number)

    def added(self, event: Requested) -> Suggested | None:
        """Return the trial that a person asked for, with what the config leaves open filled in by sampling."""
        number = self.controller.state.supply.next_number
        if event.refused:
            return None
        try:
            config = self._complete(event.data.get("config", {}), number)
        except Exception as error:  # whoever asked should have checked; the search goes on without it
            LOGGER.warning("request %d to add a trial was refused: %s", event.request, error)
            return None
        return self.feed.suggestion(number, config, origin="user")

    # ------------------------------------------------------------------------------- the end

    def _wind_down(self) -> Finish:
        """Ask what runs for a checkpoint after its present step, and commit what arrives in time."""
        if self.controller.finished is not None:
            return self.controller.finished
        self.take([*self.early, Interrupted(time=self.backend.now())])
        self.early.clear()
        state = self.controller.state
        waiting = {number: state.trials[number].attempt for number in state.heard}
        if waiting:
            self._say(
                f"waiting for {_names(waiting)} to end the present step and to save, for {self._grace:g} s at most; "
                "a second Ctrl-C ends at once"
            )
        end = time.monotonic() + self._grace
        while waiting and time.monotonic() < end and self.controller.finished is None:
            events = self.backend.poll(None if self.backend.virtual else INBOX_PERIOD)
            if not events and self.backend.virtual:
                break  # the rest hangs
            self.take(events)
            for event in events:
                if isinstance(event, Saved) and waiting.get(event.trial) == event.attempt:
                    del waiting[event.trial]
            for number, attempt in list(waiting.items()):
                if number not in state.placed or state.trials[number].attempt != attempt:
                    del waiting[number]
        if waiting:
            kept = {number: state.trials[number].checkpoint for number in sorted(waiting)}
            steps = ", ".join(f"trial {n} from step {k.step if k else 0}" for n, k in kept.items())
            self._say(f"{_names(waiting)} could not be saved within {self._grace:g} s; a resume goes on with {steps}")
        reason = "the driver was interrupted; resume goes on from here"
        return self.controller.finished or Finish(status="interrupted", reason=reason)


def requested(number: int, action: str, trial: int | None, data: Any, time: float) -> Requested:
    """Return the fact that somebody has asked for something, which is refused, and told, where it makes no sense."""
    if problem := refusal(action, trial, data):
        LOGGER.warning("request %d was refused: %s", number, problem)
        return Requested(time=time, request=number, action=str(action), refused=problem)
    return Requested(time=time, request=number, action=action, trial=trial, data=dict(data))


def _names(numbers: Iterable[int]) -> str:
    listed = sorted(numbers)
    shown = ", ".join(map(str, listed[:10])) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")
    return f"trial {shown}" if len(listed) == 1 else f"trials {shown}"
