"""Multi-objective ASHA (Schmucker et al., 2021, algorithm 1): ASHA's stopping rule on non-dominated sorting.

The trials recorded in a rung are ordered by fronts: first those that no other dominates, then those that only these
dominate, and so on. Within a front they are ordered as an epsilon-net: each next is the one that is farthest from those
before it (objectives scaled to their range in the rung), so that what is kept spreads over the front. A trial goes on
if it is among the first max(1, floor(n / eta)) of the n recorded so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Continue, Stop, Verdict
from tune_platform.schedulers._rungs import Forecast, Ladder, check_resource, reached
from tune_platform.schedulers.asha import ASHA
from tune_platform.space import Space

Losses = npt.NDArray[np.float64]  # one row a trial, one column an objective; smaller is better


class MOASHA:
    """Asynchronous successive halving (stopping form) for several objectives; see `ASHA` for the options."""

    several_objectives = True

    def __init__(self, *, max: float | None = None, min: float = 1, eta: float = 3, resource: str = "step") -> None:
        check_resource("mo_asha", resource)
        self._ladder = Ladder("mo_asha", min=min, max=max, eta=eta)
        self.resource, self.min, self.max, self.eta = resource, min, self._ladder.max, eta
        self._metrics: tuple[str, ...] = ()
        self._signs: tuple[float, ...] = ()
        self.setup(metric="", mode="min", seed=0)

    def prepare(self, space: Space, metrics: Sequence[str], modes: Sequence[str]) -> None:
        """Take the objectives. Raises SpecError where there is but one."""
        if len(metrics) < 2:
            raise SpecError(f"mo_asha: it needs several objectives, got {list(metrics)}; for one use asha")
        self._metrics, self._signs = tuple(metrics), tuple(1.0 if mode == "min" else -1.0 for mode in modes)

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Start with empty rungs. The seed is not used: nothing is drawn."""
        if len(self._metrics) < 2:
            self._metrics, self._signs = (metric,), (1.0 if mode == "min" else -1.0,)
        self._rungs: list[dict[int, tuple[float, ...]]] = []

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the level of the next rung above the trial's last report."""
        rung = self._ladder.below(reached(trial.last, self.resource)) if trial.last else -1
        if rung >= 0 and self._ladder.level(rung) == self.max:
            return None, False
        return self._ladder.level(rung + 1), False

    def on_add(self, trial: TrialView) -> None:
        """Nothing to note: it begins at the bottom."""

    def on_start(self, trial: TrialView) -> None:
        """Nothing to note."""

    def on_report(self, trial: TrialView, report: Report) -> Verdict | None:
        """Record a trial that has reached a rung, and say whether it goes on."""
        rung = self._ladder.below(reached(report, self.resource))
        while len(self._rungs) <= rung:
            self._rungs.append({})
        if rung < 0 or trial.number in self._rungs[rung]:
            return None
        self._rungs[rung][trial.number] = tuple(
            _loss(report.value(metric), sign) for metric, sign in zip(self._metrics, self._signs, strict=True)
        )
        level = self._ladder.level(rung)
        if self.max is not None and level >= self.max:
            return Stop(reason=f"{self.resource} {level:g}: reached max", completed=True)
        members = self._rungs[rung]
        keep = max(1, math.floor(len(members) / self.eta + 1e-9))
        kept, front = first(np.array(list(members.values())), keep)
        place = f"rung {rung} ({self.resource} {level:g}): front {front[-1] + 1}, {len(members)} arrived, keep {keep}"
        if len(members) - 1 in kept:  # it is the last that arrived
            return Continue(until=self._ladder.level(rung + 1), reason=place)
        return Stop(reason=place)

    def forecast(self, trials: int) -> Forecast | None:
        """Return what so many trials come to; None without a `max`."""
        return ASHA(resource=self.resource, min=self.min, max=self.max, eta=self.eta).forecast(trials)

    def choose(self, candidates: Candidates) -> int | None:
        """Start the oldest waiting trial."""
        trial = next(candidates.waiting(), None)
        return trial.number if trial else None

    def on_end(self, trial: TrialView, status: str) -> None:
        """Keep the record, which is still a measurement."""

    def on_supply_end(self) -> None:
        """Nothing changes: rungs never wait for anybody."""

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        options = {"resource": self.resource, "min": self.min, "max": self.max, "eta": self.eta}
        return {"name": "mo_asha", **options}

    def state(self) -> Mapping[str, Any]:
        """Return who was recorded in each rung, in the order of arrival, as plain data."""
        return {"rungs": [[[number, *losses] for number, losses in rung.items()] for rung in self._rungs]}

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._rungs = [{number: tuple(losses) for number, *losses in rung} for rung in data["rungs"]]

    def describe(self) -> Mapping[str, Any]:
        """Return the rungs: their level, how many arrived, and how many of them nothing dominates."""
        return {
            "type": "mo_asha",
            "resource": self.resource,
            "rungs": [
                {
                    "level": self._ladder.level(number),
                    "arrived": len(rung),
                    "front": int(nondominated(np.array(list(rung.values()))).sum()) if rung else 0,
                }
                for number, rung in enumerate(self._rungs)
            ],
        }


def first(losses: Losses, keep: int) -> tuple[set[int], list[int]]:
    """Return the first `keep` rows in the order of fronts and epsilon-nets, and the number of each row's front.

    Fronts are counted from 0; those beyond the last that is needed are not told apart.
    """
    left, kept = np.arange(len(losses)), set[int]()
    fronts = np.zeros(len(losses), dtype=int)
    number = 0
    while len(kept) < keep:
        best = nondominated(losses[left])
        front = left[best]
        left = left[~best]
        if len(kept) + len(front) > keep:
            front = front[epsilon_net(losses[front], keep - len(kept), losses)]
        kept.update(int(row) for row in front)
        number += 1
        fronts[left] = number
    return kept, fronts.tolist()


def nondominated(losses: Losses) -> npt.NDArray[np.bool_]:
    """Return which rows no other row dominates: at least as good in all, and better in one. Costs n x front."""
    alive, result = np.arange(len(losses)), np.zeros(len(losses), dtype=bool)
    order = np.argsort(losses.sum(axis=1), kind="stable")
    alive = alive[order]
    while len(alive):
        best, rest = losses[alive[0]], losses[alive]
        result[alive[0]] = True
        dominated = (rest >= best).all(axis=1) & (rest > best).any(axis=1)
        dominated[0] = True
        alive = alive[~dominated]
    return result


def epsilon_net(front: Losses, count: int, everyone: Losses) -> list[int]:
    """Return `count` rows of a front: the best of the first objective, then each time the farthest from all before."""
    low = everyone.min(axis=0)
    width = everyone.max(axis=0) - low
    scaled = (front - low) / np.where(width > 0, width, 1.0)
    chosen = [int(np.argmin(front[:, 0]))]
    distance = np.linalg.norm(scaled - scaled[chosen[0]], axis=1)
    while len(chosen) < count:
        distance[chosen] = -1.0
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[chosen[-1]], axis=1))
    return chosen


def _loss(value: Any, sign: float) -> float:
    """What was not reported, or is no number, is as bad as can be."""
    number = float(value) if isinstance(value, (int, float)) else math.nan
    return sign * number if math.isfinite(number) else 1e300
