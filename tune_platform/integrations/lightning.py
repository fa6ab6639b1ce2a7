"""PyTorch Lightning: `Trainer(callbacks=[LightningCallback()])`, `trainer.fit(..., ckpt_path=saved_checkpoint())`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_platform.extras import require
from tune_platform.integrations._saving import Reporting, saved_file

require("LightningCallback", "lightning")

import lightning  # noqa: E402  (`require` says first what to install)

_FILE = "lightning.ckpt"


class LightningCallback(lightning.Callback):  # type: ignore[misc]
    """Reports all logged metrics after each validation, with `epoch`; Lightning writes the checkpoints.

    The trial is ended by an exception that Lightning tears down for as it does for Ctrl-C. `save_every` counts
    validations (0: no checkpoint). Only the first process of several reports.
    """

    def __init__(self, save_every: int = 0) -> None:
        self._report = Reporting(save_every)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report, but for the check before the training."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self._report(
            {"epoch": trainer.current_epoch + 1, **metrics},
            lambda folder: trainer.save_checkpoint(folder / _FILE),
        )


def saved_checkpoint() -> Path | None:
    """Return the checkpoint that the trial goes on from, for `ckpt_path`; None where it begins anew."""
    return saved_file(_FILE)
