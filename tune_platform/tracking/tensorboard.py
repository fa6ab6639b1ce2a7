"""TensorBoard: a run for each trial, with its config and last metrics in the hparams tab. Written by tensorboardX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from tune_platform.callbacks import Callback
from tune_platform.tracking.flat import flat, numbers


class TensorBoardTracker(Callback):
    """Writes `tensorboard/trial-00042`; `tensorboard --logdir EXPERIMENT/tracking/tensorboard` shows them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._writers: dict[int, Any] = {}

    def on_report(self, run: Any, trial: Any, report: Any) -> None:
        """Add a scalar for each number; before the first, the config as hyperparameters with their metrics."""
        found = numbers(report.metrics)
        writer = self._writers.get(trial.number)
        if writer is None:
            writer = self._writers[trial.number] = SummaryWriter(str(self._folder / f"trial-{trial.number:05}"))
            config = {name: str(value) if value is None else value for name, value in flat(trial.config).items()}
            for summary in hparams(config, found):
                writer.file_writer.add_summary(summary)
        for name, value in found.items():
            writer.add_scalar(name, value, report.step, walltime=report.time)

    def on_trial_end(self, run: Any, trial: Any) -> None:
        """Close its file."""
        if (writer := self._writers.pop(trial.number, None)) is not None:
            writer.close()

    def on_finish(self, run: Any, finish: Any) -> None:
        """Close all files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
