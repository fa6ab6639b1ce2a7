"""Removes an experiment with all that it wrote: its rows or its file, its checkpoints, the folders of its trials."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from tune_platform.errors import CheckpointError, ExperimentError, did_you_mean
from tune_platform.store import schema
from tune_platform.store.checkpoints import CheckpointStorage
from tune_platform.store.experiment import SqlExperiment
from tune_platform.store.sql import FILE_NAME, REMOVED, SqlStore

_OWN = ("checkpoints", "trials")  # folders of an experiment whose tables are in a database elsewhere


class Removed(NamedTuple):
    """What a removal gave back: `bytes` of files, `trials` that there were."""

    bytes: int
    trials: int


def remove(store: SqlStore, name: str) -> Removed:
    """Remove the experiment of this very name. It is gone at once or not at all, whenever this is interrupted.

    Raises ExperimentError if there is none, if somebody drives it (naming who), or if it cannot be read: then nothing
    was removed.
    """
    sweep(store)
    names = store.names()
    if name not in names:
        raise ExperimentError(f"there is no experiment {name!r} in {store.location}{did_you_mean(name, names)}")
    if store.folder is not None:
        return _remove_folder(store.folder, store, name)
    with store.open(name, exact=True) as experiment:
        row = experiment.row()
        experiment.acquire()
        experiment.rename(_hidden(name))
        return Removed(_delete(experiment), sum(row.counts.values()))


def sweep(store: SqlStore) -> None:
    """Delete what is left of removals that were interrupted."""
    if store.folder is not None:
        for path in list(store.folder.glob(f"{REMOVED}*")):
            _empty(path)
        return
    for name in store.names(removed=True):
        with suppress(ExperimentError), store.open(name, exact=True) as experiment:  # else somebody is at it
            experiment.acquire()
            _delete(experiment)


# ------------------------------------------------------------------------------------------ inside
# First the experiment gets a name that nobody sees, in one step: from then on it is gone, and whoever comes next can
# still find what is to be deleted.


def _hidden(name: str) -> str:
    return f"{REMOVED}{uuid.uuid4().hex[:8]}-{name}"


def _named(hidden: str) -> str:
    return hidden.removeprefix(REMOVED)[9:]


def _delete(experiment: SqlExperiment) -> int:
    """Delete the files and then the rows of an experiment in a database that was renamed; return the files' bytes."""
    name = _named(experiment.name)
    freed = sum(map(_delete_folder, _homes(name, _places_of(experiment)))) + _clear_checkpoints(experiment.spec, name)
    experiment.delete_rows()
    return freed


def _remove_folder(folder: Path, store: SqlStore, name: str) -> Removed:
    hidden = folder / _hidden(name)
    if store.is_unmade(name):  # its making was cut short: there is no lease that anybody could hold
        (folder / name).rename(hidden)
        return Removed(_empty(hidden), 0)
    with store.open(name, exact=True) as experiment:
        row = experiment.row()
        experiment.acquire()
    # The connection is closed before, as SQLite would tidy up at the old place; this process still holds the lease.
    try:
        (folder / name).rename(hidden)
    except OSError as error:
        with store.open(name, exact=True) as experiment:
            experiment.acquire(force=True)
            experiment.set_status(row.status, row.reason, row.heartbeat)
        raise ExperimentError(f"{folder / name} cannot be removed: {error.strerror or error}") from error
    return Removed(_empty(hidden), sum(row.counts.values()))


def _empty(hidden: Path) -> int:
    """Delete a folder that was renamed, and the checkpoints that lie elsewhere."""
    freed = 0
    with suppress(ExperimentError, OSError, IndexError, ValueError):
        freed += _clear_checkpoints(_spec_in(hidden / FILE_NAME), _named(hidden.name))
    return freed + _delete_folder(hidden)


def _spec_in(file: Path) -> Mapping[str, Any]:
    from tune_platform.store import rows
    from tune_platform.store.database import Database

    database = Database(sa.URL.create("sqlite", database=str(file)), readonly=True)
    try:
        spec: Mapping[str, Any] = rows.decode(database.fetch(sa.select(schema.experiments.c.spec))[0][0])
        return spec
    finally:
        database.close()


def _clear_checkpoints(spec: Mapping[str, Any], name: str) -> int:
    """Delete the checkpoints that a spec puts elsewhere than beside the results; return their bytes."""
    given = (spec.get("checkpoint") or {}).get("storage")
    if not given:
        return 0
    with suppress(CheckpointError):
        return CheckpointStorage(f"{str(given).rstrip('/')}/{name}").clear()
    return 0


def _places_of(experiment: SqlExperiment) -> set[Path]:
    """Return the folders on this machine that an experiment in a database has put checkpoints in."""
    roots = {row.uri.rsplit("/", 2)[0] for row in experiment.checkpoints(include_deleted=True) if row.uri[:1] == "/"}
    return {Path(root) for root in roots}


def _homes(name: str, places: set[Path]) -> list[Path]:
    """Return the folders of an experiment that is in a database: that of the present folder, and its checkpoints'."""
    homes = {Path("tune_results", name).absolute()}
    homes |= {root.parent for root in places if root.name == _OWN[0] and root.parent.name == name}
    return [home / own for home in homes if not (home / FILE_NAME).exists() for own in _OWN]


def _delete_folder(path: Path) -> int:
    """Delete a folder, and the one around it if that is empty then; return the bytes of its files."""
    if path.is_symlink():
        target = path.resolve()
        path.unlink()
        return _delete_folder(target)
    freed = 0
    for folder, _, files in os.walk(path):
        for file in files:
            with suppress(OSError):
                freed += Path(folder, file).lstat().st_size
    shutil.rmtree(path, ignore_errors=True)
    if path.name in _OWN:
        with suppress(OSError):
            path.parent.rmdir()
    return freed
