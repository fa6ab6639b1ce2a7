"""What the trials of a search have held so far, what that costs, and when a limit on it ends the search.

Held is counted from a trial's launch until it gives its place back, in seconds of searching, so a resumed experiment
comes to the same sums. What nobody leases, idle nodes for instance, is not counted, nor what was lost with a driver
after its last row of the log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tune_platform.protocol.text import COST_IS_UP, DEADLINE_IS_UP, GPU_TIME_IS_UP
from tune_platform.resources import Resources

_HOUR = 3600.0
#: Amounts are counted in whole parts of this size, which is Ray's: sums of them are exact, in whatever order.
_PARTS = 10_000
#: What runs is saved before the limit: this share of the whole time ahead of it, or the time of grace if that is less.
_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the spec's budget; `math.inf` stands for "no bound".

    `deadline`: seconds since the epoch; `gpu_seconds`: of one GPU; `cost` in a currency of the user's, of which an
    hour of a GPU costs `per_gpu` and an hour of a CPU `per_cpu`; `saving`: seconds that what runs has to be saved.
    """

    deadline: float = math.inf
    gpu_seconds: float = math.inf
    cost: float = math.inf
    per_gpu: float = 0.0
    per_cpu: float = 0.0
    saving: float = 60.0

    @property
    def some(self) -> bool:
        """Whether there is any."""
        return min(self.deadline, self.gpu_seconds, self.cost) < math.inf


class Spending:
    """The sums so far, in seconds of one CPU and of one GPU, and the rates at which they grow."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.cpu_seconds = self.gpu_seconds = 0.0
        self._held: dict[int, tuple[int, int]] = {}
        self._cpus = self._gpus = 0  # parts that are held now
        self._more = {"gpu_hours": 0.0, "cost": 0.0}  # that persons added
        self._deadline: float | None = None  # that a person set
        self.saving = False  # what ran was told to save before a limit

    @property
    def cpus(self) -> float:
        """How many CPUs are held now."""
        return self._cpus / _PARTS

    @property
    def gpus(self) -> float:
        """How many GPUs are held now."""
        return self._gpus / _PARTS

    @property
    def limited(self) -> bool:
        """Whether the search has such a limit."""
        return self.limits.some

    @property
    def cost(self) -> float:
        """What has been spent."""
        return (self.gpu_seconds * self.limits.per_gpu + self.cpu_seconds * self.limits.per_cpu) / _HOUR

    # ------------------------------------------------------------------------------- what happens

    def wait(self, seconds: float) -> None:
        """Note that so many seconds have passed."""
        self.cpu_seconds += self.cpus * seconds
        self.gpu_seconds += self.gpus * seconds

    def hold(self, trial: int, resources: Resources) -> None:
        """Note that a trial got a place."""
        self._held[trial] = cpus, gpus = _parts(resources)
        self._cpus += cpus
        self._gpus += gpus

    def release(self, trial: int) -> None:
        """Note that a trial has none any more."""
        cpus, gpus = self._held.pop(trial, (0, 0))
        self._cpus -= cpus
        self._gpus -= gpus

    def extend(self, data: Mapping[str, Any]) -> None:
        """Note what a person added."""
        for name in self._more:
            self._more[name] += float(data.get(name, 0.0))
        self._deadline = data.get("deadline", self._deadline)
        self.saving = False

    # ------------------------------------------------------------------------------- what follows

    @property
    def bounds(self) -> dict[str, float]:
        """The limits by their names in the spec, with what persons added; those that there are."""
        limits = self.limits
        found = {
            "deadline": limits.deadline if self._deadline is None else self._deadline,
            "gpu_hours": limits.gpu_seconds / _HOUR + self._more["gpu_hours"],
            "cost": limits.cost + self._more["cost"],
        }
        return {name: bound for name, bound in found.items() if bound < math.inf}

    def left(self, now: float) -> tuple[float, str]:
        """Return the seconds until the first limit, at the present rates, and the reason of an end by it.

        `now`: seconds since the epoch. Infinite, and nothing, where no limit comes nearer.
        """
        found = [(math.inf, "")]
        hourly = self.gpus * self.limits.per_gpu + self.cpus * self.limits.per_cpu
        for name, bound in self.bounds.items():
            if name == "deadline":
                when = datetime.fromtimestamp(bound, UTC)
                found.append((bound - now, f"{DEADLINE_IS_UP} {when:%Y-%m-%d %H:%M:%S} UTC is reached"))
            elif name == "gpu_hours":
                text = f"{GPU_TIME_IS_UP} {bound:g} GPU hours is used up"
                found.append((_until(bound * _HOUR - self.gpu_seconds, self.gpus), text))
            else:
                found.append((_until((bound - self.cost) * _HOUR, hourly), f"{COST_IS_UP} {bound:g} is reached"))
        return min(found, key=lambda each: each[0])

    def lead(self, elapsed: float, left: float) -> float:
        """Return how many seconds before the limit, which comes in `left` seconds, what runs is to be saved."""
        return min(self.limits.saving, _SHARE * (elapsed + max(left, 0.0)))

    def due(self, now: float, elapsed: float) -> float:
        """Return the seconds until something is to be done."""
        left, _ = self.left(now)
        if left == math.inf:
            return left
        return max(0.0, left if self.saving else left - self.lead(elapsed, left))

    # ------------------------------------------------------------------------------- as data

    def told(self) -> dict[str, Any] | None:
        """Return what the log says beside each fact, where there is a limit: the sums, what is held, and the limits."""
        if not self.limited:
            return None
        return {"seconds": [self.cpu_seconds, self.gpu_seconds], "held": [self.cpus, self.gpus], "of": self.bounds}

    def to_data(self) -> dict[str, Any]:
        """Return the sums as JSON values, without who holds what."""
        return {"sums": [self.cpu_seconds, self.gpu_seconds], "more": dict(self._more),
                "deadline": self._deadline, "saving": self.saving}  # fmt: skip

    def load(self, data: Mapping[str, Any]) -> None:
        """Take the sums that `to_data` gave."""
        self.cpu_seconds, self.gpu_seconds = data["sums"]
        self._more, self._deadline, self.saving = dict(data["more"]), data["deadline"], data["saving"]

    def check(self, held: Mapping[int, Resources]) -> None:
        """Raise AssertionError where it is not these that hold something (for tests)."""
        expected = {trial: _parts(resources) for trial, resources in held.items()}
        assert self._held == expected, f"{self._held} is counted, and held is {expected}"
        assert self._cpus == sum(cpus for cpus, _ in expected.values())
        assert self._gpus == sum(gpus for _, gpus in expected.values())


def _parts(resources: Resources) -> tuple[int, int]:
    workers = resources.workers
    return round(resources.cpu * workers * _PARTS), round(resources.gpu * workers * _PARTS)


def _until(amount: float, rate: float) -> float:
    """Return the seconds until an amount is used up: at once where there is none left, never at a rate of zero."""
    if amount <= 0:
        return 0.0
    return amount / rate if rate > 0 else math.inf
