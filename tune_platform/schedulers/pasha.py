"""PASHA: progressive ASHA, which decides by itself how far trials are trained (Bohdal et al., ICLR 2023, Algorithm 1).

It is ASHA's promotion form with a top rung of its own: at first the rungs at r and eta * r are open. When a trial is
recorded in the top rung, the ranking of the trials there is compared with their ranking one rung below: while the two
agree, nothing more can be learned from longer training; where they do not, the next rung is opened, up to `max`.

Rankings agree up to noise (soft ranking): at each place of the top rung's ranking must stand a trial whose value in the
rung below is within epsilon of the one that stands at this place there. Epsilon is estimated from the crossings of
curves: where the curves of two trials have changed places at least twice (one is ahead, then the other, then the first
again), their difference is noise. Epsilon is the 90th percentile of the differences, at the latest resource that both
have reached, of such pairs in the top rung.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import TrialView
from tune_platform.protocol.verdicts import Verdict
from tune_platform.schedulers._rungs import PromotionRung, reached
from tune_platform.schedulers.asha import ASHA

#: Of the noisy differences, the share that epsilon covers.
PERCENTILE = 90
#: What bounds the cost of an arrival in the top rung: others compared with, differences and points of a curve kept.
_COMPARED, _DIFFERENCES, _POINTS = 100, 10_000, 100


class PASHA(ASHA):
    """ASHA (promotion form) whose top rung grows only while the ranking of the two top rungs is unstable.

    `max` is the most that a trial may get, not what the best is sure to get. `epsilon`: a fixed one, in units of the
    metric, instead of the estimate. Raises SpecError on bad values.
    """

    name = "pasha"

    def __init__(
        self,
        *,
        max: float,
        min: float = 1,
        eta: float = 3,
        resource: str = "step",
        epsilon: float | None = None,
    ) -> None:
        if epsilon is not None and (
            isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not epsilon >= 0
        ):
            raise SpecError(f"pasha: epsilon must be a number from 0 on, or left out, got {epsilon!r}")
        self.epsilon = epsilon
        super().__init__(resource=resource, min=min, max=max, eta=eta, type="promotion")
        if self.max is None:
            raise SpecError("pasha: max (the most that a trial may get) must be a finite number")

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Start with empty rungs, of which the two lowest are open."""
        super().setup(metric=metric, mode=mode, seed=seed)
        self._top = 1  # the highest rung that is open, counted from 0
        self._noise: deque[float] = deque(maxlen=_DIFFERENCES)  # noisy differences of those in the top rung
        self._curves: dict[int, list[tuple[float, float]]] = {}  # (resource, loss) of those that live or are at the top

    @property
    def top(self) -> float:
        """The resource of the highest rung that is open."""
        return self.level(self._top)

    def on_report(self, trial: TrialView, report: Report) -> Verdict | None:
        """Record a trial that has reached a rung; open the next rung where the ranking is not stable."""
        self._follow(trial.number, reached(report, self.resource), self._sign * float(report.value(self._metric)))
        before = len(self._losses(self._top))
        verdict = super().on_report(trial, report)
        if len(self._losses(self._top)) > before and self.top != self.max:
            self._compare(trial.number)
            if not self._stable():
                self._top += 1
                self._noise.clear()
        return verdict

    def _promotes(self, rung: int) -> bool:
        """Only up to the top rung."""
        return rung < self._top

    def on_end(self, trial: TrialView, status: str) -> None:
        """Keep its record in the rungs; a curve of one that is out is needed no more where it is not in the top."""
        super().on_end(trial, status)
        if trial.number not in self._losses(self._top):
            self._curves.pop(trial.number, None)

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        options = {"resource": self.resource, "min": self.min, "max": self.max, "eta": self.eta}
        return {"name": "pasha", **options, "epsilon": self.epsilon}

    def state(self) -> Mapping[str, Any]:
        """Return the rungs, the top one and the curves, as plain data."""
        curves = [[number, [list(point) for point in curve]] for number, curve in self._curves.items()]
        return {**super().state(), "top": self._top, "noise": list(self._noise), "curves": curves}

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        super().load_state(data)
        self._top = data["top"]
        self._noise.extend(data["noise"])
        self._curves = {number: [(at, loss) for at, loss in curve] for number, curve in data["curves"]}

    def describe(self) -> Mapping[str, Any]:
        """Return the rungs, the level of the top one, and epsilon."""
        return {**super().describe(), "type": "pasha", "top": self.top, "epsilon": self.tolerance}

    @property
    def tolerance(self) -> float:
        """Epsilon: the difference of two values, in units of the metric, that is taken for noise."""
        if self.epsilon is not None:
            return self.epsilon
        return float(np.percentile(self._noise, PERCENTILE)) if self._noise else 0.0

    def _follow(self, number: int, at: float, loss: float) -> None:
        """Note a point of a curve. Long ones are thinned out: only where they cross matters."""
        curve = self._curves.setdefault(number, [])
        curve.append((at, loss))
        if len(curve) > _POINTS:
            del curve[::2]

    def _losses(self, rung: int) -> dict[int, float]:
        if rung >= len(self._rungs):
            return {}
        found = self._rungs[rung]
        assert isinstance(found, PromotionRung)
        return dict(zip(found.numbers, found.losses, strict=True))

    def _stable(self) -> bool:
        """Whether the ranking of the top rung agrees with that of the rung below, up to epsilon."""
        above, below = self._losses(self._top), self._losses(self._top - 1)
        common = [number for number in above if number in below]
        now = sorted(common, key=lambda number: (above[number], number))
        then = sorted(common, key=lambda number: (below[number], number))
        tolerance = self.tolerance + 1e-12
        return all(abs(below[one] - below[other]) <= tolerance for one, other in zip(now, then, strict=True))

    def _compare(self, number: int) -> None:
        """Note the differences to those in the top rung whose curves this one's has crossed at least twice."""
        mine = dict(self._curves[number])
        others = [other for other in self._losses(self._top) if other in self._curves]  # itself differs in nothing
        for other in others[-_COMPARED:]:
            theirs = dict(self._curves[other])
            shared = [at for at in mine if at in theirs]
            signs = [math.copysign(1, gap) for at in shared if (gap := mine[at] - theirs[at]) != 0]
            if sum(a != b for a, b in itertools.pairwise(signs)) >= 2:
                self._noise.append(abs(mine[shared[-1]] - theirs[shared[-1]]))
