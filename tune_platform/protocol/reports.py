"""What training code brings: reports and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]
Metrics = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """One result of one trial. `step` counts the trial's reports from 1 and rises by one."""

    step: int
    metrics: Metrics
    time: float  # seconds since the epoch (or since zero, on the virtual clock), at the worker

    def value(self, name: str) -> Any:
        """Return the metric `name`; `step` and its Ray Tune name `training_iteration` are always there."""
        if name in self.metrics:
            return self.metrics[name]
        if name in ("step", "training_iteration"):
            return self.step
        return None


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """Where a checkpoint lies; the manifest inside holds sizes and checksums.

    `uri` is any fsspec path, or one relative to the experiment's folder where the checkpoint lies in there.
    """

    trial: int
    step: int
    uri: str
    bytes: int = 0
