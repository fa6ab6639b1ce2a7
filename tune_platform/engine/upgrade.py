"""Turns a log of the former format, which had facts and verdicts but no other effects, into one of the present.

It is done once, when the experiment is resumed, in one transaction of the store.

What that release decided is read off what came after: a report of attempt 2 says that the trial was launched again.
Where nothing tells (the last rows), the table of trials does, which was written in the same transactions. Whatever ran
is begun again anyway by the driver that takes over. Nor does anything tell where a trial ran: a launch that names no
node is one of that release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tune_platform.engine.log import Group, Turn
from tune_platform.engine.trial import HELD
from tune_platform.protocol.effects import Decided, Effect, Finished, Launched, Moved, verdict_from_data
from tune_platform.protocol.events import Event, Failed, Reported, Requested, Resumed, Saved, Suggested, from_record
from tune_platform.protocol.reports import Config, Report
from tune_platform.protocol.verdicts import Clone, Continue, Pause, Stop
from tune_platform.resources import Resources
from tune_platform.store.records import LogRow

VERDICT = Decided.kind
_FINAL = ("COMPLETED", "STOPPED", "FAILED")


class _End(Protocol):
    """What the table of trials says of a trial at the end of the log."""

    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def trial(self) -> int: ...


@dataclass(slots=True)
class _Seen:
    """Where a trial stands, as far as the rows tell."""

    status: str = "PENDING"
    attempt: int = 0
    step: int = 0
    saved: int = -1  # the step of its newest checkpoint
    reason: str = ""
    resources: Resources = field(default_factory=Resources)


class Upgrade:
    """Turns rows of the former format into facts with the effects that they had.

    `ends`: the table of trials; `resources` works out what a trial holds; `status` is the experiment's own, with its
    reason. Raises nothing of its own: what it cannot tell is left as the trial was before.
    """

    def __init__(
        self,
        ends: Mapping[int, _End],
        resources: Callable[[Config], Resources],
        status: tuple[str, str] = ("running", ""),
    ) -> None:
        self._ends, self._resources, self._status = ends, resources, status
        self._seen: dict[int, _Seen] = {}
        self._start: float | None = None
        self._last = 0.0
        self._away = 0.0  # seconds between two drivers

    def groups(self, rows: Iterable[tuple[Any, Any]]) -> Iterator[Group]:
        """Yield each fact with what followed from it."""
        waiting: Group | None = None
        for row, reports in rows:
            if row.kind == VERDICT:
                if waiting is not None:
                    self._on_verdict(row, waiting.effects)
                continue
            event = self._with_resources(_event(row, reports))
            if waiting is not None:
                # A fact of an attempt that was not launched yet says that it was, after the one before.
                self._launch_for(event, waiting.effects)
                yield waiting
            waiting = Group(row.seq, event, self._elapsed(event), [], complete=True)
            self._on_fact(event, waiting.effects)
        if waiting is not None:
            self._reconcile(waiting.effects)
            yield waiting

    def _elapsed(self, event: Event) -> float:
        if self._start is None:
            self._start = self._last = event.time
        if isinstance(event, Resumed):
            self._away += max(0.0, event.time - self._last)
        self._last = max(self._last, event.time)
        return self._last - self._start - self._away

    # ------------------------------------------------------------------------------- rows

    def _launch_for(self, event: Event, effects: list[Effect]) -> None:
        if not isinstance(event, (Reported, Saved, Failed)):
            return
        seen = self._seen.get(event.trial)
        if seen is not None and (seen.status not in ("RUNNING", "PAUSING") or seen.attempt != event.attempt):
            if seen.status == "PAUSED":
                sent_on = Continue(until=None, reason="the scheduler sent it on")
                effects.append(Decided(trial=event.trial, step=seen.step, verdict=sent_on, by="engine"))
            self._launch(event.trial, seen, event.attempt, effects)

    def _launch(self, number: int, seen: _Seen, attempt: int, effects: list[Effect]) -> None:
        seen.status, seen.attempt = "RUNNING", attempt
        effects.append(
            Launched(trial=number, attempt=attempt, nodes=(), until=None, save=False, resources=seen.resources)
        )

    def _on_fact(self, event: Event, effects: list[Effect]) -> None:
        match event:
            case Suggested():
                self._seen[event.trial] = _Seen(resources=event.resources or Resources())
            case Reported() | Saved():
                self._on_progress(event, effects)
            case Failed():
                self._on_failed(event, effects)
            case Resumed():
                for seen in self._seen.values():
                    if seen.status == "RUNNING" or (event.retry_failed and seen.status == "FAILED"):
                        seen.status = "PENDING"
                    elif seen.status == "PAUSING":
                        seen.status = "PAUSED"
            case Requested(trial=int(number)) if number in self._seen:
                seen = self._seen[number]
                if event.action == "pause" and seen.status == "PENDING":
                    self._move(number, "PAUSED", HELD, effects)
                elif event.action == "unpause" and seen.status == "PAUSED" and seen.reason == HELD:
                    self._move(number, "PENDING", "a person let it go on", effects)

    def _on_progress(self, event: Reported | Saved, effects: list[Effect]) -> None:
        seen = self._seen[event.trial]
        if isinstance(event, Reported):
            seen.step = event.reports[-1].step if event.reports else seen.step
            seen.saved = max([seen.saved, *(ref.step for ref in event.saved)])
            if event.done:
                self._move(event.trial, "COMPLETED", "the training code ended", effects)
            return
        if event.checkpoint:
            seen.saved = event.checkpoint.step
        if seen.status == "PAUSING":
            self._move(event.trial, "PAUSED", seen.reason, effects)

    def _with_resources(self, event: Event) -> Event:
        """Add to a suggestion what that release worked out each time that it needed it."""
        if not isinstance(event, Suggested) or event.resources is not None:
            return event
        try:
            return replace(event, resources=self._resources(event.config))
        except Exception:  # it failed for that then, which the table says
            return event

    def _on_failed(self, event: Failed, effects: list[Effect]) -> None:
        seen, end = self._seen[event.trial], self._ends.get(event.trial)
        reason = f"{event.cause}: {event.message}"
        if end is not None and end.status == "FAILED" and end.attempt == event.attempt:
            self._move(event.trial, "FAILED", end.reason, effects)
        elif seen.status == "PAUSING":
            self._move(event.trial, "PAUSED", seen.reason, effects)
        else:
            self._move(event.trial, "PENDING", f"retry after {reason}", effects)

    def _on_verdict(self, row: Any, effects: list[Effect]) -> None:
        seen, end = self._seen[row.trial], self._ends.get(row.trial)
        verdict = verdict_from_data(row.data)
        if isinstance(verdict, Stop):
            verdict = Stop(reason=verdict.reason, completed=end is not None and end.status == "COMPLETED")
        effects.append(Decided(trial=row.trial, step=row.data["step"], verdict=verdict))
        match verdict:
            case Stop():
                seen.status = "COMPLETED" if verdict.completed else "STOPPED"
            case Pause():
                seen.reason = verdict.reason
                seen.status = "PAUSED" if seen.status != "RUNNING" or seen.saved == seen.step else "PAUSING"
            case Continue() if seen.status == "PAUSED":
                self._launch(row.trial, seen, seen.attempt + 1, effects)
            case Clone():
                seen.saved = seen.step
                if seen.status == "RUNNING":
                    self._launch(row.trial, seen, seen.attempt + 1, effects)

    def _move(self, number: int, status: str, reason: str, effects: list[Effect]) -> None:
        seen = self._seen[number]
        if seen.status != status:
            seen.status, seen.reason = status, reason
            effects.append(Moved(trial=number, status=status, reason=reason))

    def _reconcile(self, effects: list[Effect]) -> None:
        """Have the trials end as the table says: some moves left no row."""
        for number, seen in self._seen.items():
            end = self._ends.get(number)
            if end is None or seen.status in _FINAL:
                continue
            if end.status in _FINAL or (end.status == "PAUSED" and seen.status == "PENDING"):
                self._move(number, end.status, end.reason, effects)
            elif end.attempt > seen.attempt and seen.status == "PENDING":
                self._launch(number, seen, end.attempt, effects)
        status, reason = self._status
        if status in ("finished", "failed", "stopped"):
            effects.append(Finished(status=status, reason=reason))


def _event(row: Any, reports: Any) -> Event:
    found = tuple(Report(report.step, report.metrics, report.time) for report in reports)
    return from_record(row.time, row.kind, row.trial, row.data, found)


class FormerLog(Protocol):
    """What is needed of the store; see `store.SqlExperiment`."""

    @property
    def log_format(self) -> int:
        """1 for the former format."""

    def read_log(self, after: int = 0) -> Any:
        """Yield the rows in order, each with the reports that belong to it."""

    def trials(self) -> Sequence[Any]:
        """Return the table of trials."""

    def convert_log(self, log: Sequence[LogRow], moved: Mapping[int, int]) -> None:
        """Put a log of the present format in the place of the former one."""


def upgrade_log(
    experiment: FormerLog, resources: Callable[[Config], Resources], status: str = "running", reason: str = ""
) -> None:
    """Convert the experiment's log, where it is of the former format.

    `resources` are those of a config; `status` is how the experiment was left, with its reason.
    """
    if experiment.log_format != 1:
        return
    ends: dict[int, _End] = {row.trial: row for row in experiment.trials()}
    upgrade = Upgrade(ends, resources, (status, reason))
    moved: dict[int, int] = {}
    rows = list(converted(upgrade.groups(experiment.read_log()), moved))
    experiment.convert_log(rows, moved)


def converted(groups: Iterable[Group], moved: dict[int, int]) -> Iterator[LogRow]:
    """Yield the rows of the converted log; `moved` takes the new `seq` of each fact by its former one."""
    seq = 0
    for group in groups:
        turn = Turn(seq)
        turn.add(group.event, group.effects, group.elapsed)
        moved[group.seq] = seq + 1
        seq = turn.seq
        yield from turn.rows
