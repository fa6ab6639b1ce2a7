"""The log as the engine reads and writes it: facts, each with the effects that followed from it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Protocol

from tune_platform.engine.trial import Trial
from tune_platform.errors import ExperimentError
from tune_platform.protocol.configs import to_json
from tune_platform.protocol.effects import EFFECTS, Effect, effect_from_record, effect_to_record
from tune_platform.protocol.events import EVENTS, Event, Reported, Saved, Suggested, from_record, to_record
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.store.records import CheckpointRow, LogRow, ReportRow, TrialRow

LOGGER = logging.getLogger("tune_platform")


class Log(Protocol):
    """The part of the store that the loop writes to and reads; see `store.SqlExperiment`."""

    def append(
        self,
        log: Sequence[LogRow],
        reports: Sequence[ReportRow] = (),
        trials: Sequence[TrialRow] = (),
        checkpoints: Sequence[CheckpointRow] = (),
        *,
        snapshot: tuple[int, str] | None = None,
    ) -> None:
        """Write all of it, or nothing, in one transaction."""

    def read_log(self, after: int = 0) -> Any:
        """Yield the rows in order, each with the reports that belong to it."""

    def snapshots(self) -> Iterable[tuple[int, str]]:
        """Yield (seq, text) of the snapshots, newest first."""

    def requests(self, after: int) -> Sequence[Any]:
        """Return what persons have asked for since request number `after`."""


@dataclass(slots=True)
class Group:
    """A fact of the log with the effects on it; not `complete`: the log was cut between them."""

    seq: int
    event: Event
    elapsed: float
    effects: list[Effect] = field(default_factory=list)
    complete: bool = True

    @property
    def last(self) -> int:
        """The `seq` of its last row."""
        return self.seq + len(self.effects)


class DamageError(ExperimentError):
    """The log cannot be read on: it says which row, and what is wrong with it."""


def groups(rows: Iterable[tuple[Any, Any]], after: int | None = None) -> Iterator[Group]:
    """Yield the facts of a log in the present format, each with its effects; `after`: the row before the first.

    Raises DamageError at a row that is not the next, or that says nothing which this release understands.
    """
    group: Group | None = None
    count, seq = 0, after
    for row, reports in rows:
        if seq is not None and row.seq != seq + 1:
            raise DamageError(f"row {seq + 1} of its log is missing")
        seq = row.seq
        try:
            if row.kind in EFFECTS:
                if group is not None:
                    group.effects.append(effect_from_record(row.kind, row.trial, row.data))
                continue
            data = dict(row.data)
            found = tuple(Report(report.step, report.metrics, report.time) for report in reports)
            before = group
            count = data.pop("effects", 0)
            data.pop("spent", None)  # for those who read no more than this
            if missing := missing_reports(data, [report.step for report in reports]):
                raise DamageError(f"report {missing[0]} of trial {row.trial} is missing")
            group = Group(seq, from_record(row.time, row.kind, row.trial, data, found), row.elapsed)
        except (AttributeError, LookupError, TypeError, ValueError, AssertionError) as error:
            known = row.kind in EFFECTS or row.kind in EVENTS
            what = (
                f"its data is not that of a {row.kind!r}" if known else f"its kind {row.kind!r} is none that is known"
            )
            raise DamageError(f"row {seq} of its log: {what} ({type(error).__name__}: {error})") from error
        if before is not None:
            yield before
    if group is not None:
        group.complete = len(group.effects) >= count
        yield group


def missing_reports(data: Mapping[str, Any], steps: Sequence[int]) -> list[int]:
    """Return the steps of the reports that a fact's data tell of and that are not among `steps`."""
    first, last = data.get("first"), data.get("last")
    if not isinstance(first, int) or not isinstance(last, int) or len(steps) == last - first + 1:
        return []
    return sorted(set(range(first, last + 1)) - set(steps))


def misplaced(group: Group, error: Exception) -> DamageError:
    """Return what is to be raised where a fact and its effects cannot be applied."""
    what = f"cannot have followed on the rows before it ({type(error).__name__}: {error})"
    return DamageError(f"row {group.seq} of its log: {what}")


class Turn:
    """Collects what one turn writes. `seq` is the number of the last row."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.rows: list[LogRow] = []
        self.reports: list[ReportRow] = []
        self.checkpoints: dict[str, CheckpointRow] = {}
        self.touched: dict[int, None] = {}
        self.events: list[Event] = []
        self.effects: list[Effect] = []

    def add(
        self,
        event: Event,
        effects: Sequence[Effect],
        elapsed: float,
        *,
        known: int = -1,
        spent: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a fact and what followed from it; the log has the first `known` of its effects (-1: nothing).

        `spent`: see `Spending.told`.
        """
        kind, trial, data = to_record(event)
        fact = self.seq + 1
        self.events.append(event)
        if known < 0:
            if effects:
                data["effects"] = len(effects)
            if spent is not None:
                data["spent"] = spent
            self.rows.append(LogRow(fact, event.time, kind, trial, data, None, elapsed))
            self._note(event, fact)
        self.seq += 1
        if trial is not None:
            self.touched[trial] = None
        for place, effect in enumerate(effects):
            self.seq += 1
            kind, trial, data = effect_to_record(effect)
            if trial is not None:
                self.touched[trial] = None
            if place >= known:
                self.effects.append(effect)
                self.rows.append(LogRow(self.seq, event.time, kind, trial, data, fact, elapsed))

    def drop(self, refs: Sequence[CheckpointRef]) -> None:
        """Write that these checkpoints are deleted."""
        for ref in refs:
            self.checkpoints[ref.uri] = checkpoint_row(ref, deleted=True)

    def _note(self, event: Event, seq: int) -> None:
        if isinstance(event, Reported):
            self.reports += [ReportRow(event.trial, r.step, seq, r.time, r.metrics) for r in event.reports]
            self._keep(event.saved)
        elif isinstance(event, Saved) and event.checkpoint:
            self._keep((event.checkpoint,))

    def _keep(self, refs: Sequence[CheckpointRef]) -> None:
        for ref in refs:
            self.checkpoints[ref.uri] = checkpoint_row(ref)


def observed(event: Event) -> bool:
    """Whether a searcher is to hear of a trial that it did not suggest."""
    return isinstance(event, Suggested) and event.origin == "user"


def checkpoint_row(ref: CheckpointRef, *, deleted: bool = False) -> CheckpointRow:
    """Return a checkpoint as the store has it."""
    return CheckpointRow(trial=ref.trial, step=ref.step, uri=ref.uri, bytes=ref.bytes, deleted=deleted)


#: Fields of a trial's row that the engine's trial has under the same name.
_SAME = [field.name for field in fields(TrialRow) if field.name not in ("trial", "status", "metrics")]
_same = attrgetter(*_SAME)


def trial_row(trial: Trial) -> TrialRow:
    """Return a trial as the store has it."""
    return TrialRow(
        trial=trial.number,
        status=trial.status.value,
        metrics=trial.last.metrics if trial.last else {},
        **dict(zip(_SAME, _same(trial), strict=True)) | {"config": to_json(trial.config)},
    )
