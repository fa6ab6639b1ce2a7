"""Experiments in SQLite or PostgreSQL: an append-only log, its projections, an inbox for people's requests.

`open_store` gives a `SqlStore` (many experiments), which gives a `SqlExperiment` (one). Only the driver that
holds an experiment's lease appends; any process may read, or leave a request, at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from tune_platform.errors import ExperimentError, NameTakenError, SpecError, did_you_mean
from tune_platform.location import Location, impossible, private_folder, unsafe_for_sqlite
from tune_platform.store import lease, migrations, rows, schema
from tune_platform.store.database import Database, sql
from tune_platform.store.experiment import SqlExperiment
from tune_platform.store.reader import CREATED, read_experiment
from tune_platform.store.records import LOG_FORMAT, ExperimentRow

__all__ = ["FILE_NAME", "SqlExperiment", "SqlStore", "open_store"]

FILE_NAME = "experiment.db"
"""Name of the SQLite file in an experiment's folder."""

REMOVED = ".removed-"
"""How the names of folders begin whose experiment is being removed."""

_E = schema.experiments.c


def open_store(location: str | Path) -> SqlStore:
    """Open the store at a directory, or at a SQLAlchemy URL of SQLite or PostgreSQL.

    In a directory each experiment has its own folder with its own SQLite file; nothing is made before the
    first experiment is. It must be on a local disk: where machines share a file system use PostgreSQL.
    Raises SpecError for any other URL.
    """
    place = Location(location)
    if not place.is_url:
        return SqlStore(Path(place).expanduser().absolute(), Location(Path(place).expanduser().absolute()))
    try:
        url = make_url(place.unmasked.replace("postgres://", "postgresql://", 1))
    except (sa.exc.ArgumentError, ValueError):
        url = make_url("unknown://")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise SpecError(
            f"a store cannot be opened at {str(place)!r}: give a directory, sqlite:///file.db or "
            "postgresql://user@host/database (checkpoints may lie on any fsspec path, the store may not)."
        )
    return SqlStore(url, place)


class SqlStore:
    """All experiments of one place. Made by `open_store`; close it, or use it in a with statement."""

    def __init__(self, place: Path | URL, location: Location) -> None:
        self._place, self.location = place, location
        self._in_memory = isinstance(place, URL) and place.database in (None, "", ":memory:")
        self.folder = place if isinstance(place, Path) else None
        self._listing: Database | None = None  # of a URL; in memory it is the only one, used by every experiment

    def __enter__(self) -> SqlStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self, *, removed: bool = False) -> list[str]:
        """Return the names of all experiments, sorted; opens no file of a directory.

        With `removed`, the names by which those are hidden whose removal is on its way, or was interrupted.
        """
        return [name for name in self._all_names() if name.startswith(REMOVED) == removed]

    def _all_names(self) -> list[str]:
        if isinstance(self._place, Path):
            return self._names_in_folder(self._place)
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
        return [
            read_experiment(database, number, name)
            for number, name in found
            if database and not name.startswith(REMOVED)
        ]

    def create(self, name: str, spec: Mapping[str, Any], created: float) -> SqlExperiment:
        """Make a new experiment and open it for writing; `created` is in seconds since the epoch.

        Raises NameTakenError if the name is taken, ExperimentError if it cannot name a folder or if the folder holds
        something else, SpecError if `spec` is not JSON.
        """
        _check_name(name)
        values = (
            name,
            rows.encode(spec, "spec field"),
            "interrupted",
            CREATED,
            created,
            created,
            lease.new_driver(),  # until it has a lease, too, nobody is to think it forsaken
            LOG_FORMAT,
        )
        self._make_folder(name)
        database = self._database(name, readonly=False)
        taken = f"experiment {name!r} exists already in {self.location}: resume it or choose another name."
        try:
            migrations.prepare(database)
            with database.transaction() as cursor:
                if self._find(database, name) is not None:
                    raise NameTakenError(taken, name)
                try:
                    cursor.execute(sql(schema.ADD_EXPERIMENT, database.dialect), values)
                except database.conflict as error:  # another process was quicker
                    raise NameTakenError(taken, name) from error
            return self._experiment(database, name)
        except BaseException:
            self._release(database)
            raise

    def find(self, name: str, *, exact: bool = False) -> str:
        """Return the whole name of an experiment, given that or, unless `exact`, its unique beginning.

        Raises ExperimentError if there is none.
        """
        names = self.names()
        if name in names or (exact and name in self._all_names()):
            return name
        longer = [known for known in names if name and known.startswith(name)]
        if len(longer) != 1 or exact:
            hint = f" (could be {', '.join(longer[:5])})" if longer else did_you_mean(name, names)
            raise ExperimentError(f"there is no experiment {name!r} in {self.location}{hint}")
        return longer[0]

    def row(self, name: str) -> ExperimentRow:
        """Return the row of the experiment of this very name, as `experiments` does."""
        return self._peek(name)

    def is_idle_start(self, name: str) -> bool:
        """Whether the experiment of this very name never began a trial, and nobody is about to."""
        try:
            with self.open(name, readonly=True, exact=True) as experiment:
                return not experiment.begun() and not experiment.driven()
        except ExperimentError:
            return False

    def is_unmade(self, name: str) -> bool:
        """Whether the making of an experiment in a folder was cut short, so that it has no row."""
        database = self._database(name, readonly=True)
        try:
            return migrations.version(database) is None or self._find(database, name) is None
        finally:
            database.close()

    def open(self, name: str, readonly: bool = False, *, exact: bool = False) -> SqlExperiment:
        """Open an experiment by its name or, unless `exact`, by the unique beginning of its name.

        A read-only one makes no files, never blocks its driver and follows what that appends.
        Raises ExperimentError if there is none, or if it cannot be read.
        """
        name = self.find(name, exact=exact)
        database = self._database(name, readonly=readonly)
        try:
            migrations.prepare(database)
            return self._experiment(database, name)
        except BaseException:
            self._release(database)
            raise

    def close(self) -> None:
        """Close the store's own connection; experiments that were opened stay open (except in memory)."""
        if self._listing is not None:
            self._listing.close()
            self._listing = None

    def _names_in_folder(self, folder: Path) -> list[str]:
        """Return the names of the folders with an experiment."""
        if said := impossible(folder):
            raise ExperimentError(said)
        try:
            found = [path.name for path in folder.iterdir()] if folder.exists() else []
            return sorted(name for name in found if (folder / name / FILE_NAME).exists())
        except OSError as error:
            raise ExperimentError(f"{folder} cannot be read: {error.strerror or error}") from error

    def _make_folder(self, name: str) -> None:
        if not isinstance(self._place, Path):
            return
        if said := impossible(self._place) or unsafe_for_sqlite(self._place):
            raise ExperimentError(said)
        try:
            private_folder(self._place, name)
            inside = {path.name for path in (self._place / name).iterdir()} - {"checkpoints", "trials"}
            # Another process may be making the file at this moment, and SQLite its journal.
            foreign = {each for each in inside if not each.startswith(FILE_NAME)}
            if foreign and foreign == inside:  # the experiment would be removed with all that is in the folder
                raise ExperimentError(
                    f"{self._place / name} holds other files already, such as {min(foreign)!r}; choose another name"
                )
        except OSError as error:
            raise ExperimentError(f"{self._place / name} cannot be made: {error.strerror or error}") from error

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
        return None if migrations.version(self._listing) is None else self._listing

    def _release(self, database: Database) -> None:
        if database is not self._listing:
            database.close()

    def _find(self, database: Database, name: str) -> int | None:
        # A folder holds one experiment, whatever name it had before somebody copied or renamed the folder.
        alone = isinstance(self._place, Path)
        found = database.fetch(schema.NEXT_EXPERIMENT, 0) if alone else database.fetch(schema.FIND_EXPERIMENT, name)
        return int(found[0][0]) if found and found[0][0] is not None else None

    def _experiment(self, database: Database, name: str) -> SqlExperiment:
        number = self._find(database, name)
        if number is None:
            raise ExperimentError(f"{database.where} holds no experiment: its making was cut short. Create it again.")
        return SqlExperiment(database, number, name, shared=database is self._listing)

    def _peek(self, name: str) -> ExperimentRow:
        try:
            database = self._database(name, readonly=True)
            try:
                migrations.check(database)  # an older version is not migrated: what is read here was always there
                number = self._find(database, name)
                if number is None:
                    raise ExperimentError("its making was cut short")
                return read_experiment(database, number, name)
            finally:
                database.close()
        except (ExperimentError, OSError, ValueError) as error:
            return ExperimentRow(name=name, spec={}, status="unreadable", reason=str(error))


# ------------------------------------------------------------------------------------------ helpers


def _check_name(name: str) -> None:
    if not name or not name.isprintable() or name[0] in ". " or set(name) & set("/\\") or len(name.encode()) > 200:
        raise ExperimentError(
            f"an experiment cannot be named {name!r}: a name is up to 200 bytes of printable text without "
            "slashes, and begins with neither a dot nor a space."
        )
