"""What `Tuner.fit` returns, with Ray Tune's names and their meaning there."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_platform.api import load
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.ray_tune.nesting import Metrics, flat
from tune_platform.ray_tune.session import trial_id
from tune_platform.ray_tune.settings import check_refused
from tune_platform.results import Checkpoint, Results, TrialResult
from tune_platform.results.core import NoResultError
from tune_platform.trainable import ANONYMOUS_METRIC

if TYPE_CHECKING:
    import pandas as pd

#: How a trial stands that will not go on.
_TERMINATED = ("COMPLETED", "STOPPED")
#: What is known of every trial that has reported, and no metric here.
_COUNTERS = ("training_iteration", "time_total_s")
#: Over how many of the last reports these take the mean.
_MEANS = {"avg": sys.maxsize, "last-5-avg": 5, "last-10-avg": 10}


class TrialError(RuntimeError):
    """How a trial failed: its traceback, or its message."""


class Result:
    """One trial. `metrics` are those of its last report, as in Ray Tune, `config` among them."""

    def __init__(self, results: Results, trial: TrialResult) -> None:
        self._results, self._trial = results, trial

    @classmethod
    def from_path(cls, path: str, storage_filesystem: Any = None) -> Result:
        """Return the trial whose folder `path` is.

        Raises ExperimentError where there is none, SpecError for another file system.
        """
        check_refused("Result.from_path", {"storage_filesystem": storage_filesystem})
        folder = Path(path).expanduser().resolve()  # a link, where trial_dirname_creator named it
        with contextlib.suppress(IndexError, ExperimentError):
            results = load(folder.parents[1].name, storage=folder.parents[2])
            for trial in results.trials():
                if Path(trial.folder).resolve() == folder:
                    return cls(results, trial)
        raise ExperimentError(f"{path} is the folder of no trial")

    @property
    def filesystem(self) -> Any:
        """Where `path` lies, as pyarrow's file system: this machine's."""
        return _local()

    @property
    def config(self) -> dict[str, Any]:
        """The trial's config."""
        return dict(self._trial.config)

    @property
    def metrics(self) -> dict[str, Any]:
        """The last report, with what Ray Tune adds to each; empty where there is none."""
        if not self._trial.step:
            return {}
        return self._filled(self._trial.last, self._trial.step)

    @property
    def metrics_dataframe(self) -> pd.DataFrame:
        """One row per report; `time_total_s` counts from the trial's first start, what it waited included."""
        import pandas as pd

        with self._results._open() as experiment:
            reports = list(experiment.reports(trial=self._trial.number))
        started = self._trial.started
        began = before = started.timestamp() if started is not None else min((r.time for r in reports), default=0.0)
        rows = []
        for each in reports:
            times = {"time_this_iter_s": max(0.0, each.time - before), "time_total_s": max(0.0, each.time - began)}
            rows.append({**times, **each.metrics, "training_iteration": each.step, "timestamp": each.time})
            before = each.time
        return pd.DataFrame(rows)

    @property
    def checkpoint(self) -> Any:
        """The newest checkpoint that is kept, as Ray Tune's Checkpoint; None where there is none."""
        kept = self._trial.checkpoints
        return _ray_checkpoint(kept[-1]) if kept else None

    @property
    def best_checkpoints(self) -> list[tuple[Any, dict[str, Any]]]:
        """Every checkpoint that is kept, by step, with the metrics of its report."""
        found = []
        for each in self._trial.checkpoints:
            metrics = self._results.metrics_at(self._trial.number, each.step)
            found.append((_ray_checkpoint(each), self._filled(metrics, each.step)))
        return found

    def get_best_checkpoint(self, metric: str, mode: str) -> Any:
        """Return the checkpoint whose report has the best value of a metric; None where none has one."""
        sign = _sign(mode)
        scored = [
            (sign * metrics[metric], at) for at, (_, metrics) in enumerate(self.best_checkpoints) if metric in metrics
        ]
        return self.best_checkpoints[min(scored)[1]][0] if scored else None

    @property
    def path(self) -> str:
        """The trial's own folder."""
        return self._trial.folder

    @property
    def error(self) -> TrialError | None:
        """How it failed; None where it did not."""
        return TrialError(self._trial.error or self._trial.reason) if self._trial.status == "FAILED" else None

    def _filled(self, metrics: Mapping[str, Any], step: int) -> dict[str, Any]:
        trial = self._trial
        filled = {
            "training_iteration": step,
            "done": trial.status in (*_TERMINATED, "FAILED"),
            "trial_id": trial_id(trial.number),
            "config": self.config,
        }
        if trial.duration is not None:
            filled["time_total_s"] = trial.duration
        return Metrics({**filled, **metrics})

    def __repr__(self) -> str:
        return f"Result(trial={self._trial.number}, status={self._trial.status}, metrics={dict(self._trial.last)!r})"


class ResultGrid:
    """The trials of an experiment, by number; `results` is what this platform knows of it."""

    def __init__(self, results: Results, metric: str | None = None, mode: str | None = None) -> None:
        self.results, self._mode = results, mode
        self._metric = metric or (ANONYMOUS_METRIC if mode else None)  # what a number without a name is called
        self._trials = results.trials()

    @property
    def filesystem(self) -> Any:
        """Where `experiment_path` lies, as pyarrow's file system: this machine's."""
        return _local()

    @property
    def experiment_path(self) -> str:
        """The experiment's folder."""
        return str(Path(self.results.storage).expanduser().absolute() / self.results.name)

    def get_best_result(
        self,
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "last",
        filter_nan_and_inf: bool = True,
    ) -> Result:
        """Return the trial with the best value: of its last report, or with `scope` "all" of any.

        With "avg", "last-5-avg" and "last-10-avg" it is the mean over the reports that have the metric, or the last 5
        or 10 of them. Raises RuntimeError where no trial has one, ValueError without a metric and a mode.
        """
        metric, mode = metric or self._metric, mode or self._mode
        if metric is None or mode is None:
            raise ValueError("get_best_result needs a metric and a mode: give them here, or in TuneConfig")
        if scope not in ("last", "all", *_MEANS):
            raise SpecError(f"scope: got {scope!r}; allowed: {', '.join(('last', 'all', *_MEANS))}")
        sign = _sign(mode)
        if metric in _COUNTERS:
            return self._furthest(metric, sign)
        if scope in _MEANS:
            return self._best_mean(metric, sign, _MEANS[scope])
        try:
            best = self.results.best("last" if scope == "last" else "best", metric=metric, mode=mode)
        except NoResultError as error:
            raise RuntimeError(str(error)) from error
        return Result(self.results, best)

    def _furthest(self, counter: str, sign: float) -> Result:
        found = [(sign * result.metrics[counter], at) for at, result in enumerate(self) if counter in result.metrics]
        if not found:
            raise RuntimeError("no trial has reported")
        return self[min(found)[1]]

    def _best_mean(self, metric: str, sign: float, count: int) -> Result:
        means = []
        for at, result in enumerate(self):
            frame = result.metrics_dataframe
            mean = float(frame[metric].dropna().tail(count).mean()) if metric in frame else math.nan
            if math.isfinite(mean):
                means.append((sign * mean, at))
        if not means:
            raise RuntimeError(f"no trial has a finite mean of {metric!r}")
        return self[min(means)[1]]

    def get_dataframe(self, filter_metric: str | None = None, filter_mode: str | None = None) -> pd.DataFrame:
        """Return one row per trial: its last report, or with a metric and a mode the report with its best value."""
        import pandas as pd

        rows = []
        for result in self:
            metrics = result.metrics
            if filter_metric is not None:
                frame = result.metrics_dataframe
                if filter_metric in frame:
                    values = frame[filter_metric]
                    at = int(values.to_numpy().argmin() if filter_mode == "min" else values.to_numpy().argmax())
                    step = int(frame["training_iteration"].to_numpy()[at])
                    metrics = result._filled(self.results.metrics_at(result._trial.number, step), step)
            config = {f"config/{name}": value for name, value in flat(result.config).items()}
            rows.append(
                {
                    **{name: value for name, value in metrics.items() if name != "config"},
                    **config,
                    "logdir": result.path,
                }
            )
        return pd.DataFrame(rows)

    @property
    def errors(self) -> list[TrialError]:
        """How each of the failed trials failed."""
        return [result.error for result in self if result.error is not None]

    @property
    def num_errors(self) -> int:
        """How many trials failed."""
        return len(self.errors)

    @property
    def num_terminated(self) -> int:
        """How many trials ended without failing."""
        return sum(trial.status in _TERMINATED for trial in self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, number: int) -> Result:
        return Result(self.results, self._trials[number])

    def __iter__(self) -> Iterator[Result]:
        return (Result(self.results, trial) for trial in self._trials)

    def __repr__(self) -> str:
        return f"ResultGrid({self.results!r})"


def _ray_checkpoint(kept: Checkpoint) -> Any:
    from ray.tune import Checkpoint as RayCheckpoint

    return RayCheckpoint.from_directory(str(kept.path))


def _local() -> Any:
    from pyarrow.fs import LocalFileSystem

    return LocalFileSystem()


def _sign(mode: str) -> float:
    if mode not in ("min", "max"):
        raise ValueError(f"mode: got {mode!r}; allowed: min, max")
    return 1.0 if mode == "min" else -1.0
