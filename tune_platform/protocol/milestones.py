"""Where a trial halts: one rule for those that train, those that simulate it, and the controller."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tune_platform.protocol.reports import Report


def stops(report: Report, stop: Mapping[str, float]) -> tuple[str, float] | None:
    """Return the name and the value of the first metric that has reached its threshold in `stop`, if any has."""
    for name, threshold in stop.items():
        value = report.value(name)
        if isinstance(value, (int, float)) and math.isfinite(value) and value >= threshold:
            return name, float(value)
    return None


def halts(report: Report, resource: str, until: float | None, stop: Mapping[str, float]) -> bool:
    """Whether a trial waits for the controller after this report: at its milestone, or at a stop condition."""
    if until is not None:
        reached = report.value(resource)
        if isinstance(reached, (int, float)) and reached >= until:
            return True
    return bool(stop) and stops(report, stop) is not None
