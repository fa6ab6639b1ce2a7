"""Weights & Biases: a run for each trial, in a group of the search's name. WANDB_MODE=offline keeps them here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import wandb

from tune_platform.callbacks import Callback
from tune_platform.protocol.configs import shown
from tune_platform.tracking.flat import flat


class WandbTracker(Callback):
    """Logs to the project WANDB_PROJECT, or tune-platform; files lie in `wandb`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[int, Any] = {}

    def on_start(self, run: Any) -> None:
        """Start W&B's own process now: one that comes up while a trial runs is taken for the trial's, and ended."""
        wandb.setup().ensure_service()

    def on_report(self, run: Any, trial: Any, report: Any) -> None:
        """Log a report."""
        if trial.number not in self._runs:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._runs[trial.number] = wandb.init(
                project=wandb.setup().settings.project or "tune-platform", group=run.name, dir=str(self._folder),
                name=f"{run.name}-{trial.number:05}", config=shown(dict(trial.config)), reinit="create_new",
            )  # fmt: skip
        self._runs[trial.number].log(flat(report.metrics), step=report.step)

    def on_trial_end(self, run: Any, trial: Any) -> None:
        """End its run: with exit code 1 where it failed."""
        if (one := self._runs.pop(trial.number, None)) is not None:
            one.finish(exit_code=1 if trial.status == "FAILED" else 0)

    def on_finish(self, run: Any, finish: Any) -> None:
        """End all runs."""
        for one in self._runs.values():
            one.finish()
        self._runs.clear()
