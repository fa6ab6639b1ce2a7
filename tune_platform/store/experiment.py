"""One experiment, to write: its driver appends; any process may read, or leave a request, at any time."""

from __future__ import annotations

import logging
import time as clock
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tune_platform.errors import ExperimentError
from tune_platform.store import lease, rows, schema
from tune_platform.store.database import Database, compiled, sql
from tune_platform.store.patience import PATIENCE_SECONDS, Patience
from tune_platform.store.reader import ExperimentReader
from tune_platform.store.records import LOG_FORMAT, CheckpointRow, LogRow, ReportRow, TrialRow

_LOG = logging.getLogger("tune_platform")
_E = schema.experiments.c
_WATCH_PERIOD = 0.25  # seconds


class SqlExperiment(ExperimentReader):
    """One experiment. Made by `SqlStore.create` and `SqlStore.open`; threads may share it.

    Who holds the lease asks again while the store is away; anybody else gets the error at once.
    """

    def __init__(self, database: Database, number: int, name: str, *, shared: bool) -> None:
        super().__init__(database, number, name)
        self._shared = shared
        self._lease: lease.Heartbeat | None = None
        self._patience = Patience(database.where)
        self._amended: str | None = None

    def __enter__(self) -> SqlExperiment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; closing twice does no harm. A lease is no longer renewed; see `set_status`."""
        self._let_go()
        if not self._shared:
            self._db.close()

    # ------------------------------------------------------------------ the driver's side

    def append(
        self,
        log: Sequence[LogRow],
        reports: Sequence[ReportRow] = (),
        trials: Sequence[TrialRow] = (),
        checkpoints: Sequence[CheckpointRow] = (),
        *,
        snapshot: tuple[int, str] | None = None,
    ) -> None:
        """Write all this in one transaction, or nothing of it. Trials and checkpoints replace what was there.

        `snapshot` is the state as of log row `seq`, as a text of JSON; the newest two are kept. Where the answer to a
        COMMIT was lost, the log's end tells whether it took place: nothing is written twice.

        Raises ExperimentError if another driver wrote the same `seq` or the same report, or took the lease, or if the
        store was away for too long; SpecError if a value is not JSON, naming it.
        """
        number, dialect = self._id, self._db.dialect
        writes = (
            (schema.ADD_LOG, [rows.log_values(number, row) for row in log]),
            (schema.ADD_REPORTS, [rows.report_values(number, row) for row in reports]),
            (schema.SET_TRIALS[dialect], [rows.trial_values(number, row) for row in trials]),
            (schema.SET_CHECKPOINTS[dialect], [rows.checkpoint_values(number, row) for row in checkpoints]),
        )

        def write(cursor: Any, again: bool) -> None:
            if self._lease is not None:
                self._lock_ours(cursor)
            if again and log and self._has(cursor, writes[0][1][-1]):
                return
            for statement, values in writes:
                if values:
                    cursor.executemany(sql(statement, dialect), values)
            if snapshot is not None:
                cursor.execute(sql(schema.SET_SNAPSHOT[dialect], dialect), (number, *snapshot))
                cursor.execute(sql(schema.DROP_SNAPSHOTS, dialect), (number, number))
            if self._amended is not None:
                cursor.execute(*compiled(sa.update(schema.experiments).where(_E.id == number)
                                         .values(spec=self._amended), dialect))  # fmt: skip

        self._persist(write)
        self._amended = None

    def amend(self, spec: Mapping[str, Any]) -> None:
        """Have the next `append` put `spec` in the place of the stored one, in its transaction."""
        self._amended = rows.encode(spec, "spec")
        self.spec = rows.decode(self._amended)

    def convert_log(self, log: Sequence[LogRow], moved: Mapping[int, int]) -> None:
        """Put a log of the present format in the place of the former one, in one transaction.

        `moved` gives the new `seq` of each row that brought reports, by its former one. Raises ExperimentError as
        `append` does.
        """
        number, dialect = self._id, self._db.dialect
        values = [rows.log_values(number, row) for row in log]
        # From the last to the first: numbers only rise, so that no two batches of reports are mixed up on the way.
        changes = [(new, number, old) for old, new in sorted(moved.items(), reverse=True) if new != old]

        def write(cursor: Any, again: bool) -> None:
            if self._lease is not None:
                self._lock_ours(cursor)
            if again and self._is_converted(cursor):
                return  # the answer to the COMMIT was lost: reports must not be moved a second time
            cursor.execute(sql(schema.DROP_LOG, dialect), (number,))
            cursor.executemany(sql(schema.ADD_LOG, dialect), values)
            if changes:
                cursor.executemany(sql(schema.MOVE_REPORTS, dialect), changes)
            cursor.execute(sql(schema.SET_LOG_FORMAT, dialect), (LOG_FORMAT, number))

        self._persist(write)

    def acquire(self, driver: str | None = None, *, force: bool = False, patience: float = PATIENCE_SECONDS) -> None:
        """Take the lease, set the status to running, and renew the lease from now on, beside whatever is done.

        `driver` is the name to take it under (default: one of this process, see `lease`). From now on all calls wait
        up to `patience` seconds for a store that is away. Where the clocks of two machines may be why a lease looks
        old, its heartbeat is watched for two periods.

        Raises ExperimentError that names the other driver if one holds the lease; `force` takes it all the same, and
        the other driver's next append fails.
        """
        heartbeat = lease.Heartbeat(self._db, self._id, driver or lease.new_driver())
        try:
            self._wait_for_lease(heartbeat.driver, force)
        except BaseException:
            heartbeat.stop()
            raise
        self._let_go()
        heartbeat.start()
        self._lease = heartbeat
        self._patience = Patience(self._db.where, patience)

    def set_status(self, status: str, reason: str, time: float) -> None:
        """Say how the experiment ended (finished | failed | stopped | interrupted) and give the lease back.

        Raises ExperimentError if another driver has taken the lease, or if the store was away for too long.
        """
        change = sa.update(schema.experiments).where(_E.id == self._id)
        if self._lease is not None:
            self._lease.stop()
            change = change.where(_E.driver == self._lease.driver)
        change = change.values(status=status, reason=rows.text(reason), heartbeat=time)

        def write(cursor: Any, again: bool) -> None:
            cursor.execute(*compiled(change, self._db.dialect))
            if cursor.rowcount != 1:
                raise ExperimentError(self._conflict)

        self._persist(write)
        self._let_go()

    def rename(self, name: str) -> None:
        """Give an experiment in a database another name. Raises ExperimentError if another driver has the lease."""

        def write(cursor: Any, again: bool) -> None:
            self._lock_ours(cursor)
            cursor.execute(*compiled(sa.update(schema.experiments).where(_E.id == self._id).values(name=name),
                                     self._db.dialect))  # fmt: skip

        self._persist(write)
        self.name = name

    def delete_rows(self) -> None:
        """Delete all that the database has of this experiment, in one transaction, and let the lease go.

        Raises ExperimentError if another driver has taken the lease.
        """
        owned = [table for table in schema.metadata.sorted_tables if "experiment" in table.c]

        def write(cursor: Any, again: bool) -> None:
            if not again:
                self._lock_ours(cursor)
            for table in owned:
                cursor.execute(*compiled(sa.delete(table).where(table.c.experiment == self._id), self._db.dialect))
            cursor.execute(*compiled(sa.delete(schema.experiments).where(_E.id == self._id), self._db.dialect))

        self._persist(write)
        self._let_go()

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
        text = rows.encode(data or {}, "field")
        with self._db.transaction() as cursor:
            # The lock lets numbers become visible in their order, so that the driver's `after` misses none.
            cursor.execute(sql(schema.LOCK_EXPERIMENT, self._db.dialect), (self._id,))
            cursor.execute(sql(schema.LAST_REQUEST, self._db.dialect), (self._id,))
            number = int(cursor.fetchone()[0] or 0) + 1
            values = (self._id, number, when, rows.text(action), trial, text)
            cursor.execute(sql(schema.ADD_REQUEST, self._db.dialect), values)
        return number

    # ------------------------------------------------------------------ inside

    def _fetch(self, statement: sa.ClauseElement, *values: Any) -> list[tuple[Any, ...]]:
        return self._patience(lambda again: self._db.fetch(statement, *values))

    def _persist(self, write: Callable[[Any, bool], None]) -> None:
        """Call `write` in a transaction; it is told whether an earlier one may have taken place."""

        def attempt(again: bool) -> None:
            with self._db.transaction(self._conflict) as cursor:
                write(cursor, again)

        self._patience(attempt)

    def _lock_ours(self, cursor: Any) -> None:
        """Keep other drivers from taking the lease until the transaction ends. Raises ExperimentError if one has."""
        assert self._lease is not None
        cursor.execute(sql(schema.LOCK_EXPERIMENT, self._db.dialect), (self._id,))
        if cursor.fetchone()[1] != self._lease.driver:
            raise ExperimentError(self._conflict)

    def _is_converted(self, cursor: Any) -> bool:
        cursor.execute(sql(schema.READ_LOG_FORMAT, self._db.dialect), (self._id,))
        return bool(cursor.fetchone()[0] == LOG_FORMAT)

    def _has(self, cursor: Any, row: tuple[Any, ...]) -> bool:
        """Say whether the log ends with that very row: another driver's is a conflict."""
        cursor.execute(sql(schema.READ_LOG, self._db.dialect), (self._id, row[1] - 1, 1))
        found = cursor.fetchone()
        return found is not None and (self._id, *found) == row

    def _wait_for_lease(self, driver: str, force: bool) -> None:
        """Take the lease, after a while if it must be watched whether its holder is dead."""
        watched: tuple[str, float] | None = None
        end = 0.0
        while not self._take(driver, force, watched if clock.monotonic() >= end else None):
            _, other, heartbeat = self._fetch(schema.READ_LEASE, self._id)[0]
            if watched is None:
                watched, end = (other, heartbeat), clock.monotonic() + 2 * lease.HEARTBEAT_SECONDS
                _LOG.info("watching whether %s, which ran %r, is gone", lease.shown(other), self.name)
            elif watched != (other, heartbeat):
                self._refuse(other, heartbeat)
            clock.sleep(_WATCH_PERIOD)

    def _take(self, driver: str, force: bool, dead: tuple[str, float] | None) -> bool:
        """Take the lease if it is free, or is that of the `dead` driver and its last heartbeat.

        False where it must be watched whether its holder is dead. Raises ExperimentError where another holds it.
        """
        with self._db.transaction() as cursor:
            cursor.execute(sql(schema.LOCK_EXPERIMENT, self._db.dialect), (self._id,))
            status, other, heartbeat = cursor.fetchone()
            ours = self._lease is not None and other == self._lease.driver
            if status == "running" and other and not (force or ours or dead == (other, heartbeat)):
                if lease.is_doubtful(other, heartbeat):
                    return False
                if lease.is_held(other, heartbeat):
                    self._refuse(other, heartbeat)
            cursor.execute(sql(schema.TAKE, self._db.dialect), ("running", "", clock.time(), driver, self._id))
        return True

    def _refuse(self, driver: str, heartbeat: float) -> None:
        lives = lease.alive(driver)
        raise ExperimentError(
            f"experiment {self.name!r} is being run by {lease.shown(driver)}, whose last heartbeat is "
            f"{max(0.0, clock.time() - heartbeat):.0f} s old. Stop that run; if it hangs, "
            + (
                "end its process."
                if lives
                else f"end its process there; its lease ends {lease.LEASE_SECONDS:.0f} s later."
            )
        )

    def _let_go(self) -> None:
        if self._lease is not None:
            self._lease.stop()
        self._lease = None
        self._patience = Patience(self._db.where)

    @property
    def _conflict(self) -> str:
        return (
            f"another driver works on experiment {self.name!r} (in {self._db.where}): it wrote the same rows "
            "or took the lease. This one must end; nothing of its last batch was written."
        )
