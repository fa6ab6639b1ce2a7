"""How the rows of `records.py` are written in the tables of `schema.py`, and read from them.

JSON lies in TEXT columns: PostgreSQL's own JSON types know no NaN. Reading wants the columns in the order of
`schema.columns`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import Field, fields
from functools import partial
from operator import attrgetter
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.store import schema
from tune_platform.store.records import CheckpointRow, LogRow, ReportRow, RequestRow, TrialRow

# ------------------------------------------------------------------------------------------ JSON


def _plain(value: Any) -> Any:
    """Turn a numpy scalar or a one-element tensor into a number; called for what JSON does not know."""
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(type(value).__name__)
    return item()


def _encoder() -> Callable[[Any], str]:
    # Circular data ends in a RecursionError, which `encode` reports; the check for it costs a third of the time.
    encoder = json.JSONEncoder(check_circular=False, separators=(",", ":"), default=_plain)
    try:  # `JSONEncoder.encode` would make this anew for each value, which takes as long again as to use it
        chunks = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, _plain, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
        )
    except (AttributeError, TypeError):  # not this Python's
        return encoder.encode
    return lambda value: "".join(chunks(value, 0))


_dumps = _encoder()


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


# ------------------------------------------------------------------------------------------ rows
# For writing in the order of the tables; the reading side gets the columns without `experiment`.


def _writer(field: Field[Any]) -> Callable[[Any], Any] | None:
    """Return what turns the values of a trial's field into those of its column; None where they are the same."""
    if "what" in field.metadata:
        return partial(encode, what=str(field.metadata["what"]))
    writers: dict[str, Callable[[Any], Any]] = {"str": text, "float": float, "float | None": _finite}
    return writers.get(str(field.type))


_FIELDS = {field.name: field for field in fields(TrialRow)}
_TRIAL = [column.name for column in schema.columns(schema.trials)]
_of_trial = attrgetter(*_TRIAL)
_TRIAL_WRITERS = [
    (place, writer) for place, name in enumerate(_TRIAL) if (writer := _writer(_FIELDS[name])) is not None
]
_DECODED = [name for name, field in _FIELDS.items() if "what" in field.metadata]


def log_values(experiment: int, row: LogRow) -> tuple[Any, ...]:
    """Return the columns of a log row."""
    seq, time, kind, trial, data, stimulus, elapsed = row
    return experiment, seq, float(time), kind, trial, encode(data, "field"), stimulus, float(elapsed)


def report_values(experiment: int, row: ReportRow) -> tuple[Any, ...]:
    """Return the columns of a report."""
    trial, step, seq, time, metrics = row
    return experiment, trial, step, seq, float(time), encode(metrics, "metric")


def trial_values(experiment: int, row: TrialRow) -> tuple[Any, ...]:
    """Return the columns of a trial."""
    values = list(_of_trial(row))
    for place, write in _TRIAL_WRITERS:
        values[place] = write(values[place])
    return experiment, *values


def checkpoint_values(experiment: int, row: CheckpointRow) -> tuple[Any, ...]:
    """Return the columns of a checkpoint."""
    return experiment, row.trial, row.uri, row.step, row.bytes, row.deleted


Damaged = Callable[[str, Sequence[Any], str], None]
"""Called for a row that cannot be read, with its table, its columns and what is wrong; to raise, or to do without."""


def to_logs(found: Sequence[Sequence[Any]], damaged: Damaged) -> list[LogRow]:
    """Build log rows from their columns."""
    found, data = _decode_all("log", found, 4, damaged)
    if not found:
        return []
    *head, _, stimulus, elapsed = zip(*found, strict=True)
    return list(map(LogRow._make, zip(*head, data, stimulus, elapsed, strict=True)))


def to_reports(found: Sequence[Sequence[Any]], damaged: Damaged) -> list[ReportRow]:
    """Build reports from their columns."""
    found, metrics = _decode_all("reports", found, 4, damaged)
    if not found:
        return []
    *head, _ = zip(*found, strict=True)
    return list(map(ReportRow._make, zip(*head, metrics, strict=True)))


def to_trials(found: Sequence[Sequence[Any]], damaged: Damaged) -> list[TrialRow]:
    """Build trials from their columns."""
    columns: list[Any] = list(zip(*found, strict=True))
    for place, name in enumerate(_FIELDS) if found else ():
        if name in _DECODED:
            columns[place] = _at_once(columns[place])
    if None not in columns:
        return [TrialRow(**dict(zip(_FIELDS, row, strict=True))) for row in zip(*columns, strict=True)]
    trials = []
    for row in found:
        values = dict(zip(_FIELDS, row, strict=True))
        name = ""
        try:
            for name in _DECODED:
                values[name] = mapping(values[name])
        except ValueError as error:
            damaged("trials", row, f"{name} {error}")
        else:
            trials.append(TrialRow(**values))
    return trials


def mapping(value: Any) -> dict[str, Any]:
    """Return the object that is written as JSON. Raises ValueError that says what stands there instead."""
    try:
        found = decode(value)
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, dict):
        shown = repr(value)
        raise ValueError(f"is no JSON object: {shown if len(shown) <= 40 else f'{shown[:37]}...'}")
    return found


def _decode_all(
    table: str, found: Sequence[Sequence[Any]], place: int, damaged: Damaged
) -> tuple[Sequence[Sequence[Any]], list[dict[str, Any]]]:
    """Return the rows that can be read, and the values of their column `place`."""
    at_once = _at_once([row[place] for row in found])
    if at_once is not None:
        return found, at_once
    good, values = [], []
    for row in found:
        try:
            values.append(mapping(row[place]))
        except ValueError as error:
            damaged(table, row, f"{'data' if table == 'log' else 'metrics'} {error}")
        else:
            good.append(row)
    return good, values


def _at_once(texts: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return the objects that are written as JSON by one call, twice as fast as one each; None where one is none."""
    with suppress(TypeError, ValueError):
        values: list[dict[str, Any]] = decode(f"[{','.join(texts)}]")
        if len(values) == len(texts) and set(map(type, values)) <= {dict}:
            return values
    return None


def to_checkpoint(row: Sequence[Any]) -> CheckpointRow:
    """Build a checkpoint from its columns."""
    trial, uri, step, size, deleted = row
    return CheckpointRow(trial=trial, step=step, uri=uri, bytes=size, deleted=bool(deleted))


def to_request(row: Sequence[Any]) -> RequestRow:
    """Build a request from its columns."""
    number, time, action, trial, data = row
    try:
        found = decode(data)
    except ValueError:  # somebody else's: the driver refuses what is no mapping
        found = data
    return RequestRow(number, time, action, trial, found)
