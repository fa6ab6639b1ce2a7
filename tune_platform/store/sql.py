"""Experiments in SQLite or PostgreSQL: an append-only log, its projections, an inbox for people's requests.

`open_store` gives a `SqlStore` (many experiments), which gives a `SqlExperiment` (one). Only the driver that
holds an experiment's lease appends; any process may read, or leave a request, at any time.
"""

from __future__ import annotations

import os
import socket
import sys
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from tune_platform.errors import ExperimentError, SpecError, did_you_mean
from tune_platform.store import schema
from tune_platform.store.migrations import Database, compiled, sql
from tune_platform.store.records import CheckpointRow, ExperimentRow, LogRow, ReportRow, RequestRow, TrialRow

LEASE_SECONDS = 30.0
"""A driver whose last heartbeat is older than this has lost its lease."""

FILE_NAME = "experiment.db"
"""Name of the SQLite file in an experiment's folder."""

_CHUNK = 1000  # rows per query of the streaming reads: bounds memory, and no read transaction stays open
_ORDERS = ("trial", "best", "step", "created", "started", "ended")
_E, _L, _R = schema.experiments.c, schema.log.c, schema.reports.c
_T, _C = schema.trials.c, schema.checkpoints.c


def this_driver() -> str:
    """Return the name under which this process holds leases: "host:pid"."""
    return f"{socket.gethostname()}:{os.getpid()}"


def open_store(location: str | Path) -> SqlStore:
    """Open the store at a directory, or at a SQLAlchemy URL of SQLite or PostgreSQL.

    In a directory each experiment has its own folder with its own SQLite file; nothing is made before the
    first experiment is. It must be on a local disk: where machines share a file system use PostgreSQL.
    Raises SpecError for any other URL.
    """
    text = str(location)
    if "://" not in text:
        return SqlStore(Path(text).expanduser().absolute())
    try:
        url = make_url(text.replace("postgres://", "postgresql://", 1))
    except sa.exc.ArgumentError:
        url = make_url("unknown://")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise SpecError(
            f"a store cannot be opened at {text!r}: give a directory, sqlite:///file.db or "
            "postgresql://user@host/database (checkpoints may lie on any fsspec path, the store may not)."
        )
    return SqlStore(url)


class SqlStore:
    """All experiments of one place. Made by `open_store`; close it, or use it in a with statement."""

    def __init__(self, place: Path | URL) -> None:
        self._place = place
        self._in_memory = isinstance(place, URL) and place.database in (None, "", ":memory:")
        self._listing: Database | None = None  # of a URL; in memory it is the only one, used by every experiment
        self.location = str(place) if isinstance(place, Path) else place.render_as_string(hide_password=True)

    def __enter__(self) -> SqlStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self) -> list[str]:
        """Return the names of all experiments, sorted; opens no file of a directory."""
        if isinstance(self._place, Path):
            return sorted(path.parent.name for path in self._place.glob(f"*/{FILE_NAME}"))
        database = self._list_database()
        return sorted(name for (name,) in database.fetch(sa.select(_E.name))) if database else []

    def experiments(self) -> list[ExperimentRow]:
        """Return all experiments, sorted by name.

        One whose file cannot be read comes with the status "unreadable" and the cause as its reason.
        """
        if isinstance(self._place, Path):
            return [self._peek(name) for name in self.names()]
        database = self._list_database()
        found = database.fetch(sa.select(_E.id, _E.name).order_by(_E.name)) if database else []
        return [_read_experiment(database, number, name) for number, name in found if database]

    def create(self, name: str, spec: Mapping[str, Any], created: float) -> SqlExperiment:
        """Make a new experiment and open it for writing; `created` is in seconds since the epoch.

        Raises ExperimentError if the name is taken or cannot name a folder, SpecError if `spec` is not JSON.
        """
        _check_name(name)
        values = (
            name,
            schema.encode(spec, "spec field"),
            "interrupted",
            "created but not started",
            created,
            created,
        )
        if isinstance(self._place, Path):
            (self._place / name).mkdir(parents=True, exist_ok=True)
        database = self._database(name, readonly=False)
        taken = f"experiment {name!r} exists already in {self.location}: resume it or choose another name."
        try:
            database.prepare()
            with database.transaction(conflict=taken) as cursor:
                if self._find(database, name) is not None:
                    raise ExperimentError(taken)
                cursor.execute(sql(schema.ADD_EXPERIMENT, database.dialect), values)
            return self._experiment(database, name)
        except BaseException:
            self._release(database)
            raise

    def open(self, name: str, readonly: bool = False) -> SqlExperiment:
        """Open an experiment by its name or by the unique beginning of its name.

        A read-only one makes no files, never blocks its driver and follows what that appends.
        Raises ExperimentError if there is none, or if it cannot be read.
        """
        names = self.names()
        if name not in names:
            longer = [known for known in names if name and known.startswith(name)]
            if len(longer) != 1:
                hint = f" (could be {', '.join(longer[:5])})" if longer else did_you_mean(name, names)
                raise ExperimentError(f"there is no experiment {name!r} in {self.location}{hint}")
            name = longer[0]
        database = self._database(name, readonly=readonly)
        try:
            database.prepare()
            return self._experiment(database, name)
        except BaseException:
            self._release(database)
            raise

    def close(self) -> None:
        """Close the store's own connection; experiments that were opened stay open (except in memory)."""
        if self._listing is not None:
            self._listing.close()
            self._listing = None

    def _database(self, name: str, *, readonly: bool) -> Database:
        if isinstance(self._place, Path):
            return Database(URL.create("sqlite", database=str(self._place / name / FILE_NAME)), readonly=readonly)
        if self._in_memory:
            self._listing = self._listing or Database(self._place)
            return self._listing
        return Database(self._place, readonly=readonly)

    def _list_database(self) -> Database | None:
        assert isinstance(self._place, URL)
        if self._listing is None:
            path = self._place.database or ""
            if self._place.get_backend_name() == "sqlite" and not self._in_memory and not Path(path).exists():
                return None
            self._listing = Database(self._place, readonly=not self._in_memory)
        return None if self._listing.version() is None else self._listing

    def _release(self, database: Database) -> None:
        if database is not self._listing:
            database.close()

    def _find(self, database: Database, name: str) -> int | None:
        query = sa.select(_E.id).order_by(_E.id).limit(1)
        # A folder holds one experiment, whatever name it had before somebody copied or renamed the folder.
        found = database.fetch(query if isinstance(self._place, Path) else query.where(_E.name == name))
        return int(found[0][0]) if found else None

    def _experiment(self, database: Database, name: str) -> SqlExperiment:
        number = self._find(database, name)
        if number is None:
            raise ExperimentError(f"{database.where} holds no experiment: its making was cut short. Create it again.")
        return SqlExperiment(database, number, name, shared=database is self._listing)

    def _peek(self, name: str) -> ExperimentRow:
        try:
            database = self._database(name, readonly=True)
            try:
                database.check()  # an older version is not migrated: what is read here was always there
                number = self._find(database, name)
                if number is None:
                    raise ExperimentError("its making was cut short")
                return _read_experiment(database, number, name)
            finally:
                database.close()
        except (ExperimentError, OSError, ValueError) as error:
            return ExperimentRow(name=name, spec={}, status="unreadable", reason=str(error))


class SqlExperiment:
    """One experiment. Made by `SqlStore.create` and `SqlStore.open`; threads may share it."""

    def __init__(self, database: Database, number: int, name: str, *, shared: bool) -> None:
        self.name = name
        self._db = database
        self._id = number
        self._shared = shared
        self._driver: str | None = None  # our lease
        self.spec: dict[str, Any] = schema.decode(database.fetch(sa.select(_E.spec).where(_E.id == number))[0][0])

    def __enter__(self) -> SqlExperiment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; closing twice does no harm. A lease is not given back: see `set_status`."""
        if not self._shared:
            self._db.close()

    # ------------------------------------------------------------------ the driver's side

    def append(
        self,
        log: Sequence[LogRow],
        reports: Sequence[ReportRow] = (),
        trials: Sequence[TrialRow] = (),
        checkpoints: Sequence[CheckpointRow] = (),
        heartbeat: float | None = None,
    ) -> None:
        """Write all this in one transaction, or nothing of it. Trials and checkpoints replace what was there.

        `heartbeat` (seconds since the epoch) renews the lease. Raises ExperimentError if another driver wrote
        the same `seq` or the same report, or took the lease; SpecError if a value is not JSON, naming it.
        """
        number, dialect = self._id, self._db.dialect
        writes = (
            (schema.ADD_LOG, [schema.log_values(number, row) for row in log]),
            (schema.ADD_REPORTS, [schema.report_values(number, row) for row in reports]),
            (schema.SET_TRIALS[dialect], [schema.trial_values(number, row) for row in trials]),
            (schema.SET_CHECKPOINTS[dialect], [schema.checkpoint_values(number, row) for row in checkpoints]),
        )
        with self._db.transaction(self._conflict) as cursor:
            if self._driver is not None:
                self._update(cursor, sql(schema.BEAT, dialect), (heartbeat, number, self._driver))
            elif heartbeat is not None:
                cursor.execute(sql(schema.BEAT_UNLEASED, dialect), (heartbeat, number))
            for statement, rows in writes:
                if rows:
                    cursor.executemany(sql(statement, dialect), rows)

    def acquire(self, driver: str, now: float, force: bool = False) -> None:
        """Take the lease as `driver` ("host:pid", see `this_driver`) and set the status to running.

        Raises ExperimentError that names the other driver if one holds it; `force` takes it all the same, and
        the other driver's next append fails.
        """
        with self._db.transaction() as cursor:
            cursor.execute(sql(schema.LOCK_EXPERIMENT, self._db.dialect), (self._id,))
            status, other, heartbeat = cursor.fetchone()
            if not force and other != driver and _held(status, other, heartbeat, now):
                raise ExperimentError(
                    f"experiment {self.name!r} is being run by {other}, whose last heartbeat is "
                    f"{max(0.0, now - heartbeat):.0f} s old. Stop that run; or, if it hangs, wait "
                    f"{LEASE_SECONDS:.0f} s or take over with force."
                )
            cursor.execute(sql(schema.TAKE, self._db.dialect), ("running", "", now, driver, self._id))
        self._driver = driver

    def set_status(self, status: str, reason: str, time: float) -> None:
        """Say how the experiment ended (finished | failed | stopped | interrupted) and give the lease back.

        Raises ExperimentError if another driver has taken the lease.
        """
        change = sa.update(schema.experiments).where(_E.id == self._id)
        if self._driver is not None:
            change = change.where(_E.driver == self._driver)
        change = change.values(status=status, reason=schema.text(reason), heartbeat=time)
        with self._db.transaction() as cursor:
            self._update(cursor, *compiled(change, self._db.dialect))
        self._driver = None

    def requests(self, after: int) -> list[RequestRow]:
        """Return the requests with numbers above `after`; cheap enough to be asked all the time."""
        return [schema.to_request(row) for row in self._db.fetch(schema.READ_REQUESTS, self._id, after)]

    def _update(self, cursor: Any, text: str, values: tuple[Any, ...]) -> None:
        cursor.execute(text, values)
        if cursor.rowcount != 1:
            raise ExperimentError(self._conflict)

    @property
    def _conflict(self) -> str:
        return (
            f"another driver works on experiment {self.name!r} (in {self._db.where}): it wrote the same rows "
            "or took the lease. This one must end; nothing of its last batch was written."
        )

    # ------------------------------------------------------------------ anybody's side

    def request(
        self,
        action: str,
        trial: int | None = None,
        data: Mapping[str, Any] | None = None,
        time: float | None = None,
    ) -> int:
        """Leave a request for the driver and return its number; `time` (epoch seconds) is now if None."""
        when = clock.time() if time is None else time
        text = schema.encode(data or {}, "field")
        with self._db.transaction() as cursor:
            # The lock lets numbers become visible in their order, so that the driver's `after` misses none.
            cursor.execute(sql(schema.LOCK_EXPERIMENT, self._db.dialect), (self._id,))
            cursor.execute(sql(schema.LAST_REQUEST, self._db.dialect), (self._id,))
            number = int(cursor.fetchone()[0] or 0) + 1
            values = (self._id, number, when, schema.text(action), trial, text)
            cursor.execute(sql(schema.ADD_REQUEST, self._db.dialect), values)
        return number

    def row(self, now: float | None = None) -> ExperimentRow:
        """Return the experiment's own row; status "crashed": it says running and no driver holds it."""
        return _read_experiment(self._db, self._id, self.name, now)

    def last_seq(self) -> int:
        """Return the `seq` of the last log row, 0 if there is none."""
        return int(self._db.fetch(schema.LAST_SEQ, self._id)[0][0] or 0)

    def read_log(self, after: int = 0) -> Iterator[tuple[LogRow, tuple[ReportRow, ...]]]:
        """Yield the log rows above `after` in order, each with the reports that it brought.

        Rows that are appended meanwhile are read too. Memory is bounded by a chunk of rows.
        """
        while rows := self._db.fetch(schema.READ_LOG, self._id, after, _CHUNK):
            batches: dict[int, list[ReportRow]] = {}
            brought = self._db.fetch(schema.READ_BATCHES, self._id, rows[0][0], rows[-1][0])
            for report in schema.to_reports(brought):
                batches.setdefault(report.seq, []).append(report)
            for row in schema.to_logs(rows):
                yield row, tuple(batches.get(row.seq, ()))
            after = rows[-1][0]

    def history(self, trial: int) -> list[LogRow]:
        """Return the rows of the log on one trial, and those on no trial in particular, in order, without reports."""
        # By their numbers, which the index has; asked for whole rows, SQLite would rather read the log through.
        numbers = sa.select(_L.seq).where(_L.experiment == self._id)
        these = sa.union_all(numbers.where(_L.trial == trial), numbers.where(_L.trial.is_(None)))
        query = sa.select(*schema.columns(schema.log)).where(_L.experiment == self._id, _L.seq.in_(these))
        return schema.to_logs(self._db.fetch(query.order_by(_L.seq)))

    def trials(
        self, status: str | None = None, limit: int | None = None, order: str = "trial", offset: int = 0
    ) -> list[TrialRow]:
        """Return trials, perhaps only of one status; `order` is a column, with "-" before it descending.

        Columns: trial, best, step, created, started, ended; rows without a value come last. Raises SpecError.
        """
        name = order.removeprefix("-")
        if name not in _ORDERS:
            raise SpecError(f"trials cannot be ordered by {order!r}{did_you_mean(name, _ORDERS)}: {', '.join(_ORDERS)}")
        key = _T[name].desc() if order.startswith("-") else _T[name].asc()
        query = sa.select(*schema.columns(schema.trials)).where(_T.experiment == self._id)
        query = query.order_by(key.nulls_last(), _T.trial)
        if status is not None:
            query = query.where(_T.status == status)
        if limit is not None or offset:
            query = query.limit(sys.maxsize if limit is None else limit).offset(offset)
        return [schema.to_trial(row) for row in self._db.fetch(query)]

    def trial(self, number: int) -> TrialRow:
        """Return one trial. Raises ExperimentError if there is none of this number."""
        query = sa.select(*schema.columns(schema.trials)).where(_T.experiment == self._id, _T.trial == number)
        found = self._db.fetch(query)
        if not found:
            raise ExperimentError(f"experiment {self.name!r} has no trial {number}.")
        return schema.to_trial(found[0])

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
        query = query.order_by(_R.trial, _R.step).limit(_CHUNK)
        rows = self._db.fetch(query)
        while rows:
            yield from schema.to_reports(rows)
            last = sa.tuple_(*rows[-1][:2])
            rows = self._db.fetch(query.where(sa.tuple_(_R.trial, _R.step) > last)) if len(rows) == _CHUNK else []

    def checkpoints(self, trial: int | None = None, include_deleted: bool = False) -> list[CheckpointRow]:
        """Return the checkpoints of one trial or of all, ordered by trial and step."""
        query = sa.select(*schema.columns(schema.checkpoints)).where(_C.experiment == self._id)
        if trial is not None:
            query = query.where(_C.trial == trial)
        if not include_deleted:
            query = query.where(_C.deleted.is_(False))
        return [schema.to_checkpoint(row) for row in self._db.fetch(query.order_by(_C.trial, _C.step, _C.uri))]


# ------------------------------------------------------------------------------------------ helpers


def _check_name(name: str) -> None:
    if not name or not name.isprintable() or name[0] in ". " or set(name) & set("/\\") or len(name.encode()) > 200:
        raise ExperimentError(
            f"an experiment cannot be named {name!r}: a name is up to 200 bytes of printable text without "
            "slashes, and begins with neither a dot nor a space."
        )


def _held(status: str, driver: str, heartbeat: float, now: float) -> bool:
    """Say whether `driver` holds the lease: its heartbeat is young and, on this host, its process lives."""
    host, _, pid = driver.rpartition(":")
    if status != "running" or not driver or now - heartbeat >= LEASE_SECONDS:
        return False
    if host != socket.gethostname() or not pid.isdecimal() or os.name != "posix":
        return True
    try:
        os.kill(int(pid), 0)  # signal 0 asks whether the process is there
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _read_counts(database: Database, number: int) -> dict[str, int]:
    query = sa.select(_T.status, sa.func.count()).where(_T.experiment == number).group_by(_T.status)
    return {status: int(count) for status, count in sorted(database.fetch(query))}


def _read_experiment(database: Database, number: int, name: str, now: float | None = None) -> ExperimentRow:
    query = sa.select(_E.spec, _E.status, _E.reason, _E.created, _E.heartbeat, _E.driver).where(_E.id == number)
    ((spec, status, reason, created, heartbeat, driver),) = database.fetch(query)
    if status == "running" and not _held(status, driver, heartbeat, clock.time() if now is None else now):
        status, reason = "crashed", reason or f"its driver {driver} is gone"
    return ExperimentRow(
        name=name,
        spec=schema.decode(spec),
        status=status,
        reason=reason,
        created=created,
        heartbeat=heartbeat,
        driver=driver,
        counts=_read_counts(database, number),
    )
