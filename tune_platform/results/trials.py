"""One trial as people see it, and what is made of several: rows of a table, rankings, the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tune_platform.protocol.reports import finite
from tune_platform.protocol.trial_log import LOG
from tune_platform.results.logs import tail
from tune_platform.store.records import TrialRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult(TrialRow):
    """What is known of one trial. Times are in seconds since the epoch; `best` is of the first metric."""

    checkpoint: str | None = None  # URI of the newest checkpoint
    folder: str = ""  # its own, for its log and the files that its code writes; on the machine that ran it

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.trial

    @property
    def duration(self) -> float | None:
        """Seconds from its first start to its end; None where it has not both."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def message(self) -> str:
        """The last line of `error`: what went wrong, without where."""
        lines = [line for line in self.error.splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""

    @property
    def log_file(self) -> Path | None:
        """The file with what it printed; None where it printed nothing, or where that lies on another machine."""
        path = Path(self.folder, LOG)
        return path if self.folder and path.is_file() else None

    def logs(self, *, all_attempts: bool = False, limit: int = 1_000_000) -> str:
        """Return what its last attempt printed, or all of them; the last `limit` bytes at most, in whole lines.

        Empty where there is no `log_file`.
        """
        path = self.log_file
        return "" if path is None else tail(path, every_attempt=all_attempts, limit=limit)


_NAMES = [field.name for field in fields(TrialRow)]


def result_of(row: TrialRow, checkpoint: str | None, folder: str = "") -> TrialResult:
    """Return a trial of the store as a result, with the URI of its newest checkpoint and the path of its folder."""
    return TrialResult(**{name: getattr(row, name) for name in _NAMES}, checkpoint=checkpoint, folder=folder)


# ------------------------------------------------------------------------------------------ tables


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
    plain = [name for name in _NAMES if name not in ("config", "metrics")]
    after = plain.index("ended") + 1
    return (*plain[:after], "duration", *plain[after:], "checkpoint")


def row_of(trial: TrialResult) -> dict[str, Any]:
    """Return a trial as a row of a table: config and metrics flat, of the error its last line."""
    values = {name: getattr(trial, name) for name in row_columns()}
    return {**values, "error": trial.message, **flatten(trial.config, "config"), **flatten(trial.metrics, "metrics")}


def columns_of(rows: Iterable[Mapping[str, Any]], first: Sequence[str]) -> list[str]:
    """Return the columns of a table: `first`, then those of configs, then those of metrics."""
    names = dict.fromkeys(first)
    for row in rows:
        names.update(dict.fromkeys(row))
    rest = list(names)[len(first) :]
    # All of the config before all of the metrics, in the order in which they first came.
    return [*first, *sorted(rest, key=lambda name: not name.startswith("config/"))]


# ------------------------------------------------------------------------------------------ rankings


def last_values(trials: Sequence[TrialResult], metric: str) -> list[TrialResult]:
    """Give each trial that has one the value of its last report in place of its best."""
    found = []
    for trial in trials:
        value = finite(trial.metrics.get(metric))
        if value is not None:
            found.append(replace(trial, best=value, best_step=trial.step))
    return found


def front(trials: Iterable[TrialResult], metrics: Sequence[str], modes: Sequence[str]) -> list[TrialResult]:
    """Return, by number, the trials that no other one beats in every metric, by the values of their last reports."""
    signs = [-1.0 if mode == "max" else 1.0 for mode in modes]
    points = []
    for trial in trials:
        values = [finite(trial.metrics.get(name)) for name in metrics]
        if values and None not in values:
            points.append((tuple(s * (v or 0.0) for s, v in zip(signs, values, strict=True)), trial))
    found: list[tuple[tuple[float, ...], TrialResult]] = []
    # In this order nothing that comes later can beat what is in the front already.
    for point, trial in sorted(points, key=lambda entry: (entry[0], entry[1].number)):
        if not any(_dominates(other, point) for other, _ in found):
            found.append((point, trial))
    return sorted((trial for _, trial in found), key=lambda trial: trial.number)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse (greater) than `other`, and somewhere better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
