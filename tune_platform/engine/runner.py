"""The loop around the controller, and the order of effects that makes resume exact:

    drain all ready events -> append them, and the verdicts on them, to the log in ONE transaction
    -> commit -> only then carry the commands out

A fact that is not committed did not happen. Whatever kills the driver between two turns, or in the middle of one,
the log is whole; `recover` folds it through a fresh controller and goes on.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tune_platform.engine.controller import Controller
from tune_platform.engine.feed import Feed
from tune_platform.engine.memory import Memory
from tune_platform.engine.trial import Trial, TrialStatus
from tune_platform.errors import ExperimentError, TunePlatformError
from tune_platform.protocol.backend import Backend, Job, Work
from tune_platform.protocol.commands import Ask, Command, Decide, DropCheckpoints, Finish, Tell
from tune_platform.protocol.events import (
    Event,
    Interrupted,
    Reported,
    Requested,
    Resumed,
    Saved,
    Suggested,
    Ticked,
    from_record,
    to_record,
)
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.protocol.verdicts import Clone, Continue
from tune_platform.store.records import CheckpointRow, LogRow, ReportRow, TrialRow

_LOG = logging.getLogger("tune_platform")

VERDICT = "verdict"
#: Seconds between two looks at the inbox of requests, and the longest sleep of the loop.
INBOX_PERIOD = 0.25
#: Seconds that an interrupted driver waits for the checkpoints of what runs.
GRACE = 30.0


class Log(Protocol):
    """The part of the store that the loop writes to; see `store.sql.SqlExperiment`."""

    def append(
        self,
        log: Sequence[LogRow],
        reports: Sequence[ReportRow] = (),
        trials: Sequence[TrialRow] = (),
        checkpoints: Sequence[CheckpointRow] = (),
    ) -> None:
        """Write all of it, or nothing, in one transaction."""

    def read_log(self, after: int = 0) -> Any:
        """Yield the rows in order, each with the reports that belong to it."""

    def requests(self, after: int) -> Sequence[Any]:
        """Return what persons have asked for since request number `after`."""


class Listener(Protocol):
    """Hears of every turn after its commit: progress displays, callbacks."""

    def __call__(self, controller: Controller, events: Sequence[Event], commands: Sequence[Command]) -> None:
        """Look, but do not touch."""


class Runner:
    """Drives one experiment to its end. One thread; the only writer of the experiment's log."""

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
    ) -> None:
        self.controller, self._feed, self._backend, self._log, self._job = controller, feed, backend, log, job
        self._complete, self._drop, self._listeners = complete, drop, listeners
        self._seq = 0
        self._next_inbox = 0.0
        self._early: deque[Event] = deque()  # events of our own, for the next turns
        self._requests: deque[Event] = deque()  # read from the inbox and not handled yet
        self._suggestions: deque[Event] = deque()  # on a virtual clock: ready, and not taken yet
        self._interrupted = False

    # ------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Start the backend and the experiment. Raises ExperimentError where the backend cannot start."""
        self._early.append(self._backend.start(self._job))

    def recover(self, *, retry_failed: bool = False) -> None:
        """Fold the log, start the backend and go on from where the log ends.

        Raises ExperimentError where the log's verdicts are not those that the scheduler comes to now.
        """
        capacity = self._backend.start(self._job)
        memory = Memory()
        missing: deque[tuple[float, Decide]] = deque()  # verdicts come to, which the log has not shown yet
        adding: Requested | None = None  # a person's trial that the log has not shown yet
        for row, reports in self._log.read_log():
            self._seq = row.seq
            if row.kind == VERDICT:
                self._expect(row, missing)
                continue
            event = from_record(row.time, row.kind, row.trial, row.data, _to_reports(reports))
            memory.note_event(event, self.controller)
            commands = self.controller.handle(event)
            missing.extend((row.time, command) for command in commands if isinstance(command, Decide))
            memory.note_commands(commands)
            adding = event if isinstance(event, Requested) and event.action == "enqueue" else None
            if self._backend.virtual:
                self._backend.replay(event, [command for command in commands if isinstance(command, Work)])
            # Those that failed are kept: they may be tried again.
            self._forget(() if row.trial is None else (row.trial,), failed=False)
        if missing:  # the log was cut between a fact and the verdicts on it
            self._log.append([self._verdict_row(decide, stamp) for stamp, decide in missing])
        now = self._backend.now()
        if adding is not None and (added := self._added(adding)) is not None:
            self._early.append(added)
        if self._seq and (retry_failed or self.controller.interrupted or not self._backend.virtual):
            resumed = Resumed(time=now, retry_failed=retry_failed)
            memory.note_event(resumed, self.controller)
            if self._backend.virtual:
                self._backend.replay(resumed, ())
            self._early.append(resumed)
            self._early.append(replace(capacity, time=now))
        elif not self.controller.ledger.capacity:
            self._early.append(replace(capacity, time=now))
        if self.controller.finished is not None:
            self._early.extend(self._inbox())  # an extension, perhaps
        self._feed.restore(memory.past())
        for call in memory.owed:
            self._call_searcher(call)

    def run(self) -> Finish:
        """Turn until the experiment is finished or `interrupt` was called; return how it ended."""
        while self._early or self.controller.finished is None:
            self.turn()
            if self._interrupted:
                return self._wind_down()
        assert self.controller.finished is not None
        return self.controller.finished

    def interrupt(self) -> None:
        """Have the loop end soon: running trials write a checkpoint, and a resume goes on from there."""
        self._interrupted = True

    # ------------------------------------------------------------------------------- one turn

    def turn(self) -> None:
        """Drain, append, fold, commit, carry out."""
        events = self._drain()
        if events:
            self._take(events)

    def _drain(self) -> list[Event]:
        if self._backend.virtual:
            return self._drain_one()
        events: list[Event] = [*self._early, *self._inbox()]
        self._early.clear()
        suggestions = self._feed.ready()
        # A suggestion that no place waits for is not worth a transaction of its own: it goes with what comes next.
        urgent = bool(events) or (bool(suggestions) and not self.controller.supplied)
        events += suggestions
        events += self._backend.poll(0.0 if urgent else self._timeout())
        if self._backend.now() >= self.controller.deadline():
            events.append(Ticked(time=self._backend.now()))
        return events

    def _drain_one(self) -> list[Event]:
        """Take one thing at a time, so that a run that is cut after any row goes on with the same next one."""
        if self._early:
            return [self._early.popleft()]
        if not self._suggestions:
            self._suggestions.extend(self._feed.ready())
        if self._suggestions:
            return [self._suggestions.popleft()]
        if not self._requests:
            self._requests.extend(self._inbox())
        if self._requests:
            return [self._requests.popleft()]
        if events := self._backend.poll(self._timeout()):
            return events
        if self._backend.now() >= self.controller.deadline():
            return [Ticked(time=self._backend.now())]
        if self.controller.deadline() == float("inf"):
            time.sleep(0.001)  # nothing happens of itself: only a person, or a slow searcher, can move it on
        return []

    def _timeout(self) -> float | None:
        """How long to wait for the backend: on a virtual clock as long as it takes, else until the next inbox."""
        left = self.controller.deadline() - self._backend.now()
        if not self._backend.virtual:
            return max(0.0, min(INBOX_PERIOD, left))
        return max(0.0, left) if left != float("inf") else None

    def _take(self, events: Sequence[Event]) -> list[Event]:
        """Fold events, write them and all that follows from them in one transaction, then carry it out."""
        turn = _Turn()
        todo = deque(events)
        while todo:
            event = todo.popleft()
            if isinstance(event, Ticked):
                event = self.controller.overdue(event.time) or event  # one a turn: the next tick is due at once
            if not self.controller.accepts(event):
                continue
            self._seq += 1
            turn.fact(self._seq, event)
            if isinstance(event, Resumed):
                turn.touched.update(dict.fromkeys(self.controller.trials))
            for command in self.controller.handle(event):
                if isinstance(command, Decide):
                    turn.rows.append(self._verdict_row(command, event.time))
                turn.command(command)
            if isinstance(event, Requested) and event.action == "enqueue":
                added = self._added(event)
                if added is not None:
                    todo.appendleft(added)
        if not turn.rows:
            return []
        trials = self.controller.trials
        changed = [_trial_row(trials[number]) for number in turn.touched if number in trials]
        self._log.append(turn.rows, turn.reports, changed, turn.checkpoints)
        self._carry_out(turn.effects)
        for listener in self._listeners:
            listener(self.controller, turn.events, turn.commands)
        self._forget(turn.touched)
        return turn.events

    def _carry_out(self, effects: Sequence[Command | Suggested]) -> None:
        work: list[Work] = []
        for effect in effects:
            if isinstance(effect, Work):
                work.append(effect)
            elif isinstance(effect, (Ask, Tell, Suggested)):
                self._call_searcher(effect)
            elif isinstance(effect, DropCheckpoints):
                self._drop(effect.checkpoints)
        if work:
            self._backend.submit(work)

    def _call_searcher(self, call: Ask | Tell | Suggested) -> None:
        if isinstance(call, Suggested):
            self._feed.observe(call.trial, call.config)
        else:
            self._feed.submit(call)

    def _forget(self, numbers: Iterable[int], *, failed: bool = True) -> None:
        for number in numbers:
            trial = self.controller.trials.get(number)
            if trial is not None and trial.status.final and (failed or trial.status is not TrialStatus.FAILED):
                self.controller.forget(number)

    # ------------------------------------------------------------------------------- persons

    def _inbox(self) -> list[Event]:
        """Return what persons have asked for since the last look."""
        now = time.monotonic()
        if now < self._next_inbox:
            return []
        self._next_inbox = now + INBOX_PERIOD
        stamp = self._backend.now()
        return [
            Requested(time=stamp, request=row.id, action=row.action, trial=row.trial, data=dict(row.data))
            for row in self._log.requests(self.controller.last_request)
        ]

    def _added(self, event: Requested) -> Suggested | None:
        """Return the trial that a person asked for, with what the config leaves open filled in by sampling."""
        number = self.controller.next_number
        try:
            config = self._complete(event.data.get("config", {}), number)
        except TunePlatformError as error:  # whoever asked should have checked; the search goes on without it
            _LOG.warning("request %d to add a trial was refused: %s", event.request, error)
            return None
        return Suggested(time=event.time, trial=number, config=config, origin="user")

    def _wind_down(self) -> Finish:
        """Ask what runs for a checkpoint and commit what arrives in time."""
        finish = Finish(status="interrupted", reason="the driver was interrupted; resume goes on from here")
        if self.controller.finished is not None:
            return self.controller.finished
        self._take([*self._early, Interrupted(time=self._backend.now())])
        self._early.clear()
        trials = self.controller.trials
        waiting = {(n, t.attempt) for n, t in trials.items() if t.status in (TrialStatus.RUNNING, TrialStatus.PAUSING)}
        end = time.monotonic() + GRACE
        while waiting and time.monotonic() < end and self.controller.finished is None:
            events = self._backend.poll(None if self._backend.virtual else INBOX_PERIOD)
            if not events and self._backend.virtual:
                break  # the rest hangs
            self._take(events)
            waiting -= {(event.trial, event.attempt) for event in events if isinstance(event, Saved)}
            waiting = {(n, a) for n, a in waiting if self.controller.ledger.holds(n) and trials[n].attempt == a}
        return self.controller.finished or finish

    # ------------------------------------------------------------------------------- rows

    def _verdict_row(self, decide: Decide, time: float) -> LogRow:
        self._seq += 1
        return LogRow(self._seq, time, VERDICT, decide.trial, _verdict_data(decide))

    def _expect(self, row: LogRow, missing: deque[tuple[float, Decide]]) -> None:
        now = missing.popleft()[1] if missing else None
        if now is None or now.trial != row.trial or not _same(_verdict_data(now), row.data):
            raise ExperimentError(
                f"log row {row.seq} has the verdict {dict(row.data)} on trial {row.trial}, but replaying the log gives "
                f"{_verdict_data(now) if now else 'none'}. The scheduler's code or options have changed since; resume "
                "with those that the experiment was started with"
            )


@dataclass(slots=True)
class _Turn:
    """What one turn writes, and what it has to do afterwards."""

    rows: list[LogRow] = field(default_factory=list)
    reports: list[ReportRow] = field(default_factory=list)
    checkpoints: list[CheckpointRow] = field(default_factory=list)
    touched: dict[int, None] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    effects: list[Command | Suggested] = field(default_factory=list)  # the commands, and what a searcher is to observe

    def fact(self, seq: int, event: Event) -> None:
        kind, trial, data = to_record(event)
        self.events.append(event)
        self.rows.append(LogRow(seq, event.time, kind, trial, data))
        if trial is not None:
            self.touched[trial] = None
        if isinstance(event, Reported):
            self.reports += [ReportRow(event.trial, r.step, seq, r.time, r.metrics) for r in event.reports]
            self.checkpoints += [_checkpoint_row(ref) for ref in event.saved]
        elif isinstance(event, Saved) and event.checkpoint:
            self.checkpoints.append(_checkpoint_row(event.checkpoint))
        elif isinstance(event, Suggested) and event.origin == "user":
            self.effects.append(event)

    def command(self, command: Command) -> None:
        self.commands.append(command)
        self.effects.append(command)
        if not isinstance(command, Finish):
            self.touched[command.trial] = None
        if isinstance(command, DropCheckpoints):
            self.checkpoints += [_checkpoint_row(ref, deleted=True) for ref in command.checkpoints]


def _verdict_data(decide: Decide) -> dict[str, Any]:
    verdict = decide.verdict
    data: dict[str, Any] = {"step": decide.step, "verdict": type(verdict).__name__.lower(), "reason": verdict.reason}
    if isinstance(verdict, (Continue, Clone)):
        data["until"] = verdict.until
    if isinstance(verdict, Clone):
        data["source"], data["config"] = verdict.source, dict(verdict.config)
    return data


def _same(data: Mapping[str, Any], written: Mapping[str, Any]) -> bool:
    """Whether two verdicts are the same once written (a tuple is a list there, and NaN equals itself)."""
    return data == written or json.dumps(data, sort_keys=True) == json.dumps(dict(written), sort_keys=True)


def _to_reports(rows: Sequence[ReportRow]) -> tuple[Report, ...]:
    return tuple(Report(row.step, row.metrics, row.time) for row in rows)


def _checkpoint_row(ref: CheckpointRef, *, deleted: bool = False) -> CheckpointRow:
    return CheckpointRow(trial=ref.trial, step=ref.step, uri=ref.uri, bytes=ref.bytes, deleted=deleted)


def _trial_row(trial: Trial) -> TrialRow:
    return TrialRow(
        trial=trial.number,
        status=trial.status.value,
        config=trial.config,
        reason=trial.reason,
        origin=trial.origin,
        attempt=trial.attempt,
        step=trial.step,
        metrics=trial.last.metrics if trial.last else {},
        best=trial.best,
        best_step=trial.best_step,
        error=trial.error,
        worker=trial.worker,
        created=trial.created,
        started=trial.started,
        ended=trial.ended,
    )
