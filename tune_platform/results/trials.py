"""One trial as people see it, and what is made of several: rankings, the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tune_platform.protocol.configs import Unavailable, from_json
from tune_platform.protocol.reports import finite
from tune_platform.protocol.trial_log import LOG
from tune_platform.results.checkpoints import Checkpoint, nearest
from tune_platform.results.logs import tail
from tune_platform.store.records import TrialRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What is known of one trial.

    `best` is the best value of the metric that counts (the search's first, unless another was asked for) and
    `best_step` the report that had it; `metrics` are all metrics of that report, `last` those of the last one. Where
    the trial has no value of that metric, or the search several objectives, `metrics` is `last`.
    """

    trial: int
    status: str  #: PENDING | STARTING | RUNNING | PAUSING | PAUSED | COMPLETED | STOPPED | FAILED
    config: Mapping[str, Any]  #: nested, as the training code got it; `Unavailable` for what cannot be imported here
    reason: str = ""  #: why it is in this state
    origin: str = "searcher"  #: searcher | start | user
    attempt: int = 0  #: how often it was launched
    step: int = 0  #: number of reports
    metrics: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)
    best: float | None = None
    best_step: int | None = None
    error: str = ""  #: traceback or message of the last failure
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    worker: str = ""  #: where it ran last
    checkpoints: tuple[Checkpoint, ...] = ()  #: those that are kept, by step
    folder: str = ""  #: its own, for its log and the files that its code writes; on the machine that ran it

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.trial

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint of `best_step`, else the nearest that is kept, which says so; the newest without a best."""
        return nearest(self.checkpoints, self.best_step)

    @property
    def duration(self) -> float | None:
        """Seconds from its first start to its end; None where it has not both."""
        return None if self.started is None or self.ended is None else (self.ended - self.started).total_seconds()

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

    def _repr_html_(self) -> str:
        from tune_platform.results.html import trial_html

        return trial_html(self)


_NAMES = [each.name for each in fields(TrialRow)]
_TIMES = ("created", "started", "ended")


def moment(seconds: float) -> datetime:
    """Return a stored time as a datetime in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def result_of(
    row: TrialRow, metrics: Mapping[str, Any] | None, checkpoints: Sequence[Checkpoint], folder: str = ""
) -> TrialResult:
    """Return a trial of the store as a result, with the metrics of its best report where they are not its last."""
    values = {name: getattr(row, name) for name in _NAMES}
    values.update({name: moment(values[name]) for name in _TIMES if values[name] is not None})
    values["config"] = from_json(row.config, Unavailable)
    values["last"] = row.metrics
    if metrics is not None:
        values["metrics"] = metrics
    return TrialResult(**values, checkpoints=tuple(checkpoints), folder=folder)


# ------------------------------------------------------------------------------------------ rankings


def last_values(trials: Sequence[TrialResult], metric: str) -> list[TrialResult]:
    """Give each trial the value of its last report in place of its best; none where that is no finite number."""
    found = []
    for trial in trials:
        value = finite(trial.last.get(metric))
        step = trial.step if value is not None else None
        found.append(replace(trial, best=value, best_step=step, metrics=trial.last))
    return found


def front(trials: Iterable[TrialResult], metrics: Sequence[str], modes: Sequence[str]) -> list[TrialResult]:
    """Return, by number, the trials that no other one beats in every metric, by the values of their last reports."""
    signs = [-1.0 if mode == "max" else 1.0 for mode in modes]
    points = []
    for trial in trials:
        values = [finite(trial.last.get(name)) for name in metrics]
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
