"""What a search has spent of its budget, and when that is used up: from the last fact of its log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tune_platform.results.trials import moment

_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What trials have held until now, in hours of one CPU and of one GPU, and what that costs (None: no prices).

    `of` are the limits by their names in the spec (`deadline`: a datetime), with what persons added. `ends` is when
    the first of them is reached if as much is held as now, and `by` which one; None where nothing runs.
    """

    cpu_hours: float
    gpu_hours: float
    cost: float | None
    of: Mapping[str, Any]
    ends: datetime | None = None
    by: str = ""


def spent_of(time: float, data: Mapping[str, Any], prices: Mapping[str, float] | None, now: float | None) -> Spent:
    """Return what a fact of the log, of that `time`, says was spent; `now`: until then, for a search that runs."""
    held = data["held"]
    passed = max(0.0, now - time) if now is not None else 0.0
    cpu, gpu = ((seconds + passed * each) / _HOUR for seconds, each in zip(data["seconds"], held, strict=True))
    cost = None if prices is None else cpu * prices["cpu"] + gpu * prices["gpu"]
    of = {name: moment(bound) if name == "deadline" else bound for name, bound in data["of"].items()}
    found = Spent(cpu_hours=cpu, gpu_hours=gpu, cost=cost, of=of)
    if now is None:
        return found
    hourly = 0.0 if prices is None else held[0] * prices["cpu"] + held[1] * prices["gpu"]
    left = {
        "deadline": data["of"].get("deadline", math.inf) - now,
        "gpu_hours": _until(data["of"].get("gpu_hours", math.inf) - gpu, held[1]),
        "cost": _until(data["of"].get("cost", math.inf) - (cost or 0.0), hourly),
    }
    by = min(left, key=left.__getitem__)
    if left[by] == math.inf:
        return found
    return Spent(cpu_hours=cpu, gpu_hours=gpu, cost=cost, of=of, ends=moment(now + max(0.0, left[by])), by=by)


def _until(amount: float, hourly: float) -> float:
    return max(0.0, amount) * _HOUR / hourly if hourly > 0 else math.inf
