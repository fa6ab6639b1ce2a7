"""Freeze-thaw (Swersky et al. 2014; the choice of what to continue after ifBO, Rakotoarison et al. 2024).

Trials are trained in slices of `interval` of the resource and pause at the end of each. Every curve is carried on to
`max`, where trials are compared (`tune_platform.schedulers._curves`). A free place goes to the trial, paused or new,
with the highest expected improvement on the best loss so far per second that it still needs to `max`; seconds are
those that its own reports were apart, or those of all. A trial is stopped once its chance to end below the best is
smaller than `chance`.

The forecast of a trial changes with its own slices and with a fit of what all have in common, which is made again when
there are 30 % more slices than at the last, or when the best has left its scale: all is a function of the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Decision, Decisions, Pause, Stop
from tune_platform.schedulers._curves import Curves, Part
from tune_platform.schedulers._rungs import check_numbers, check_resource, reached

_GROWTH = 1.3
#: Slices up to `max`: more are not a coarse look at a curve, and each costs a number for every shape.
_MOST_SLICES = 1_000_000


class FreezeThaw:
    """Trains what is expected to improve the best most per second, over any reported resource.

    max: the resource at which a trial is done, and for which curves are forecast. interval: of one slice. chance: a
    trial is stopped where its chance to end below the best is smaller. Raises SpecError on bad values.
    """

    name = "freeze_thaw"
    #: A trial that is sent on goes on from a checkpoint.
    needs_checkpoints = True

    def __init__(self, *, max: float, interval: float = 1, resource: str = "step", chance: float = 0.02) -> None:
        check_resource(self.name, resource)
        check_numbers(self.name, {"max": max, "interval": interval, "chance": chance}, optional=())
        if not 0 < interval < math.inf:
            raise SpecError(f"{self.name}: interval (of resource in one slice) must be above 0, got {interval!r}")
        if not interval <= max < math.inf:
            raise SpecError(
                f"{self.name}: max (for which curves are forecast) must be a finite number of at least "
                f"interval ({interval:g}), got {max!r}"
            )
        if not 0 <= chance < 1:
            raise SpecError(f"{self.name}: chance (below which a trial is stopped) must be in [0, 1), got {chance!r}")
        self.resource, self.max, self.interval, self.chance = resource, max, interval, chance
        self._levels = math.ceil(max / interval - 1e-9)
        if self._levels > _MOST_SLICES:
            raise SpecError(
                f"{self.name}: interval {interval:g} makes {self._levels} slices up to max {max:g}; at most "
                f"{_MOST_SLICES} are meant: use a longer interval"
            )
        self.setup(metric="", mode="min", seed=0)

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Start without curves. The seed is not used: nothing is drawn."""
        self._metric, self._sign = metric, (1.0 if mode == "min" else -1.0)
        self._model = Curves([min(level * self.interval / self.max, 1.0) for level in range(1, self._levels + 1)])
        self._curves: dict[int, list[float]] = {}  # losses at the levels that each trial has come to
        self._alive: dict[int, None] = {}
        self._best = math.inf
        self._seen, self._due = 0, 1  # slices, and with how many to fit again
        self._clock: dict[int, tuple[float, float]] = {}  # time and resource of the latest report of those that run
        self._pace: dict[int, tuple[float, float]] = {}  # seconds and resource between reports, of those that live
        self._all = (0.0, 0.0)  # the same of all trials
        self._forecasts: dict[int, list[Part]] = {}  # of those that live; only kept, never known otherwise
        self._worth: dict[int, tuple[float, float]] = {}  # expected improvement and chance, likewise

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the end of the next slice, and save there."""
        at = reached(trial.last, self.resource)
        return (min((self._level(at) + 1) * self.interval, self.max) if at < self.max else None), True

    def on_add(self, trial: TrialView) -> None:
        """Take a new trial."""
        self._alive[trial.number] = None

    def on_start(self, trial: TrialView) -> None:
        """Begin a slice: the time that has passed since the trial's last report is none of its own."""
        self._clock.pop(trial.number, None)

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """Note what it reports; at the end of a slice, forecast, stop what has no chance any more, and pause."""
        number, at = trial.number, reached(report, self.resource)
        loss = self._sign * float(report.value(self._metric))
        self._note_pace(number, report.time, at)
        if loss < self._best:
            self._best = loss
            self._worth.clear()
        level = self._level(at)
        curve = self._curves.setdefault(number, [])
        if level > len(curve):
            self._seen += level - len(curve)
            curve += [loss] * (level - len(curve))
            self._forecasts.pop(number, None)
            self._worth.pop(number, None)
            if self._seen >= self._due or self._model.outgrown(self._best):
                self._fit()
        elif at < self.max:
            return None  # within a slice, or where it was before a failure
        decisions: list[Decision] = []
        for other in self._alive:
            if other != number and self._curves.get(other) and self._of(other)[1] < self.chance:
                decisions.append(Decision(other, Stop(reason=self._words(other))))
        if at >= self.max:
            return [*decisions, Decision(number, Stop(reason=f"{self.resource} {at:g}: reached max", completed=True))]
        words = self._words(number)
        poor = self._of(number)[1] < self.chance
        return [*decisions, Decision(number, Stop(reason=words) if poor else Pause(reason=words))]

    def choose(self, candidates: Candidates) -> int | None:
        """Choose the highest expected improvement per second; of equals, the one that was added first."""
        best: tuple[float, int] | None = None
        for trial in self._candidates(candidates):
            left = max(self.max - reached(trial.last, self.resource), 1e-9) * self._seconds(trial.number)
            found = (-self._of(trial.number)[0] / left, trial.number)
            if best is None or found < best:
                best = found
        return best[1] if best else None

    def on_end(self, trial: TrialView, status: str) -> None:
        """Keep its curve: others are forecast by it."""
        for known in (self._alive, self._clock, self._pace, self._forecasts, self._worth):
            known.pop(trial.number, None)

    def on_supply_end(self) -> None:
        """Nothing changes."""

    def outline(self, trials: int) -> str:
        """Say what can be known before anything runs: the least and the most that so many trials are trained."""
        least, most = trials * self.interval, trials * self.max
        return (
            f"each trial gets a first slice of {self.interval:g} {self.resource}s; who is trained further follows from "
            f"the curves: {least:g} to {most:g} {self.resource}s in all, so at most {1 - least / most:.0%} is saved"
        )

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        names = ("max", "interval", "resource", "chance")
        return {"name": self.name, **{name: getattr(self, name) for name in names}}

    def state(self) -> Mapping[str, Any]:
        """Return the curves, the paces and what was fitted, as plain data."""
        return {
            "curves": [[number, list(curve)] for number, curve in self._curves.items()],
            "alive": list(self._alive),
            "best": self._best if self._best < math.inf else None,
            "seen": self._seen,
            "due": self._due,
            "clock": [[number, *known] for number, known in self._clock.items()],
            "pace": [[number, *known] for number, known in self._pace.items()],
            "all": list(self._all),
            "model": self._model.state(),
        }

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._curves = {number: list(curve) for number, curve in data["curves"]}
        self._alive = dict.fromkeys(data["alive"])
        self._best = math.inf if data["best"] is None else data["best"]
        self._seen, self._due = data["seen"], data["due"]
        self._clock = {number: (time, at) for number, time, at in data["clock"]}
        self._pace = {number: (seconds, far) for number, seconds, far in data["pace"]}
        self._all = (data["all"][0], data["all"][1])
        self._model.load_state(data["model"])
        self._forecasts, self._worth = {}, {}

    def describe(self) -> Mapping[str, Any]:
        """Return the best value, and of each trial that lives: how far it is and its chance to end above the best."""
        return {
            "resource": self.resource,
            "best": self._sign * self._best if self._best < math.inf else None,
            "trials": [
                {"trial": n, self.resource: len(self._curves[n]) * self.interval, "chance": round(self._of(n)[1], 4)}
                for n in self._alive
                if self._curves.get(n)
            ],
        }

    # ------------------------------------------------------------------------------- forecasts

    def _level(self, at: float) -> int:
        return self._levels if at >= self.max else math.floor(at / self.interval + 1e-9)

    def _candidates(self, candidates: Candidates) -> Iterable[TrialView]:
        yield from candidates.waiting()
        for number in self._alive:
            if (trial := candidates.paused(number)) is not None:
                yield trial

    def _of(self, number: int) -> tuple[float, float]:
        """Return the expected improvement of a trial, on the scale of the model, and its chance to improve at all."""
        if not self._curves.get(number):
            number = -1  # all that are new are alike
        if number not in self._worth:
            if number not in self._forecasts:
                self._forecasts[number] = self._model.forecast(self._curves.get(number, ()))
            best = self._model.warp(self._best) if self._best < math.inf else 0.0
            self._worth[number] = improvement(self._forecasts[number], best)
        return self._worth[number]

    def _words(self, number: int) -> str:
        at = len(self._curves[number]) * self.interval
        best = self._sign * self._best
        return f"{self.resource} {min(at, self.max):g}: {self._of(number)[1]:.1%} chance to end better than {best:g}"

    def _fit(self) -> None:
        self._due = max(self._seen + 1, math.ceil(_GROWTH * self._seen))
        self._model.fit([curve for curve in self._curves.values() if curve])
        self._forecasts.clear()
        self._worth.clear()

    # ------------------------------------------------------------------------------- seconds

    def _note_pace(self, number: int, time: float, at: float) -> None:
        if number in self._clock:
            then, there = self._clock[number]
            if at > there and time > then:
                seconds, far = self._pace.get(number, (0.0, 0.0))
                self._pace[number] = (seconds + time - then, far + at - there)
                self._all = (self._all[0] + time - then, self._all[1] + at - there)
        self._clock[number] = (time, at)

    def _seconds(self, number: int) -> float:
        """Return the seconds for one unit of the resource: the trial's own, or the mean, or 1."""
        seconds, far = self._pace.get(number, self._all)
        return seconds / far if far else 1.0


def improvement(forecast: Iterable[Part], best: float) -> tuple[float, float]:
    """Return E[max(best - m, 0)] and P(m < best) of a mixture of normal distributions of m."""
    expected = chance = 0.0
    for weight, mean, sd in forecast:
        ahead = (best - mean) / sd
        below = 0.5 * math.erfc(-ahead / math.sqrt(2))
        chance += weight * below
        expected += weight * sd * max(ahead * below + math.exp(-0.5 * ahead * ahead) / math.sqrt(2 * math.pi), 0.0)
    return expected, chance
