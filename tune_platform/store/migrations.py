"""One open database, brought to the schema version of this code.

`Database` is one long-lived DBAPI connection with explicit transactions; it runs SQL that is compiled from
SQLAlchemy Core statements. `prepare` makes the tables or migrates older ones, in one transaction. What an
experiment is, only `sql.py` knows.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from tune_platform.errors import ExperimentError
from tune_platform.store.schema import VERSION, metadata

STEPS: dict[int, tuple[str, ...]] = {
    # from version 1 to 2: where a trial ran; and the log is read back without sorting all reports
    1: (
        "ALTER TABLE trials ADD COLUMN worker TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX reports_by_seq ON reports (experiment, seq)",
    ),
    # from version 2 to 3: the history of one trial is read without the rest of the log
    2: ("CREATE INDEX log_by_trial ON log (experiment, trial, seq)",),
}
"""The statements that lead from each version to the next; the same for SQLite and PostgreSQL."""

BUSY_SECONDS = 10.0
"""How long a SQLite connection waits for another writer before it gives up."""

_DIALECTS: dict[str, Dialect] = {
    "sqlite": sqlite.dialect(),
    "postgresql": postgresql.psycopg.dialect(paramstyle="format"),  # type: ignore[no-untyped-call]
}
_LIST_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
}
_LOCK_KEY = 0x7E5E7A81  # any number: processes that migrate one PostgreSQL database wait for each other


def compiled(statement: sa.ClauseElement, dialect: str) -> tuple[str, tuple[Any, ...]]:
    """Return the SQL string of `statement` and its parameters in the order of their places."""
    result: Any = statement.compile(dialect=_DIALECTS[dialect])
    return str(result), tuple(result.params[name] for name in result.positiontup or ())


@functools.cache
def sql(statement: sa.ClauseElement, dialect: str) -> str:
    """Return the SQL string of a statement that is built once and run often."""
    return compiled(statement, dialect)[0]


class Database:
    """One connection to SQLite or PostgreSQL; threads may share it, one call runs at a time.

    A read-only SQLite connection makes no file and holds no lock between calls. Without a `-wal` file nobody
    writes, so the file is opened as immutable; that is looked at again before each read.
    """

    def __init__(self, url: URL, *, readonly: bool = False) -> None:
        self.dialect = url.get_backend_name()
        self.where = url.render_as_string(hide_password=True)
        self.readonly = readonly
        self._url = url
        file = url.database if self.dialect == "sqlite" else None
        self._path = Path(file).absolute() if file and file != ":memory:" else None
        self._immutable: tuple[int, ...] | None = None  # what the file looked like when opened as immutable
        self._lock = threading.RLock()
        self._dbapi: ModuleType = sqlite3 if self.dialect == "sqlite" else _psycopg()
        self._connection: Any = None
        self._open()

    # ------------------------------------------------------------------ use

    @contextmanager
    def transaction(self, conflict: str = "") -> Iterator[Any]:
        """Give a DBAPI cursor inside one write transaction: all or nothing.

        Raises ExperimentError, with the text `conflict` where a row with the same key exists already.
        """
        with self._lock, self._translated(conflict):
            self._renew()
            cursor = self._connection.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE" if self.dialect == "sqlite" else "BEGIN")
                try:
                    yield cursor
                    cursor.execute("COMMIT")
                except BaseException:
                    with suppress(self._dbapi.Error):  # the connection is gone, and the transaction with it
                        cursor.execute("ROLLBACK")
                    raise
            finally:
                cursor.close()

    def fetch(self, statement: sa.ClauseElement, *values: Any) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows.

        With `values` the statement is a constant with open places and is compiled once; without, it brings
        its values along.
        """
        text, places = (sql(statement, self.dialect), values) if values else compiled(statement, self.dialect)
        with self._lock, self._translated():
            self._renew()
            try:
                return self._query(text, places)
            except self._dbapi.Error:
                if self._immutable is None and not self._lost():
                    raise
                self._open()  # a writer came in the middle, or the server was started again: once more
                return self._query(text, places)

    def close(self) -> None:
        """Close the connection; closing twice does no harm, using it afterwards raises ExperimentError."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    # ------------------------------------------------------------------ the schema

    def version(self) -> int | None:
        """Return the schema version, or None where there are no tables yet."""
        with self._lock, self._translated():
            self._renew()
            tables = {name for (name,) in self._query(_LIST_TABLES[self.dialect])}
            if "meta" not in tables:
                if tables & set(metadata.tables):
                    raise ExperimentError(f"{self.where} holds another program's tables; give it its own place.")
                return None
            found = self._query("SELECT schema_version FROM meta")
        return int(found[0][0]) if found else None

    def check(self) -> int | None:
        """Return the schema version if this code can read it.

        Raises ExperimentError if it is newer, or if there is nothing to read and no leave to write.
        """
        found = self.version()
        if found is None and self.readonly:
            raise ExperimentError(f"{self.where} holds no experiments.")
        if found is not None and found > VERSION:
            raise ExperimentError(
                f"{self.where} was written by a newer tune_platform (schema version {found}, this one knows "
                f"{VERSION}): upgrade tune_platform to open it."
            )
        return found

    def prepare(self) -> None:
        """Make the tables, or bring those of an older version to this one; raises what `check` raises.

        A read-only SQLite database of an older version is copied into memory and migrated there; a read-only
        PostgreSQL one raises ExperimentError.
        """
        found = self.check()
        if found == VERSION:
            return
        if self.readonly:
            if self.dialect != "sqlite":
                raise ExperimentError(
                    f"{self.where} has schema version {found}: open it once for writing, for instance by "
                    f"resuming an experiment, to migrate it to version {VERSION}."
                )
            self._copy_into_memory()
        with self.transaction() as cursor:
            if self.dialect == "postgresql":
                cursor.execute(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
            found = self.version()  # once more, now that nobody else can migrate
            for statement in self._creation() if found is None else self._steps(found):
                cursor.execute(statement)

    def _creation(self) -> Iterator[str]:
        dialect = _DIALECTS[self.dialect]
        for table in metadata.sorted_tables:
            yield str(CreateTable(table).compile(dialect=dialect))
            for index in table.indexes:
                yield str(CreateIndex(index).compile(dialect=dialect))
        yield f"INSERT INTO meta VALUES ({VERSION})"

    def _steps(self, found: int) -> Iterator[str]:
        for version in range(found, VERSION):
            yield from STEPS[version]
        yield f"UPDATE meta SET schema_version = {VERSION}"

    # ------------------------------------------------------------------ the connection

    def _open(self) -> None:
        self.close()
        with self._translated():
            self._connection = self._connect_sqlite() if self.dialect == "sqlite" else self._connect_postgresql()

    def _connect_postgresql(self) -> Any:
        uri = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = self._dbapi.connect(uri, autocommit=True)
        if self.readonly:
            connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        return connection

    def _connect_sqlite(self) -> sqlite3.Connection:
        if self._path is None:
            return _sqlite(":memory:")
        mode = "rwc"
        if self.readonly:
            self._immutable = self._look()
            mode = "ro" if self._immutable is None else "ro&immutable=1"
        connection = _sqlite(f"{self._path.as_uri()}?mode={mode}")
        if not self.readonly:
            try:
                connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer never wait
                connection.execute("PRAGMA synchronous = NORMAL")  # kill -9 loses nothing, a power cut the tail
                connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages; its fsyncs are costly
            except sqlite3.Error:
                connection.close()
                raise
        return connection

    def _look(self) -> tuple[int, ...] | None:
        """Return what tells one state of the file from another, or None while there is a write-ahead log."""
        if Path(f"{self._path}-wal").exists():
            return None
        with suppress(OSError):
            stat = Path(f"{self._path}").stat()
            return stat.st_mtime_ns, stat.st_size, stat.st_ino
        return ()

    def _renew(self) -> None:
        if self._connection is None:
            raise ExperimentError(f"{self.where} is closed.")
        if self._lost() or (self._immutable is not None and self._look() != self._immutable):
            self._open()

    def _lost(self) -> bool:
        return bool(getattr(self._connection, "closed", False))

    def _copy_into_memory(self) -> None:
        copy = _sqlite(":memory:")
        with self._translated():
            self._connection.backup(copy)
        self.close()
        self._connection, self._path, self._immutable = copy, None, None

    def _query(self, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor()
        try:
            cursor.execute(text, values)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows
        finally:
            cursor.close()

    @contextmanager
    def _translated(self, conflict: str = "") -> Iterator[None]:
        try:
            yield
        except self._dbapi.IntegrityError as error:
            raise ExperimentError(conflict or f"{self.where}: {error}") from error
        except self._dbapi.Error as error:
            raise ExperimentError(f"{self.where}: {error}") from error


def _sqlite(place: str) -> sqlite3.Connection:
    return sqlite3.connect(
        place,
        uri=place.startswith("file:"),
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _psycopg() -> ModuleType:
    try:
        import psycopg
    except ModuleNotFoundError:
        raise ExperimentError('PostgreSQL needs the driver psycopg: pip install "tune-platform[postgresql]"') from None
    return psycopg
