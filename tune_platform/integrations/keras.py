"""Keras 3: `model.fit(..., callbacks=[KerasCallback()])`, of any of its backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_platform.extras import require
from tune_platform.integrations._saving import Reporting, saved_file

require("KerasCallback", "keras")

import keras  # noqa: E402  (`require` says first what to install)

_FILE = "model.keras"


class KerasCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports the logs of each epoch, with `epoch`; the model is saved by Keras.

    The trial is ended by an exception that unwinds `fit`. `save_every` counts epochs (0: no checkpoint).
    """

    def __init__(self, save_every: int = 0) -> None:
        super().__init__()
        self._report = Reporting(save_every)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Report an epoch."""
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        self._report({"epoch": epoch + 1, **metrics}, lambda folder: self.model.save(folder / _FILE))


def saved_model() -> Path | None:
    """Return the model that the trial goes on from, for `keras.models.load_model`; None where it begins anew."""
    return saved_file(_FILE)
