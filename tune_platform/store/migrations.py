"""A database is brought to the schema version of this code: its tables are made, or migrated, in one transaction."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from sqlalchemy.schema import CreateIndex, CreateTable

from tune_platform.errors import ExperimentError
from tune_platform.store.database import DIALECTS, Database
from tune_platform.store.schema import VERSION, metadata

STEPS: dict[int, tuple[str, ...]] = {
    # from version 1 to 2: where a trial ran; and the log is read back without sorting all reports
    1: (
        "ALTER TABLE trials ADD COLUMN worker TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX reports_by_seq ON reports (experiment, seq)",
    ),
    # from version 2 to 3: the history of one trial is read without the rest of the log
    2: ("CREATE INDEX log_by_trial ON log (experiment, trial, seq)",),
    # from version 3 to 4: effects with their causes, search time, snapshots
    3: (
        "ALTER TABLE log ADD COLUMN stimulus BIGINT",
        "ALTER TABLE log ADD COLUMN elapsed DOUBLE PRECISION DEFAULT 0 NOT NULL",
        "ALTER TABLE experiments ADD COLUMN log_format INTEGER DEFAULT 1 NOT NULL",
        "CREATE TABLE snapshots (experiment BIGINT NOT NULL, seq BIGINT NOT NULL, data TEXT DEFAULT '' NOT NULL, "
        "PRIMARY KEY (experiment, seq))",
    ),
}
"""The statements that lead from each version to the next; the same for SQLite and PostgreSQL."""

_LIST_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
}
_LOCK_KEY = 0x7E5E7A81  # any number: processes that migrate one PostgreSQL database wait for each other


def version(database: Database) -> int | None:
    """Return the schema version, or None where there are no tables yet."""
    tables = {name for (name,) in database.query(_LIST_TABLES[database.dialect])}
    if "meta" not in tables:
        if tables & set(metadata.tables):
            raise ExperimentError(f"{database.where} holds another program's tables; give it its own place.")
        return None
    found = database.query("SELECT schema_version FROM meta")
    return int(found[0][0]) if found else None


def check(database: Database) -> int | None:
    """Return the schema version if this code can read it.

    Raises ExperimentError if it is newer, or if there is nothing to read and no leave to write.
    """
    found = version(database)
    if found is None and database.readonly:
        raise ExperimentError(f"{database.where} holds no experiments.")
    if found is not None and found > VERSION:
        raise ExperimentError(
            f"{database.where} was written by a newer tune_platform (schema version {found}, this one knows "
            f"{VERSION}): upgrade tune_platform to open it."
        )
    return found


def prepare(database: Database) -> None:
    """Make the tables, or bring those of an older version to this one; raises what `check` raises.

    A read-only SQLite database of an older version is copied into memory and migrated there; a read-only
    PostgreSQL one raises ExperimentError.
    """
    found = check(database)
    if found == VERSION:
        return
    if database.readonly:
        if database.dialect != "sqlite":
            raise ExperimentError(
                f"{database.where} has schema version {found}: open it once for writing, for instance by "
                f"resuming an experiment, to migrate it to version {VERSION}."
            )
        database.copy_into_memory()
    with database.transaction() as cursor:
        if database.dialect == "postgresql":
            cursor.execute(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
        found = version(database)  # once more, now that nobody else can migrate
        for statement in _creation(database.dialect) if found is None else _steps(found):
            cursor.execute(statement)


@functools.cache
def _creation(name: str) -> tuple[str, ...]:
    dialect = DIALECTS[name]
    made: list[str] = []
    for table in metadata.sorted_tables:
        made.append(str(CreateTable(table).compile(dialect=dialect)))
        made += [str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes]
    return (*made, f"INSERT INTO meta VALUES ({VERSION})")


def _steps(found: int) -> Iterator[str]:
    for number in range(found, VERSION):
        yield from STEPS[number]
    yield f"UPDATE meta SET schema_version = {VERSION}"
