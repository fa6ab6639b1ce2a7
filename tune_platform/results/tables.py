"""Results as tables: nested values by flat names, and columns of the types that they should have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tune_platform.protocol.configs import shown
from tune_platform.store.records import TrialRow

if TYPE_CHECKING:
    import pandas as pd

    from tune_platform.results.configs import ConfigResult
    from tune_platform.results.trials import TrialResult

#: Columns of times. They have this type even where all are missing.
_TIMES = ("created", "started", "ended", "time")
#: Columns of whole numbers, likewise.
_WHOLE = ("best_step",)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested dict by their paths: {"a": {"b": 1}} is {"a/b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def row_columns() -> tuple[str, ...]:
    """Return the columns that a table of trials always has, in order."""
    plain = [each.name for each in fields(TrialRow) if each.name not in ("config", "metrics")]
    after = plain.index("ended") + 1
    return (*plain[:after], "duration", *plain[after:], "checkpoint")


def row_of(trial: TrialResult) -> dict[str, Any]:
    """Return a trial as a row of a table: config and metrics flat, of the error its last line."""
    values = {name: getattr(trial, name) for name in row_columns()}
    values["checkpoint"] = None if trial.checkpoint is None else trial.checkpoint.location
    return {
        **values,
        "error": trial.message,
        **flatten(shown(trial.config), "config"),
        **flatten(trial.metrics, "metrics"),
    }


def rank_of(rank: int, config: ConfigResult) -> dict[str, Any]:
    """Return what a table says of the config of a trial, where configs are repeated."""
    return {
        "config_rank": rank,
        "config_mean": config.mean,
        "config_spread": config.spread,
        "config_count": config.count,
    }


def no_formula(value: Any) -> Any:
    """Return a cell for a file that people open in a spreadsheet, which takes a text that begins so for a formula.

    Such a text gets a "'" before it; numbers, and texts that read as numbers, stay.
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def columns_of(rows: Iterable[Mapping[str, Any]], first: Sequence[str]) -> list[str]:
    """Return the columns of a table: `first`, then those of configs, then those of metrics."""
    names = dict.fromkeys(first)
    for row in rows:
        names.update(dict.fromkeys(row))
    rest = list(names)[len(first) :]
    # All of the config before all of the metrics, in the order in which they first came.
    return [*first, *sorted(rest, key=lambda name: not name.startswith("config/"))]


def frame_of(rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> pd.DataFrame:
    """Return a data frame: times in UTC; whole numbers and truth values with gaps have pandas' nullable types."""
    import pandas as pd

    columns = columns_of(rows, first)
    return pd.DataFrame({name: _column(name, [row.get(name) for row in rows]) for name in columns}, columns=columns)


def _column(name: str, cells: list[Any]) -> Any:
    import pandas as pd

    if name in _TIMES:
        return pd.Series(pd.to_datetime(cells, utc=True), dtype="datetime64[us, UTC]")
    there = [cell for cell in cells if cell is not None]
    kinds = {type(cell) for cell in there}
    gaps = len(there) < len(cells)
    if (kinds == {int} and gaps) or (not kinds and name in _WHOLE):
        fits = all(-(2**63) <= cell < 2**63 for cell in there)
        return pd.Series(cells, dtype="Int64" if fits else object)
    return pd.Series(cells, dtype="boolean" if kinds == {bool} and gaps else None)
