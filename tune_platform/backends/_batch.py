"""What a worker answers with: a batch of reports, and how the attempt stands."""

from __future__ import annotations

import traceback as tracebacks
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tune_platform.backends._outage import STORAGE_AWAY, cause_of
from tune_platform.backends._writer import InMemory, Written
from tune_platform.isolation.origin import PACKAGE, is_users
from tune_platform.protocol.events import Event, Failed, Reported, Saved, Started
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.protocol.text import printable
from tune_platform.trainable import WorkerDied

State = Literal["running", "waiting", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended badly; the fields are those of the event `Failed`."""

    cause: str
    message: str
    traceback: str = ""
    fatal: bool = False

    def event(self, now: float, trial: int, attempt: int) -> Failed:
        """Return the failure as an event of `trial`."""
        return Failed(
            time=now,
            trial=trial,
            attempt=attempt,
            cause=self.cause,
            message=self.message,
            traceback=self.traceback,
            fatal=self.fatal,
        )


class Answer(NamedTuple):
    """The answer to a Save: a checkpoint, or None; or a checkpoint that was finished when its lease had ended."""

    trial: int
    attempt: int
    checkpoint: CheckpointRef | None

    def event(self, now: float) -> Saved:
        """Return the answer as an event."""
        return Saved(time=now, trial=self.trial, attempt=self.attempt, checkpoint=self.checkpoint)


#: What comes of a trial in the middle of a leg; None says that it lives, for a step that is done again.
Item = Report | Written | InMemory | Answer | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of a trial since the last batch.

    `state`: running | waiting (at its milestone, or because it was told to) | done | failed (then `failure` says why).
    `started`: the trial's own code has begun since. `saving`: a checkpoint of it is being written. `answered` are the
    Saves that were carried out, and checkpoints of trials that were here before.
    """

    trial: int
    attempt: int
    reports: tuple[Report, ...]
    saved: tuple[CheckpointRef, ...]
    state: State
    failure: Failure | None = None
    answered: tuple[Answer, ...] = ()
    started: bool = False
    saving: bool = False
    held: tuple[CheckpointRef, ...] = ()

    @classmethod
    def of(
        cls,
        trial: int,
        attempt: int,
        items: Iterable[Item],
        state: State,
        failure: Failure | None = None,
        started: bool = False,
        saving: bool = False,
    ) -> Batch:
        """Sort what came of a trial into a batch."""
        reports: list[Report] = []
        saved: list[CheckpointRef] = []
        answered: list[Answer] = []
        held: list[CheckpointRef] = []
        for item in items:
            if type(item) is Report:
                reports.append(item)
            elif type(item) is Written:
                if (item.ref.trial, item.attempt) == (trial, attempt):
                    saved.append(item.ref)
                else:
                    answered.append(Answer(item.ref.trial, item.attempt, item.ref))
            elif type(item) is Answer:
                answered.append(item)
            elif type(item) is InMemory and (item.ref.trial, item.attempt) == (trial, attempt):
                held.append(item.ref)
        told = tuple(reports), tuple(saved), state, failure, tuple(answered), started, saving, tuple(held)
        return cls(trial, attempt, *told)

    def events(self, now: float, worker: str = "") -> list[Event]:
        """Return the batch as events: the reports, the answers, then the failure if there is one.

        A batch without any of these gives an event too: it says that the trial has started, lives, or waits.
        """
        events: list[Event] = []
        empty = not (self.reports or self.saved or self.held or self.answered or self.failure)
        if self.started and empty and self.state == "running":
            events.append(Started(time=now, trial=self.trial, attempt=self.attempt, worker=worker))
        elif self.reports or self.saved or self.held or self.state == "done" or empty:
            events.append(
                Reported(
                    time=now,
                    trial=self.trial,
                    attempt=self.attempt,
                    reports=self.reports,
                    saved=self.saved,
                    done=self.state == "done",
                    worker=worker,
                    saving=self.saving,
                    held=self.held,
                )
            )
        events.extend(answer.event(now) for answer in self.answered)
        if self.failure is not None:
            events.append(self.failure.event(now, self.trial, self.attempt))
        return events

    def late(self, now: float) -> list[Event]:
        """Return what is still worth knowing once the lease has ended: the checkpoints."""
        saved = [Answer(self.trial, self.attempt, ref) for ref in self.saved]
        return [answer.event(now) for answer in (*saved, *self.answered) if answer.checkpoint is not None]

    def __reduce__(self) -> tuple[Any, ...]:
        # Plain tuples: the default for slotted dataclasses costs several times as much.
        reports = [(report.step, report.metrics, report.time) for report in self.reports]
        rest = (self.saved, self.state, self.failure, self.answered, self.started, self.saving, self.held)
        return _unpack, (self.trial, self.attempt, reports, *rest)


def _unpack(
    trial: int,
    attempt: int,
    reports: list[tuple[int, Mapping[str, Any], float]],
    saved: tuple[CheckpointRef, ...],
    state: State,
    failure: Failure | None,
    answered: tuple[Answer, ...],
    started: bool,
    saving: bool,
    held: tuple[CheckpointRef, ...],
) -> Batch:
    made = tuple(Report(*report) for report in reports)
    return Batch(trial, attempt, made, saved, state, failure, answered, started, saving, held)


def failure_of(error: BaseException) -> Failure:
    """Return the failure for an exception of the training code, with the innermost line of the user's own.

    Both texts can be printed and encoded, whatever the exception says of itself.
    """
    text = _text_of(error)
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = tracebacks.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(PACKAGE)]
    users = [frame for frame in own if is_users(frame.filename)] or own
    cause = cause_of(error) or ("worker_died" if isinstance(error, WorkerDied) else "exception")
    if users and cause != STORAGE_AWAY:  # which is nobody's code
        message += f" ({users[-1].filename}:{users[-1].lineno})"
    return Failure(cause, printable(message), traceback_of(error))


def traceback_of(error: BaseException) -> str:
    """Return the whole traceback of an exception as text."""
    return printable("".join(tracebacks.format_exception(error)))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as second:  # the user's code as well
        return f"(its text cannot be had: __str__ raises {type(second).__name__})"
