"""What training code brings: reports and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]
Metrics = Mapping[str, Any]


#: Names that every report has: its own number, twice, and, where a spec asks for it, the seconds of all steps so far.
ALWAYS = ("step", "training_iteration", "time_total_s")


def number(value: Any) -> float | None:
    """Return a reported value as a number, infinite where it is beyond all floats; None for what is none."""
    if not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def finite(value: Any) -> float | None:
    """Return a reported value as a finite number; None for anything else: only these are compared."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else None


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
