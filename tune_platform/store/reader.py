"""What anybody may read of one experiment, at any time, while its driver appends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from tune_platform.errors import ExperimentError, SpecError, did_you_mean
from tune_platform.protocol.requests import tagged
from tune_platform.store import lease, rows, schema
from tune_platform.store.database import Database
from tune_platform.store.records import CheckpointRow, ExperimentRow, LogRow, ReportRow, RequestRow, TrialRow

_LOG = logging.getLogger("tune_platform")
# Rows per query of the streaming reads: bounds memory, and no read transaction stays open. Few, so that the garbage
# collector looks at few; more where each query is a journey.
_CHUNK = {"sqlite": 250, "postgresql": 2000}
#: Reports per query where only their columns are wanted.
_COLUMNS = 20_000
#: Trials per query of some by their numbers: a power of two.
_AT_ONCE = 256
#: Trials per query of those.
_TRIALS = 2_000
#: Whole numbers go in. The order of a CROSS JOIN is kept by SQLite, which would else read all steps of the trials.
_STRIDED = """
WITH RECURSIVE wanted(step) AS (
    SELECT 1 UNION ALL
    SELECT step + CASE WHEN step = 1 THEN {stride} - 1 ELSE {stride} END FROM wanted
    WHERE step + {stride} <= {longest} + 1
)
SELECT reports.trial, reports.step, reports.seq, reports.time, reports.metrics
FROM trials CROSS JOIN wanted CROSS JOIN reports
WHERE trials.experiment = {experiment} AND trials.trial BETWEEN {first} AND {last}
AND reports.experiment = trials.experiment AND reports.trial = trials.trial AND reports.step = wanted.step
AND reports.seq <= {until}
ORDER BY trials.trial, wanted.step
"""
_SEQ = attrgetter("seq")
CREATED = "created but not started"
"""The reason of an experiment whose driver is about to take the lease."""
#: What trials may be ordered by.
ORDERS = ("trial", "best", "step", "created", "started", "ended")
#: What was told of damaged experiments in this process: results open the store anew for each question.
_TOLD: set[tuple[str, str, str]] = set()
_E, _L, _R = schema.experiments.c, schema.log.c, schema.reports.c
_T, _C = schema.trials.c, schema.checkpoints.c


class ExperimentReader:
    """The reading side of an experiment; threads may share it."""

    def __init__(self, database: Database, number: int, name: str) -> None:
        self.name = name
        self._db = database
        self._id = number
        self.spec = self._read_spec()

    def _fetch(self, statement: sa.ClauseElement, *values: Any) -> list[tuple[Any, ...]]:
        return self._db.fetch(statement, *values)

    def frozen(self) -> AbstractContextManager[None]:
        """Have all that is read inside be of one moment, while its driver appends; see `Database.frozen`."""
        return self._db.frozen()

    def _read_spec(self) -> dict[str, Any]:
        text = self._db.fetch(schema.READ_SPEC, self._id)[0][0]
        try:
            return rows.mapping(text)
        except ValueError as error:
            self.damaged("its spec", str(error))
            return {}

    # ------------------------------------------------------------------ damage

    def damaged(self, where: str, what: str) -> None:
        """Tell, once, what cannot be read, and go on without it."""
        key = (self._db.where, self.name, where)
        if key not in _TOLD:
            _TOLD.add(key)
            _LOG.warning(
                "experiment %r is damaged: %s %s; what can be read is shown, and doctor %s tells all",
                self.name, where, what, self.name,
            )  # fmt: skip

    def leave_out(self, table: str, row: Sequence[Any], what: str) -> None:
        """Tell of a row that cannot be read, and go on without it."""
        self.damaged(place_of(table, row), what)

    def _give_up(self, table: str, row: Sequence[Any], what: str) -> None:
        raise ExperimentError(damage(self.name, f"{place_of(table, row)} {what}"))

    def check_log(self) -> None:
        """Tell where rows of the log are missing; their number says so, so that it takes some 30 ns a row."""
        query = sa.select(sa.func.count(), sa.func.max(_L.seq)).where(_L.experiment == self._id)
        count, last = self._fetch(query)[0]
        if count != (last or 0):
            self.damaged("its log", f"has {count} of {last} rows")

    @property
    def log_format(self) -> int:
        """Which kinds of rows the log has: `records.LOG_FORMAT`, or 1 in the log of an older release."""
        return int(self._fetch(schema.READ_LOG_FORMAT, self._id)[0][0])

    def row(self) -> ExperimentRow:
        """Return the experiment's own row; status "crashed": it says running and no driver holds it."""
        return read_experiment(self._db, self._id, self.name)

    def last_seq(self) -> int:
        """Return the `seq` of the last log row, 0 if there is none."""
        return int(self._fetch(schema.LAST_SEQ, self._id)[0][0] or 0)

    def read_log(
        self, after: int = 0, *, reports: bool = True, damaged: rows.Damaged | None = None
    ) -> Iterator[tuple[LogRow, tuple[ReportRow, ...]]]:
        """Yield the log rows above `after` in order, each with the reports that it brought (unless not wanted).

        Rows that are appended meanwhile are read too. Memory is bounded by a chunk of rows. Raises ExperimentError at
        a row that cannot be read, or calls `damaged` for it.
        """
        damaged = damaged or self._give_up
        chunk = _CHUNK[self._db.dialect]
        while found := self._fetch(schema.READ_LOG, self._id, after, chunk):
            batches: dict[int, tuple[ReportRow, ...]] = {}
            if reports:
                texts = self._fetch(schema.READ_BATCHES, self._id, found[0][0], found[-1][0])
                brought = rows.to_reports(texts, damaged)
                batches = {seq: tuple(batch) for seq, batch in groupby(brought, _SEQ)}
            yield from [(row, batches.get(row.seq, ())) for row in rows.to_logs(found, damaged)]
            after = found[-1][0]

    def begun(self) -> bool:
        """Whether any trial was ever started."""
        query = sa.select(_T.trial).where(_T.experiment == self._id, (_T.attempt > 0) | (_T.step > 0)).limit(1)
        return bool(self._fetch(query))

    def driven(self) -> bool:
        """Whether somebody drives it, or is about to."""
        query = sa.select(_E.status, _E.reason, _E.driver, _E.heartbeat).where(_E.id == self._id)
        status, reason, driver, heartbeat = self._fetch(query)[0]
        return bool(driver) and (status == "running" or reason == CREATED) and lease.is_held(driver, heartbeat)

    def snapshots(self) -> Iterator[tuple[int, str]]:
        """Yield the snapshots, newest first: the state as of log row `seq`, as a text of JSON."""
        before = sys.maxsize
        while found := self._fetch(schema.READ_SNAPSHOT, self._id, before):
            yield found[0][0], found[0][1]
            before = found[0][0]

    def history(self, trial: int) -> list[LogRow]:
        """Return the rows of the log on one trial, and those on no trial in particular, in order, without reports."""
        # By their numbers, which the index has; asked for whole rows, SQLite would rather read the log through.
        numbers = sa.select(_L.seq).where(_L.experiment == self._id)
        these = sa.union_all(numbers.where(_L.trial == trial), numbers.where(_L.trial.is_(None)))
        query = sa.select(*schema.columns(schema.log)).where(_L.experiment == self._id, _L.seq.in_(these))
        return rows.to_logs(self._fetch(query.order_by(_L.seq)), self.leave_out)

    def resumptions(self) -> list[LogRow]:
        """Return the rows of the log that tell of another driver that took over, in order."""
        query = sa.select(*schema.columns(schema.log)).where(_L.experiment == self._id, _L.trial.is_(None))
        return rows.to_logs(self._fetch(query.where(_L.kind == "resumed").order_by(_L.seq)), self.leave_out)

    def spent(self) -> tuple[float, Mapping[str, Any]] | None:
        """Return the time of the last fact of the log and what had been spent by then; None where nobody counts it."""
        query = sa.select(*schema.columns(schema.log)).where(_L.experiment == self._id, _L.stimulus.is_(None))
        found = rows.to_logs(self._fetch(query.order_by(_L.seq.desc()).limit(1)), self.leave_out)
        return next(((row.time, row.data["spent"]) for row in found if row.data.get("spent")), None)

    def best_values(self) -> list[tuple[int, float]]:
        """Return the best value of each trial that has one, by number."""
        return [(int(trial), float(best)) for trial, best in self._fetch(schema.READ_BEST, self._id)]

    def causes(self, trial: int) -> dict[int, LogRow]:
        """Return the facts that the effects on one trial followed from, by their `seq`, without reports."""
        these = sa.select(_L.stimulus).where(_L.experiment == self._id, _L.trial == trial, _L.stimulus.is_not(None))
        query = sa.select(*schema.columns(schema.log)).where(_L.experiment == self._id, _L.seq.in_(these))
        return {row.seq: row for row in rows.to_logs(self._fetch(query), self.leave_out)}

    def requests(self, after: int) -> list[RequestRow]:
        """Return the requests with numbers above `after`; cheap enough to be asked all the time."""
        return [rows.to_request(row) for row in self._fetch(schema.READ_REQUESTS, self._id, after)]

    def trials(
        self,
        status: str | None = None,
        limit: int | None = None,
        order: str = "trial",
        offset: int = 0,
        *,
        damaged: rows.Damaged | None = None,
    ) -> list[TrialRow]:
        """Return trials, perhaps only of one status; `order` is a column, with "-" before it descending.

        Columns: trial, best, step, created, started, ended; rows without a value come last. One that cannot be read is
        left out and told, or goes to `damaged`. Raises SpecError.
        """
        name = order.removeprefix("-")
        if name not in ORDERS:
            raise SpecError(f"trials cannot be ordered by {order!r}{did_you_mean(name, ORDERS)}: {', '.join(ORDERS)}")
        key = _T[name].desc() if order.startswith("-") else _T[name].asc()
        query = sa.select(*schema.columns(schema.trials)).where(_T.experiment == self._id)
        query = query.order_by(key.nulls_last(), _T.trial)
        if status is not None:
            query = query.where(_T.status == status)
        if limit is not None or offset:
            query = query.limit(sys.maxsize if limit is None else limit).offset(offset)
        return rows.to_trials(self._fetch(query), damaged or self.leave_out)

    def trial_chunks(self) -> Iterator[list[TrialRow]]:
        """Yield all trials by number, in chunks: as objects, a hundred thousand of them take hundreds of megabytes."""
        query = sa.select(*schema.columns(schema.trials)).where(_T.experiment == self._id)
        query = query.order_by(_T.trial).limit(_TRIALS)
        found = self._fetch(query)
        while found:
            yield rows.to_trials(found, self.leave_out)
            found = self._fetch(query.where(_T.trial > found[-1][0])) if len(found) == _TRIALS else []

    def trial(self, number: int) -> TrialRow:
        """Return one trial. Raises ExperimentError if there is none of this number."""
        query = sa.select(*schema.columns(schema.trials)).where(_T.experiment == self._id, _T.trial == number)
        found = self._fetch(query)
        if not found:
            raise ExperimentError(f"experiment {self.name!r} has no trial {number}.")
        return rows.to_trials(found, self._give_up)[0]

    def counts(self) -> dict[str, int]:
        """Return how many trials are in each status; statuses without trials are left out."""
        return _read_counts(self._db, self._id)

    def reports(self, trial: int | None = None, after_step: int = 0) -> Iterator[ReportRow]:
        """Yield the reports above `after_step` of one trial or of all, ordered by trial and step."""
        query = sa.select(*schema.columns(schema.reports)).where(_R.experiment == self._id)
        if trial is not None:
            query = query.where(_R.trial == trial)
        if after_step:
            query = query.where(_R.step > after_step)
        chunk = _CHUNK[self._db.dialect]
        query = query.order_by(_R.trial, _R.step).limit(chunk)
        found = self._fetch(query)
        while found:
            yield from rows.to_reports(found, self.leave_out)
            # Of one trial only its steps: with both, SQLite walks through all later trials for the rest of a chunk.
            last = found[-1][:2]
            above = _R.step > last[1] if trial is not None else sa.tuple_(_R.trial, _R.step) > sa.tuple_(*last)
            found = self._fetch(query.where(above)) if len(found) == chunk else []

    def report_chunks(
        self, stride: int = 1, after: int | None = None, until: int | None = None
    ) -> Iterator[tuple[list[int], list[int], list[float], list[Mapping[str, Any]]]]:
        """Yield reports as columns (trial, step, time, metrics), in chunks, ordered by trial and step.

        Of every `stride`-th step, and first ones. With `after` those that log rows above it brought, in their order.
        """
        last = sys.maxsize if until is None else until
        if stride > 1 and after is None:
            yield from self._strided(stride, until)
        elif after is None:
            query = sa.select(*schema.columns(schema.reports)).where(_R.experiment == self._id, _R.seq <= last)
            query = query.order_by(_R.trial, _R.step).limit(_COLUMNS)
            found = self._fetch(query)
            while found:
                yield from self._as_columns(found)
                above = sa.tuple_(_R.trial, _R.step) > sa.tuple_(*found[-1][:2])
                found = self._fetch(query.where(above)) if len(found) == _COLUMNS else []
        else:
            first = 0
            while found := self._fetch(schema.READ_NEWS, self._id, after, last, stride, _COLUMNS, first):
                yield from self._as_columns(found)
                first += len(found)

    def _as_columns(
        self, found: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[list[int], list[int], list[float], list[Mapping[str, Any]]]]:
        if reports := rows.to_reports(found, self.leave_out):
            trial, step, _, time, metrics = zip(*reports, strict=True)
            yield list(trial), list(step), list(time), list(metrics)

    def _strided(
        self, stride: int, until: int | None
    ) -> Iterator[tuple[list[int], list[int], list[float], list[Mapping[str, Any]]]]:
        """Look the steps up by the key of the table: what is left out costs nothing."""
        bounds = sa.select(sa.func.max(_T.step), sa.func.max(_T.trial)).where(_T.experiment == self._id)
        longest, last = (each if each is not None else -1 for each in self._fetch(bounds)[0])
        width = max(1, _COLUMNS // (longest // stride + 1))
        for first in range(0, last + 1, width):
            text = _STRIDED.format(
                experiment=self._id, stride=stride, longest=longest, first=first, last=first + width - 1,
                until=sys.maxsize if until is None else until,
            )  # fmt: skip
            yield from self._as_columns(self._db.query(text))

    def log_rows(self, kinds: Sequence[str], after: int, until: int) -> Iterator[LogRow]:
        """Yield the log rows of some kinds above `after`, up to `until`, in order; without what they brought."""
        query = schema.log_of(tuple(kinds))
        while found := self._fetch(query, self._id, until, after, _COLUMNS):
            yield from rows.to_logs(found, self.leave_out)
            after = found[-1][0]

    def touched(self, after: int, until: int) -> list[int]:
        """Return the trials that log rows above `after`, up to `until`, tell of, by number."""
        return sorted(number for (number,) in self._fetch(schema.TOUCHED, self._id, after, until) if number is not None)

    def trials_of(self, numbers: Sequence[int]) -> list[TrialRow]:
        """Return these trials, as far as there are such, by number."""
        found = []
        for first in range(0, len(numbers), _AT_ONCE):
            part = numbers[first : first + _AT_ONCE]
            many = 1 << (len(part) - 1).bit_length()  # few different statements; the last one is named more than once
            found += self._fetch(schema.trials_of(many), self._id, *part, *[part[-1]] * (many - len(part)))
        return rows.to_trials(found, self.leave_out)

    def best_reports(self, trials: Sequence[int] | None = None) -> dict[int, Mapping[str, Any]]:
        """Return the metrics of the best report of each trial whose best is not its last, perhaps of these only."""
        best = sa.and_(_T.experiment == _R.experiment, _T.trial == _R.trial, _T.best_step == _R.step)
        query = sa.select(*schema.columns(schema.reports)).join(schema.trials, best)
        query = query.where(_R.experiment == self._id, _T.best_step != _T.step)
        if trials is not None:
            query = query.where(sa.or_(sa.false(), *(_R.trial == number for number in trials)))
        return {report.trial: report.metrics for report in rows.to_reports(self._fetch(query), self.leave_out)}

    def checkpoints(self, trial: int | None = None, include_deleted: bool = False) -> list[CheckpointRow]:
        """Return the checkpoints of one trial or of all, ordered by trial and step."""
        query = sa.select(*schema.columns(schema.checkpoints)).where(_C.experiment == self._id)
        if trial is not None:
            query = query.where(_C.trial == trial)
        if not include_deleted:
            query = query.where(_C.deleted.is_(False))
        return [rows.to_checkpoint(row) for row in self._fetch(query.order_by(_C.trial, _C.step, _C.uri))]


# ------------------------------------------------------------------------------------------ helpers


def place_of(table: str, row: Sequence[Any]) -> str:
    """Return where in the store a row is, for a message."""
    return {"log": "row {} of its log:", "reports": "report {1} of trial {0}:", "trials": "trial {}:"}[table].format(
        *row
    )


def damage(name: str, what: str) -> str:
    """Return the message on an experiment that cannot go on as something of it cannot be read."""
    return (
        f"experiment {name!r} is damaged: {what}. What can be read is shown by show and export; doctor {name} tells all"
    )


def _read(spec: Any) -> dict[str, Any]:
    try:
        return rows.mapping(spec)
    except ValueError:  # who opens it is told
        return {}


def _read_counts(database: Database, number: int) -> dict[str, int]:
    return {status: int(count) for status, count in sorted(database.fetch(schema.COUNT_STATES, number))}


def read_experiment(database: Database, number: int, name: str) -> ExperimentRow:
    """Return the row of experiment `number`; also from tables of an older version."""
    ((spec, status, reason, created, heartbeat, driver),) = database.fetch(schema.READ_EXPERIMENT, number)
    if status == "running" and not lease.is_held(driver, heartbeat):
        status, reason = "crashed", reason or f"its driver {lease.shown(driver)} is gone"
    given = _read(spec)
    asked = (_read(data) for (data,) in database.fetch(schema.READ_TAGS, number))
    return ExperimentRow(
        name=name,
        spec=given,
        status=status,
        reason=reason,
        created=created,
        heartbeat=heartbeat,
        driver=lease.shown(driver),
        counts=_read_counts(database, number),
        tags=tagged([{"add": given.get("tags", ())}, *asked]),
    )
