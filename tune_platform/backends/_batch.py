"""What a worker answers with: a batch of reports, and how the attempt stands."""

from __future__ import annotations

import sysconfig
import traceback as tracebacks
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tune_platform.protocol.events import Event, Failed, Reported
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.trainable import WorkerDied

State = Literal["running", "waiting", "done", "failed"]

_PACKAGE = str(Path(__file__).parents[1])
_LIBRARIES = ("site-packages", sysconfig.get_path("stdlib"))


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


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of a trial since the last batch.

    `state`: running | waiting (at its milestone) | done | failed (then `failure` says why).
    """

    trial: int
    attempt: int
    reports: tuple[Report, ...]
    saved: tuple[CheckpointRef, ...]
    state: State
    failure: Failure | None = None

    def events(self, now: float, worker: str = "") -> list[Event]:
        """Return the batch as events: the reports, then the failure if there is one.

        A batch without reports gives an event too: it says that the trial lives, or waits for the controller.
        """
        events: list[Event] = []
        if self.reports or self.saved or self.failure is None:
            events.append(
                Reported(
                    time=now,
                    trial=self.trial,
                    attempt=self.attempt,
                    reports=self.reports,
                    saved=self.saved,
                    done=self.state == "done",
                    worker=worker,
                )
            )
        if self.failure is not None:
            events.append(self.failure.event(now, self.trial, self.attempt))
        return events

    def __reduce__(self) -> tuple[Any, ...]:
        # Plain tuples: the default for slotted dataclasses costs several times as much.
        reports = [(report.step, report.metrics, report.time) for report in self.reports]
        return _unpack, (self.trial, self.attempt, reports, self.saved, self.state, self.failure)


def _unpack(
    trial: int,
    attempt: int,
    reports: list[tuple[int, Mapping[str, Any], float]],
    saved: tuple[CheckpointRef, ...],
    state: State,
    failure: Failure | None,
) -> Batch:
    return Batch(trial, attempt, tuple(Report(*report) for report in reports), saved, state, failure)


def failure_of(error: BaseException) -> Failure:
    """Return the failure for an exception of the training code, with the innermost line of the user's own."""
    text = str(error)
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = tracebacks.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)]
    users = [frame for frame in own if not any(library in frame.filename for library in _LIBRARIES)] or own
    if users:
        message += f" ({users[-1].filename}:{users[-1].lineno})"
    cause = "worker_died" if isinstance(error, WorkerDied) else "exception"
    return Failure(cause, message, traceback_of(error))


def traceback_of(error: BaseException) -> str:
    """Return the whole traceback of an exception as text."""
    return "".join(tracebacks.format_exception(error))
