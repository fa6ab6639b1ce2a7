"""The tables, and how the rows of `records.py` are written in them. `docs/files.md` is the page for people.

SQLAlchemy Core says things once for SQLite and PostgreSQL; the statements are compiled to SQL strings (see
`migrations.Database`), since a report must cost microseconds. Every table is keyed by the experiment, so that
one PostgreSQL database holds many. JSON lies in TEXT columns: PostgreSQL's own JSON types know no NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tune_platform.errors import SpecError
from tune_platform.store.records import CheckpointRow, LogRow, ReportRow, RequestRow, TrialRow

VERSION = 3
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
)

log = _table(
    "log",
    _key("experiment"),
    _key("seq"),
    _number("time"),
    _string("kind"),
    _int("trial", null=True),
    _string("data"),
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

trials = _table(
    "trials",
    _key("experiment"),
    _key("trial"),
    _string("status"),
    _string("config"),
    _string("reason"),
    _string("origin"),
    _int("attempt"),
    _int("step"),
    _string("metrics"),
    _number("best", null=True),
    _int("best_step", null=True),
    _string("error"),
    _number("created"),
    _number("started", null=True),
    _number("ended", null=True),
    _string("worker"),
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


# ------------------------------------------------------------------------------------------ JSON


def _plain(value: Any) -> Any:
    """Turn a numpy scalar or a one-element tensor into a number; called for what JSON does not know."""
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(type(value).__name__)
    return item()


# Circular data ends in a RecursionError, which `encode` reports; the check for it costs a third of the time.
_dumps = json.JSONEncoder(check_circular=False, separators=(",", ":"), default=_plain).encode


def encode(data: Mapping[str, Any], what: str = "value") -> str:
    """Return `data` as JSON of ASCII characters, with NaN, Infinity and -Infinity as tokens.

    Numpy scalars and tensors of one element become numbers, tuples become lists. Raises SpecError that names
    the `what` (for instance "metric") which is no JSON value.
    """
    try:
        return _dumps(data if type(data) is dict else dict(data))
    except (TypeError, ValueError, RuntimeError, RecursionError) as error:
        for key, value in data.items():
            try:
                _dumps({key: value})
            except (TypeError, ValueError, RuntimeError, RecursionError):
                raise SpecError(
                    f"{what} {key!r} cannot be stored: {type(value).__name__} is not JSON. "
                    "Allowed are numbers, strings, booleans, None, lists and dicts with string keys; numpy "
                    "scalars and one-element tensors are converted. Give for instance float(value)."
                ) from error
        raise


decode = json.loads
"""The inverse of `encode`."""


def text(value: str) -> str:
    """Return `value` with NUL and lone surrogates, which a TEXT column cannot hold, as visible escapes."""
    if value.isascii():
        return value.replace("\0", "\\x00") if "\0" in value else value
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _finite(value: float | None) -> float | None:
    # SQLite stores NaN as NULL; do the same everywhere. An infinity is kept.
    return None if value is None or math.isnan(value) else float(value)


def _maybe(value: float | None) -> float | None:
    return None if value is None else float(value)


# ------------------------------------------------------------------------------------------ rows
# In the order of the columns above; the reading side gets the columns without `experiment`.


_TRIAL_FIELDS = tuple(column.name for column in trials.columns)[1:]


def log_values(experiment: int, row: LogRow) -> tuple[Any, ...]:
    """Return the columns of a log row."""
    return experiment, row.seq, float(row.time), row.kind, row.trial, encode(row.data, "field")


def report_values(experiment: int, row: ReportRow) -> tuple[Any, ...]:
    """Return the columns of a report."""
    return experiment, row.trial, row.step, row.seq, float(row.time), encode(row.metrics, "metric")


def trial_values(experiment: int, row: TrialRow) -> tuple[Any, ...]:
    """Return the columns of a trial."""
    return (
        experiment,
        row.trial,
        row.status,
        encode(row.config, "parameter"),
        text(row.reason),
        text(row.origin),
        row.attempt,
        row.step,
        encode(row.metrics, "metric"),
        _finite(row.best),
        row.best_step,
        text(row.error),
        float(row.created),
        _maybe(row.started),
        _maybe(row.ended),
        text(row.worker),
    )


def checkpoint_values(experiment: int, row: CheckpointRow) -> tuple[Any, ...]:
    """Return the columns of a checkpoint."""
    return experiment, row.trial, row.uri, row.step, row.bytes, row.deleted


def to_logs(rows: Sequence[Sequence[Any]]) -> list[LogRow]:
    """Build log rows from their columns."""
    pairs = zip(rows, _decode_last(rows), strict=True)
    return [LogRow(seq, time, kind, trial, data) for (seq, time, kind, trial, _), data in pairs]


def to_reports(rows: Sequence[Sequence[Any]]) -> list[ReportRow]:
    """Build reports from their columns."""
    pairs = zip(rows, _decode_last(rows), strict=True)
    return [ReportRow(trial, step, seq, time, metrics) for (trial, step, seq, time, _), metrics in pairs]


def _decode_last(rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    # One call for all rows: twice as fast as one each.
    values: list[dict[str, Any]] = decode(f"[{','.join([row[-1] for row in rows])}]")
    return values


def to_trial(row: Sequence[Any]) -> TrialRow:
    """Build a trial from its columns."""
    values = dict(zip(_TRIAL_FIELDS, row, strict=True))
    return TrialRow(**values | {"config": decode(values["config"]), "metrics": decode(values["metrics"])})


def to_checkpoint(row: Sequence[Any]) -> CheckpointRow:
    """Build a checkpoint from its columns."""
    trial, uri, step, size, deleted = row
    return CheckpointRow(trial=trial, step=step, uri=uri, bytes=size, deleted=bool(deleted))


def to_request(row: Sequence[Any]) -> RequestRow:
    """Build a request from its columns."""
    number, time, action, trial, data = row
    return RequestRow(number, time, action, trial, decode(data))


def columns(table: sa.Table) -> list[sa.Column[Any]]:
    """Return the columns of `table` without `experiment`, in the order that the `to_...` functions take."""
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
BEAT = (
    sa.update(experiments)
    .values(heartbeat=sa.func.coalesce(sa.bindparam("now", type_=sa.Double), experiments.c.heartbeat))
    .where(experiments.c.id == _place("experiment"), experiments.c.driver == sa.bindparam("mine", type_=sa.Text))
)
BEAT_UNLEASED = (
    sa.update(experiments)
    .values(heartbeat=sa.bindparam("now", type_=sa.Double))
    .where(experiments.c.id == _place("experiment"))
)
TAKE = (
    sa.update(experiments)
    .values({name: sa.bindparam(f"new_{name}") for name in ("status", "reason", "heartbeat", "driver")})
    .where(experiments.c.id == _place("experiment"))
)
LOCK_EXPERIMENT = (
    sa.select(experiments.c.status, experiments.c.driver, experiments.c.heartbeat)
    .where(experiments.c.id == _place("experiment"))
    .with_for_update()
)
ADD_EXPERIMENT = sa.insert(experiments).values(
    {name: sa.bindparam(f"new_{name}") for name in ("name", "spec", "status", "reason", "created", "heartbeat")}
)
ADD_REQUEST = sa.insert(requests)
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
READ_REQUESTS = (
    sa.select(*columns(requests))
    .where(requests.c.experiment == _place("experiment"), requests.c.id > _place("after"))
    .order_by(requests.c.id)
)
