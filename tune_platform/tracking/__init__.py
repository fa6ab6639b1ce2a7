"""Trackers: what a search tells other programs as it goes, by `track: [tensorboard, mlflow]` in its spec.

Each is a callback on the driver that writes into a folder, `EXPERIMENT/tracking`. One that raises harms nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tune_platform.callbacks import Callback
from tune_platform.extras import require

#: Module and class by name, and the library that it needs, if any.
TRACKERS: Mapping[str, tuple[str, str, str]] = {
    "csv": ("files", "CsvTracker", ""),
    "jsonl": ("files", "JsonLinesTracker", ""),
    "mlflow": ("mlflow", "MlflowTracker", "mlflow"),
    "tensorboard": ("tensorboard", "TensorBoardTracker", "tensorboardX"),
    "wandb": ("wandb", "WandbTracker", "wandb"),
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise MissingLibraryError where a tracker's library is not installed."""
    for name in names:
        if library := TRACKERS[name][2]:
            require(f"track: {name}", library)


def make_trackers(names: Sequence[str], folder: str) -> list[Callback]:
    """Return the callbacks of these trackers, which write into `folder`. Raises MissingLibraryError."""
    check_trackers(names)
    found: list[Callback] = []
    for name in dict.fromkeys(names):
        module, made, _ = TRACKERS[name]
        found.append(getattr(importlib.import_module(f"{__name__}.{module}"), made)(Path(folder)))
    return found
