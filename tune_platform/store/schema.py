"""The tables, and the statements on them. `docs/files.md` is the page for people.

SQLAlchemy Core says things once for SQLite and PostgreSQL; the statements are compiled to SQL strings (see
`database.Database`), since a report must cost microseconds. Every table is keyed by the experiment, so that
one PostgreSQL database holds many.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tune_platform.store.records import TrialRow

VERSION = 4
"""Version of the tables that this code writes; `migrations.STEPS` brings older ones up to it."""

metadata = sa.MetaData()


def _key(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def _int(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=null)


def _number(name: str, *, null: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=null)


def _string(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _table(name: str, *columns: sa.Column[Any]) -> sa.Table:
    # WITHOUT ROWID: the rows lie in the order of their primary key, one tree in place of two.
    return sa.Table(name, metadata, *columns, sqlite_with_rowid=False)


meta = sa.Table("meta", metadata, sa.Column("schema_version", sa.Integer, nullable=False))

experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    _string("spec"),
    _string("status"),
    _string("reason"),
    _number("created"),
    _number("heartbeat"),
    _string("driver"),
    sa.Column("log_format", sa.Integer, nullable=False, server_default=sa.text("1")),
)

log = _table(
    "log",
    _key("experiment"),
    _key("seq"),
    _number("time"),
    _string("kind"),
    _int("trial", null=True),
    _string("data"),
    _int("stimulus", null=True),
    sa.Column("elapsed", sa.Double, nullable=False, server_default=sa.text("0")),
)

# The history of one trial; the rows that concern all of them have none.
sa.Index("log_by_trial", log.c.experiment, log.c.trial, log.c.seq)

reports = _table(
    "reports",
    _key("experiment"),
    _key("trial"),
    _key("step"),
    _int("seq"),
    _number("time"),
    _string("metrics"),
)
# Reading the log back merges it with its reports in the order of `seq`.
sa.Index("reports_by_seq", reports.c.experiment, reports.c.seq)

#: The columns of a trial, by the type of its field.
_COLUMN: Mapping[str, Callable[[str], sa.Column[Any]]] = {
    "int": _int,
    "float": _number,
    "str": _string,
    "int | None": partial(_int, null=True),
    "float | None": partial(_number, null=True),
    "Mapping[str, Any]": _string,
}
trials = _table(
    "trials",
    _key("experiment"),
    _key("trial"),
    *(_COLUMN[str(field.type)](field.name) for field in fields(TrialRow) if field.name != "trial"),
)
sa.Index("trials_by_status", trials.c.experiment, trials.c.status)

checkpoints = _table(
    "checkpoints",
    _key("experiment"),
    _key("trial"),
    sa.Column("uri", sa.Text, primary_key=True),
    _int("step"),
    _int("bytes"),
    sa.Column("deleted", sa.Boolean, nullable=False),
)

requests = _table(
    "requests", _key("experiment"), _key("id"), _number("time"), _string("action"), _int("trial", null=True),
    _string("data"),
)  # fmt: skip

# With row ids: a tree that is sorted by its key would hold the large texts.
snapshots = sa.Table("snapshots", metadata, _key("experiment"), _key("seq"), _string("data"))


def columns(table: sa.Table) -> list[sa.Column[Any]]:
    """Return the columns of `table` without `experiment`, in the order that the functions of `rows.py` take."""
    return [column for column in table.columns if column.name != "experiment"]


# ------------------------------------------------------------------------------------------ statements
# Built once and compiled once per dialect; the places are filled in the order of the text.


def _upsert(table: sa.Table) -> dict[str, sa.ClauseElement]:
    # The same text for both, but SQLAlchemy has a construct for each.
    statements: dict[str, sa.ClauseElement] = {}
    for dialect, insert in (("sqlite", sqlite.insert(table)), ("postgresql", postgresql.insert(table))):
        changed = {c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key}
        statements[dialect] = insert.on_conflict_do_update(index_elements=table.primary_key.columns, set_=changed)
    return statements


def _place(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=sa.BigInteger)


ADD_LOG = sa.insert(log)
ADD_REPORTS = sa.insert(reports)
SET_TRIALS = _upsert(trials)
SET_CHECKPOINTS = _upsert(checkpoints)
SET_SNAPSHOT = _upsert(snapshots)
_newest = sa.select(snapshots.c.seq).where(snapshots.c.experiment == _place("same")).order_by(snapshots.c.seq.desc())
DROP_SNAPSHOTS = sa.delete(snapshots).where(
    snapshots.c.experiment == _place("experiment"),
    snapshots.c.seq.not_in(_newest.limit(sa.literal_column("2")).offset(sa.literal_column("0"))),
)
READ_LOG_FORMAT = sa.select(experiments.c.log_format).where(experiments.c.id == _place("experiment"))
SET_LOG_FORMAT = (
    sa.update(experiments)
    .values(log_format=sa.bindparam("new_format", type_=sa.Integer))
    .where(experiments.c.id == _place("experiment"))
)
DROP_LOG = sa.delete(log).where(log.c.experiment == _place("experiment"))
MOVE_REPORTS = (
    sa.update(reports)
    .values(seq=sa.bindparam("new_seq", type_=sa.BigInteger))
    .where(reports.c.experiment == _place("experiment"), reports.c.seq == _place("former"))
)
BEAT = (
    sa.update(experiments)
    .values(heartbeat=sa.bindparam("now", type_=sa.Double))
    .where(
        experiments.c.id == _place("experiment"),
        experiments.c.driver == sa.bindparam("mine", type_=sa.Text),
        experiments.c.status == sa.literal_column("'running'"),
    )
)
TAKE = (
    sa.update(experiments)
    .values({name: sa.bindparam(f"new_{name}") for name in ("status", "reason", "heartbeat", "driver")})
    .where(experiments.c.id == _place("experiment"))
)
READ_LEASE = sa.select(experiments.c.status, experiments.c.driver, experiments.c.heartbeat).where(
    experiments.c.id == _place("experiment")
)
LOCK_EXPERIMENT = READ_LEASE.with_for_update()
_NEW = ("name", "spec", "status", "reason", "created", "heartbeat", "driver", "log_format")
ADD_EXPERIMENT = sa.insert(experiments).values({name: sa.bindparam(f"new_{name}") for name in _NEW})
ADD_REQUEST = sa.insert(requests)
READ_TAGS = (
    sa.select(requests.c.data)
    .where(requests.c.experiment == _place("experiment"), requests.c.action == sa.literal_column("'tag'"))
    .order_by(requests.c.id)
)
LAST_REQUEST = sa.select(sa.func.max(requests.c.id)).where(requests.c.experiment == _place("experiment"))
LAST_SEQ = sa.select(sa.func.max(log.c.seq)).where(log.c.experiment == _place("experiment"))
READ_LOG = (
    sa.select(*columns(log))
    .where(log.c.experiment == _place("experiment"), log.c.seq > _place("after"))
    .order_by(log.c.seq)
    .limit(_place("chunk"))
    .offset(sa.literal_column("0"))  # without it SQLAlchemy adds a place of its own for SQLite
)
READ_BATCHES = (
    sa.select(*columns(reports))
    .where(reports.c.experiment == _place("experiment"), reports.c.seq.between(_place("first"), _place("last")))
    .order_by(reports.c.seq, reports.c.trial, reports.c.step)
)
TOUCHED = (
    sa.select(log.c.trial)
    .where(log.c.experiment == _place("experiment"), log.c.seq > _place("after"), log.c.seq <= _place("until"))
    .distinct()
)
READ_NEWS = (
    sa.select(*columns(reports))
    .where(
        reports.c.experiment == _place("experiment"),
        reports.c.seq > _place("after"),
        reports.c.seq <= _place("until"),
        sa.or_(reports.c.step % _place("stride") == sa.literal_column("0"), reports.c.step == sa.literal_column("1")),
    )
    .order_by(reports.c.seq, reports.c.trial, reports.c.step)
    .limit(_place("chunk"))
    .offset(_place("first"))
)
READ_EXPERIMENT = sa.select(
    *(experiments.c[name] for name in ("spec", "status", "reason", "created", "heartbeat", "driver"))
).where(experiments.c.id == _place("experiment"))
NEXT_EXPERIMENT = sa.select(sa.func.min(experiments.c.id)).where(experiments.c.id > _place("experiment"))
FIND_EXPERIMENT = sa.select(experiments.c.id).where(
    experiments.c.name == sa.bindparam("name", type_=experiments.c.name.type)
)
READ_SPEC = sa.select(experiments.c.spec).where(experiments.c.id == _place("experiment"))
COUNT_STATES = (
    sa.select(trials.c.status, sa.func.count())
    .where(trials.c.experiment == _place("experiment"))
    .group_by(trials.c.status)
)
READ_BEST = (
    sa.select(trials.c.trial, trials.c.best)
    .where(trials.c.experiment == _place("experiment"), trials.c.best.is_not(None))
    .order_by(trials.c.trial)
)
READ_SNAPSHOT = (
    sa.select(*columns(snapshots))
    .where(snapshots.c.experiment == _place("experiment"), snapshots.c.seq < _place("before"))
    .order_by(snapshots.c.seq.desc())
    .limit(sa.literal_column("1"))
    .offset(sa.literal_column("0"))
)
READ_REQUESTS = (
    sa.select(*columns(requests))
    .where(requests.c.experiment == _place("experiment"), requests.c.id > _place("after"))
    .order_by(requests.c.id)
)


@functools.cache
def log_of(kinds: tuple[str, ...]) -> sa.Select[Any]:
    """Return the query of the log rows of some kinds; its places are experiment, until, after and chunk."""
    return (
        sa.select(*columns(log))
        .where(log.c.experiment == _place("experiment"), log.c.seq <= _place("until"), log.c.seq > _place("after"))
        .where(sa.or_(*(log.c.kind == sa.literal_column(f"'{kind}'") for kind in kinds)))
        .order_by(log.c.seq)
        .limit(_place("chunk"))
        .offset(sa.literal_column("0"))
    )


@functools.cache
def trials_of(many: int) -> sa.Select[Any]:
    """Return the query of so many trials by their numbers; its places are the experiment and they."""
    numbers = sa.or_(*(trials.c.trial == _place(f"trial_{each}") for each in range(many)))
    found = sa.select(*columns(trials)).where(trials.c.experiment == _place("experiment"), numbers)
    return found.order_by(trials.c.trial)
