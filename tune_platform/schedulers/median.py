"""The median stopping rule (Golovin et al., KDD 2017, section 3.2.2).

A trial is stopped at resource s if its best value until then is worse than the median of the running averages, up to s,
of the other trials' values. It assumes nothing about the form of the curves.

Trials are compared at the multiples of `interval`: the running average of a trial there is that of all its reports
until it got there, so that curves of any resource, such as seconds, can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sortedcontainers import SortedList

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Decisions, Pause, Stop
from tune_platform.schedulers._rungs import check_numbers, check_resource, reached


class MedianStopping:
    """The median rule over any reported resource.

    grace: a trial is not judged before this resource. min_samples: nor where fewer other trials have come as far.
    interval: the resource from one judgement to the next (None: 1). hard: worse trials are stopped; else they pause,
    and go on, the best first, when a place is left over. max: the resource at which a trial is done (None: its own
    end). Raises SpecError on bad values.
    """

    def __init__(
        self,
        *,
        resource: str = "step",
        grace: float = 1,
        min_samples: int = 3,
        interval: float = 1,
        hard: bool = True,
        max: float | None = None,
    ) -> None:
        check_resource("median", resource)
        check_numbers("median", {"grace": grace, "min_samples": min_samples, "interval": interval, "max": max})
        if not 0 < interval < math.inf:
            raise SpecError(f"median: interval (of resource between two judgements) must be above 0, got {interval!r}")
        if not 0 <= grace < math.inf:
            raise SpecError(f"median: grace (resource before the first judgement) must be from 0 on, got {grace!r}")
        if not isinstance(min_samples, int) or min_samples < 1:
            raise SpecError(f"median: min_samples must be a whole number from 1 on, got {min_samples!r}")
        if max is not None and max <= 0:
            raise SpecError(f"median: max must be above 0, got {max!r}")
        if not isinstance(hard, bool):
            raise SpecError(f"median: hard must be true or false, got {hard!r}")
        self.resource, self.grace, self.min_samples, self.interval = resource, grace, min_samples, interval
        self.hard, self.max = hard, None if max == math.inf else max
        self.setup(metric="", mode="min", seed=0)

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Start without curves. The seed is not used: nothing is drawn."""
        self._metric, self._sign = metric, (1.0 if mode == "min" else -1.0)
        self._levels: dict[int, SortedList] = {}  # running averages of all trials at each multiple of `interval`
        self._curves: dict[int, _Curve] = {}

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the next judgement from the grace period on; save there where it may pause."""
        level = math.floor(reached(trial.last, self.resource) / self.interval + 1e-9) + 1
        first = math.ceil(self.grace / self.interval - 1e-9)
        ahead = max(level, first, 1) * self.interval
        if self.max is None:
            return ahead, not self.hard
        at = reached(trial.last, self.resource)
        return (min(ahead, self.max) if at < self.max else None), not self.hard

    def on_add(self, trial: TrialView) -> None:
        """Nothing to note before it reports."""

    def on_start(self, trial: TrialView) -> None:
        """Nothing to note."""

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """Add to the trial's running average; at a multiple of `interval`, judge it."""
        number, at = trial.number, reached(report, self.resource)
        curve = self._curves.setdefault(number, _Curve())
        curve.add(self._sign * float(report.value(self._metric)))
        if self.max is not None and at >= self.max:
            return Stop(reason=f"{self.resource} {self.max:g}: reached max", completed=True)
        level = math.floor(at / self.interval + 1e-9)
        if level <= curve.level:
            return None
        curve.level = level
        others = self._levels.setdefault(level, SortedList())
        found = self._judge(curve, others, at) if at + 1e-9 >= self.grace else ""
        others.add(curve.mean)
        if not found:
            return None
        return Stop(reason=found) if self.hard else Pause(reason=found)

    def choose(self, candidates: Candidates) -> int | None:
        """Start the oldest waiting trial; where none waits, let the best of those paused go on."""
        trial = next(candidates.waiting(), None)
        if trial is not None or self.hard:
            return trial.number if trial else None
        ranked = sorted(self._curves, key=lambda number: (self._curves[number].best, number))
        return next((number for number in ranked if candidates.paused(number) is not None), None)

    def on_end(self, trial: TrialView, status: str) -> None:
        """Keep its averages, to which others are compared; one that failed may be tried again, with its own curve."""
        if status != "failed":
            self._curves.pop(trial.number, None)

    def on_supply_end(self) -> None:
        """Nothing changes."""

    def outline(self, trials: int) -> str:
        """Say what can be known before anything runs: who is judged, and when."""
        return (
            f"judged every {self.interval:g} {self.resource}s from {self.grace:g} on: a trial that is worse than the "
            f"median of the others, at least {self.min_samples}, {'stops' if self.hard else 'pauses'}; what is saved "
            "follows from the curves"
        )

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        names = ("resource", "grace", "min_samples", "interval", "hard", "max")
        return {"name": "median", **{name: getattr(self, name) for name in names}}

    def state(self) -> Mapping[str, Any]:
        """Return the averages and the curves of those that live, as plain data."""
        return {
            "levels": [[level, list(means)] for level, means in self._levels.items()],
            "curves": [[n, c.total, c.count, c.best, c.level] for n, c in self._curves.items()],
        }

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._levels = {level: SortedList(means) for level, means in data["levels"]}
        self._curves = {number: _Curve(*curve) for number, *curve in data["curves"]}

    def describe(self) -> Mapping[str, Any]:
        """Return the median at each level, and of how many trials."""
        return {
            "resource": self.resource,
            "levels": [
                {"level": level * self.interval, "trials": len(means), "median": self._sign * _median(means)}
                for level, means in sorted(self._levels.items())
            ],
        }

    def _judge(self, curve: _Curve, others: SortedList, at: float) -> str:
        """Return why a trial is not to go on, or nothing."""
        if len(others) < self.min_samples:
            return ""
        middle = _median(others)
        if curve.best <= middle:
            return ""
        return (
            f"{self.resource} {at:g}: its best {self._sign * curve.best:g} is worse than the median "
            f"{self._sign * middle:g} of the running averages of {len(others)} others"
        )


class _Curve:
    """The running average of a trial, its best value (smaller is better), and the level it was last judged at."""

    __slots__ = ("best", "count", "level", "total")

    def __init__(self, total: float = 0.0, count: int = 0, best: float = math.inf, level: int = 0) -> None:
        self.total, self.count, self.best, self.level = total, count, best, level

    @property
    def mean(self) -> float:
        return self.total / self.count

    def add(self, loss: float) -> None:
        self.total, self.count, self.best = self.total + loss, self.count + 1, min(self.best, loss)


def _median(means: SortedList) -> float:
    middle = len(means) // 2
    return float(means[middle] if len(means) % 2 else (means[middle - 1] + means[middle]) / 2)
