"""One open database: a long-lived DBAPI connection with explicit transactions.

It runs SQL that is compiled from SQLAlchemy Core statements. A lost connection is made again at the next call; what
the tables are, only `schema.py` knows.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Dialect

from tune_platform.errors import ExperimentError
from tune_platform.extras import require
from tune_platform.location import Location, group_rights, unsafe_for_sqlite

BUSY_SECONDS = 10.0
"""How long a SQLite connection waits for another writer, and PostgreSQL for the rest of a transaction."""

DIALECTS: dict[str, Dialect] = {
    "sqlite": sqlite.dialect(),
    "postgresql": postgresql.psycopg.dialect(paramstyle="format"),  # type: ignore[no-untyped-call]
}
# Locked by another process, or the disk does not answer or is full.
_AWAY = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
}  # fmt: skip
# A server that is gone without a word is noticed after some 30 s; the URL may say otherwise.
_TIMEOUTS = {
    "connect_timeout": 10, "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}  # fmt: skip
_READ_ONLY_SERVER = "25006"  # after a fail-over: the old primary takes no writes any more


class StoreAway(ExperimentError):  # noqa: N818 (a state of the store, not a mistake)
    """The store does not answer now; asked again later, it may."""


def compiled(statement: sa.ClauseElement, dialect: str) -> tuple[str, tuple[Any, ...]]:
    """Return the SQL string of `statement` and its parameters in the order of their places."""
    result: Any = statement.compile(dialect=DIALECTS[dialect])
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
        self.where = str(Location(url.render_as_string(hide_password=False)))
        self.readonly = readonly
        self._url = url
        file = url.database if self.dialect == "sqlite" else None
        self._path = Path(file).absolute() if file and file != ":memory:" else None
        self._immutable: tuple[int, ...] | None = None  # what the file looked like when opened as immutable
        self._lock = threading.RLock()
        self._dbapi: ModuleType = sqlite3 if self.dialect == "sqlite" else _psycopg()
        self._connection: Any = None
        self._closed = False
        self._frozen = False
        self._open()

    @property
    def conflict(self) -> type[Exception]:
        """What is raised within a transaction where a row with the same key exists already."""
        error: type[Exception] = self._dbapi.IntegrityError
        return error

    def another(self) -> Database:
        """Return a second connection to the same place; in memory there is but the one, and it is returned."""
        return self if self.dialect == "sqlite" and self._path is None else Database(self._url, readonly=self.readonly)

    # ------------------------------------------------------------------ use

    @contextmanager
    def transaction(self, conflict: str = "") -> Iterator[Any]:
        """Give a DBAPI cursor inside one write transaction: all or nothing.

        Raises ExperimentError, with the text `conflict` where a row with the same key exists already; StoreAway
        where the connection was lost, and then nobody knows yet whether a COMMIT that was sent has taken place.
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

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have all that is read inside be of one moment, whatever is written meanwhile; other threads wait so long.

        Not to be nested. Raises StoreAway where the connection is lost, or where nobody wrote to a SQLite file before
        and somebody does now.
        """
        with self._lock, self._translated():
            self._renew()
            postgresql = self.dialect == "postgresql"
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ" if postgresql else "BEGIN")
            self._frozen = True
            try:
                yield
            finally:
                self._frozen = False
                with suppress(self._dbapi.Error):
                    if not self._lost():
                        self._connection.execute("ROLLBACK")

    def fetch(self, statement: sa.ClauseElement, *values: Any) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows.

        With `values` the statement is a constant with open places and is compiled once; without, it brings
        its values along. Raises StoreAway where the connection was lost and could not be made again.
        """
        text, places = (sql(statement, self.dialect), values) if values else compiled(statement, self.dialect)
        return self.query(text, places)

    def query(self, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Do the same for a query in SQL."""
        with self._lock, self._translated():
            self._renew()
            try:
                return self._query(text, values)
            except self._dbapi.Error:
                if self._frozen or (self._immutable is None and not self._lost()):
                    raise
                self._open()  # a writer came in the middle, or the server was started again: once more
                return self._query(text, values)

    def close(self) -> None:
        """Close the connection; closing twice does no harm, using it afterwards raises ExperimentError."""
        with self._lock:
            self._closed = True
            self._drop()

    def copy_into_memory(self) -> None:
        """Go on with a copy of the SQLite file in memory, and leave the file as it is."""
        with self._lock, self._translated():
            copy = _sqlite(":memory:")
            self._connection.backup(copy)
            self._drop()
            self._connection, self._path, self._immutable = copy, None, None

    # ------------------------------------------------------------------ the connection

    def _open(self) -> None:
        self._drop()
        with self._translated():
            self._connection = self._connect_sqlite() if self.dialect == "sqlite" else self._connect_postgresql()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _connect_postgresql(self) -> Any:
        uri = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        timeouts = {name: value for name, value in _TIMEOUTS.items() if name not in self._url.query}
        connection = self._dbapi.connect(uri, autocommit=True, **timeouts)
        if self.readonly:
            connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        else:  # a transaction whose client was cut off would keep its locks from us who ask again
            connection.execute(f"SET idle_in_transaction_session_timeout = '{BUSY_SECONDS:.0f}s'")
        return connection

    def _connect_sqlite(self) -> sqlite3.Connection:
        if self._path is None:
            return _sqlite(":memory:")
        mode = "rwc"
        if self.readonly:
            self._immutable = self._look()
            mode = "ro" if self._immutable is None else "ro&immutable=1"
        else:
            if said := unsafe_for_sqlite(self._path.parent):
                raise ExperimentError(said)
            _make_private(self._path)
        connection = _sqlite(f"{self._path.as_uri()}?mode={mode}")
        if not self.readonly:
            try:
                _write_ahead(connection)
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
        if self._closed:
            raise ExperimentError(f"{self.where} is closed.")
        changed = self._immutable is not None and self._look() != self._immutable
        if self._frozen and (changed or self._lost()):
            raise StoreAway(f"{self.where}: somebody has begun to write to it, or it went away: ask again")
        if changed or self._lost():
            self._open()

    def _lost(self) -> bool:
        return self._connection is None or bool(getattr(self._connection, "closed", False))

    def _query(self, text: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
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
            away = self._is_away(error)
            if away and self.dialect == "postgresql":
                self._drop()  # what is left of it may be another server's by now
            raise (StoreAway if away else ExperimentError)(f"{self.where}: {error}{self._not_ours()}") from error

    def _not_ours(self) -> str:
        """Say that a file of SQLite's may not be written, of which its own message says nothing; else nothing."""
        if self.readonly or self._path is None or not self._path.exists():
            return ""
        shut = [str(path) for path in (self._path.parent, self._path) if not os.access(path, os.W_OK)]
        return f"; {shut[0]} can be read but not written: it is on a read-only disk, or somebody else's" if shut else ""

    def _is_away(self, error: Exception) -> bool:
        if self.dialect == "sqlite":
            return getattr(error, "sqlite_errorcode", -1) & 0xFF in _AWAY
        if getattr(error, "sqlstate", None) == _READ_ONLY_SERVER:
            return not self.readonly
        return isinstance(error, (self._dbapi.OperationalError, self._dbapi.InterfaceError))


def _make_private(path: Path) -> None:
    """Make a file for its owner, and for the group as far as its folder is; its journal will be as it is."""
    with suppress(OSError):  # there already; or SQLite will say what is wrong
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.fchmod(descriptor, 0o600 | group_rights(path.parent) & 0o060)
        finally:
            os.close(descriptor)


def _sqlite(place: str) -> sqlite3.Connection:
    return sqlite3.connect(
        place,
        uri=place.startswith("file:"),
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log, with which readers and the writer never wait.

    SQLite does not wait for its turn here where somebody else is about to write: it would be in that one's way.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _psycopg() -> ModuleType:
    require("a store in PostgreSQL", "psycopg")
    import psycopg

    return psycopg
