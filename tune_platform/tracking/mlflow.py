"""MLflow: a run for each trial in an experiment of the search's name, at MLFLOW_TRACKING_URI or in a database here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param

from tune_platform.callbacks import Callback
from tune_platform.tracking.flat import flat, numbers

_STATUS = {"COMPLETED": "FINISHED", "STOPPED": "KILLED", "FAILED": "FAILED"}


class MlflowTracker(Callback):
    """Logs parameters once and metrics at each report; a trial that was stopped is KILLED there."""

    def __init__(self, folder: Path) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder.absolute()}/mlflow.db"
        self._client, self._runs, self._experiment = mlflow.MlflowClient(uri), {}, ""  # type: ignore[var-annotated]

    def on_start(self, run: Any) -> None:
        """Make the experiment, or take that of this name."""
        found = self._client.get_experiment_by_name(run.name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(run.name)

    def on_report(self, run: Any, trial: Any, report: Any) -> None:
        """Log the numbers of a report."""
        if trial.number not in self._runs:
            made = self._client.create_run(self._experiment, run_name=f"trial-{trial.number:05}")
            self._runs[trial.number] = made.info.run_id
            params = [Param(name, str(value)) for name, value in flat(trial.config).items()]
            self._client.log_batch(made.info.run_id, params=params)
        time = int(report.time * 1000)
        metrics = [Metric(name, value, time, report.step) for name, value in numbers(report.metrics).items()]
        self._client.log_batch(self._runs[trial.number], metrics=metrics)

    def on_trial_end(self, run: Any, trial: Any) -> None:
        """End its run."""
        if (key := self._runs.pop(trial.number, None)) is not None:
            self._client.set_terminated(key, _STATUS[trial.status])
