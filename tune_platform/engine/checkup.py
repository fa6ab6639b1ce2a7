"""Whether what the store has of an experiment is whole: row by row, and the log against what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from itertools import groupby
from typing import Any, Protocol

from tune_platform.engine.controller import Controller
from tune_platform.engine.log import DamageError, groups, misplaced, missing_reports, trial_row
from tune_platform.engine.settings import Settings
from tune_platform.errors import TunePlatformError
from tune_platform.protocol.scheduler import Scheduler
from tune_platform.store.reader import place_of
from tune_platform.store.records import LOG_FORMAT, LogRow, ReportRow, TrialRow
from tune_platform.store.rows import Damaged

#: Lines on one table, before the rest is only counted.
_MOST = 20
_FIELDS = tuple(each.name for each in fields(TrialRow) if each.name not in ("started", "ended", "created", "reason"))


class Readable(Protocol):
    """The part of the store that is read here; see `store.ExperimentReader`."""

    spec: dict[str, Any]

    def frozen(self) -> AbstractContextManager[None]:
        """Have all that is read inside be of one moment."""

    @property
    def log_format(self) -> int:
        """Which kinds of rows the log has."""

    def read_log(self, *, damaged: Damaged) -> Iterator[tuple[LogRow, tuple[ReportRow, ...]]]:
        """Yield the rows in order, each with the reports that it brought; those that cannot be read go to `damaged`."""

    def trials(self, *, damaged: Damaged) -> Sequence[TrialRow]:
        """Return the trials; those that cannot be read go to `damaged`."""


def check_up(experiment: Readable, scheduler: Scheduler) -> list[str]:
    """Return what is wrong with an experiment's rows, one line each; nothing where it is whole.

    The log is read through, each batch is held against its reports, and what the trials became by the log against the
    table of trials. Reads everything once: some 30 s for a million rows. `scheduler` is only told; any will do.
    """
    found: list[str] = []
    if not experiment.spec:
        found.append("its spec cannot be read: without it nothing can be resumed; all trials and reports are there")

    def damaged(table: str, row: Sequence[Any], what: str) -> None:
        found.append(f"{place_of(table, row)} {what}")

    with experiment.frozen():  # its driver may be writing: a row of the log and what follows from it come together
        log = list(experiment.read_log(damaged=damaged))
        rows = {row.trial: row for row in experiment.trials(damaged=damaged)}
    found += _gaps([row for row, _ in log], found)
    for row, reports in log:
        missing = missing_reports(row.data, [report.step for report in reports])
        found += [f"trial {row.trial}: its report {step} is missing, or cannot be read" for step in missing]
    if not found and experiment.log_format == LOG_FORMAT:
        found += _replayed(log, experiment.spec, scheduler, rows)
    return found if len(found) <= _MOST else [*found[:_MOST], f"... and {len(found) - _MOST} more"]


def _gaps(log: Sequence[LogRow], known: Iterable[str]) -> Iterator[str]:
    """Tell which rows are not there, in runs; not those that are, but cannot be read."""
    damaged = set(known)
    there = {row.seq for row in log}
    missing = [
        seq for seq in range(1, max(there, default=0) + 1)
        if seq not in there and not any(line.startswith(f"row {seq} of its log:") for line in damaged)
    ]  # fmt: skip
    for _, run in groupby(enumerate(missing), lambda pair: pair[1] - pair[0]):
        numbers = [seq for _, seq in run]
        first, last = numbers[0], numbers[-1]
        yield (
            f"row {first} of its log is missing" if first == last else f"rows {first} to {last} of its log are missing"
        )


def _replayed(
    log: Sequence[tuple[LogRow, tuple[ReportRow, ...]]],
    spec: Mapping[str, Any],
    scheduler: Scheduler,
    rows: Mapping[int, TrialRow],
) -> Iterator[str]:
    """Apply the log, and hold what the trials became by it against their rows."""
    objective = spec.get("objective", ())
    objectives = [objective] if isinstance(objective, Mapping) else list(objective)
    settings = Settings(
        metrics=tuple(str(each.get("metric", "")) for each in objectives),
        modes=tuple(str(each.get("mode", "min")) for each in objectives),
        on_bad_metric=spec.get("on_bad_metric", "fail"),
        stop=dict(spec.get("stop") or {}),
    )
    controller = Controller(settings, scheduler)
    try:
        for group in groups(log):
            try:
                controller.replay(group.event, group.elapsed, group.effects)
            except (TunePlatformError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise misplaced(group, error) from error
    except DamageError as error:
        yield str(error)
        return
    trials = controller.state.trials
    for number in sorted(trials.keys() | rows.keys()):
        if number not in rows:
            yield f"trial {number}: it is in the log, and not among the trials"
        elif number not in trials:
            yield f"trial {number}: it is not in the log"
        else:
            then, now = trial_row(trials[number]), rows[number]
            for name in _FIELDS:
                if not _same(getattr(then, name), getattr(now, name)):
                    yield (
                        f"trial {number}: its {name} is {getattr(now, name)!r}, and by the log {getattr(then, name)!r}"
                    )


def _same(then: Any, now: Any) -> bool:
    return bool(then == now) or repr(then) == repr(now)  # NaN is no number, and no other than itself here
