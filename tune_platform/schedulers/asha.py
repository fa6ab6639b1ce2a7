"""Asynchronous successive halving, in both forms (Li et al., MLSys 2020, Algorithm 2 and section 3).

Rung k lies at resource r_k = min(r * eta^(k + s), R) with grace period r = `min`, R = `max` and early-stopping rate
s = 0; where r is a whole number, levels are rounded down. A trial that reaches a rung is recorded there.

Promotion (`ASHA(type="promotion")`, the paper's Algorithm 2): a trial pauses at each rung. When a place is free,
the rungs are scanned from the top: a trial among the best floor(n_k / eta) of the n_k recorded in rung k
that was not promoted yet goes on to rung k + 1; if there is none, a new trial starts at the bottom.

Stopping (`ASHA(type="stopping")`, the default): a trial never pauses. On arrival at rung k it goes on if it ranks
among the best max(1, floor(n_k / eta)) of the n_k recorded so far, itself included; else it is stopped. The first to
arrive goes on: nothing speaks against it yet.

Equal values rank by arrival, so the rule is exact on the log. Each decision costs O(log n_k).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Continue, Pause, Stop, Verdict
from tune_platform.schedulers._rungs import Forecast, Ladder, PromotionRung, Rung, check_resource, forecast, reached


class ASHA:
    """Asynchronous successive halving over any reported resource ("step", "epoch", "samples" ...).

    `min` is the resource of the first rung (the grace period), `max` that at which a trial is done (None: rungs grow
    without end, as in the paper's infinite horizon), `eta` the reduction factor. Raises SpecError on bad values.
    """

    name = "asha"

    def __init__(
        self,
        *,
        resource: str = "step",
        min: float = 1,
        max: float | None = None,
        eta: float = 3,
        type: Literal["stopping", "promotion"] = "stopping",
    ) -> None:
        check_resource(self.name, resource)
        self._ladder = Ladder(self.name, min=min, max=max, eta=eta)
        if not isinstance(type, str) or type not in ("stopping", "promotion"):
            raise SpecError(f"{self.name}: type must be 'stopping' or 'promotion', got {type!r}")
        self.resource, self.min, self.eta, self.type = resource, min, eta, type
        self.max = self._ladder.max
        self._promotion = type == "promotion"
        self._kind = PromotionRung if self._promotion else Rung
        self.setup(metric="", mode="min", seed=0)

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Start with empty rungs. The seed is not used: ASHA draws nothing."""
        self._metric, self._sign = metric, (1.0 if mode == "min" else -1.0)
        self._rungs: list[Rung] = []

    def level(self, rung: int) -> float:
        """Return the resource of rung `rung`, counted from 0; `max` for any beyond the last. See `Ladder`."""
        return self._ladder.level(rung)

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the level of the next rung above the trial's last report; promotion saves there."""
        rung = self._ladder.below(reached(trial.last, self.resource)) if trial.last else -1
        if rung >= 0 and self.level(rung) == self.max:
            return None, False
        return self.level(rung + 1), self._promotion

    def on_add(self, trial: TrialView) -> None:
        """Nothing to note: it begins at the bottom."""

    def on_start(self, trial: TrialView) -> None:
        """Note a trial that was sent on from the rung where it was paused."""
        self._promote(trial.number)

    def on_report(self, trial: TrialView, report: Report) -> Verdict | None:
        """Record a trial that has reached a rung, and say whether it goes on."""
        rung = self._rung_at(trial.number, reached(report, self.resource))
        if rung is None:
            return None
        level = self.level(rung)
        rank = self._record(rung, trial.number, report)
        if self.max is not None and level >= self.max:
            return Stop(reason=f"{self.resource} {level:g}: reached max", completed=True)
        place = f"rung {rung} ({self.resource} {level:g})"
        ladder = self._rungs[rung]
        keep = ladder.keep()
        if self._promotion:
            return Pause(reason=f"{place}: rank {rank}/{len(ladder)}, top {keep} promoted")
        if rank > max(1, keep):
            return Stop(reason=f"{place}: rank {rank}/{len(ladder)}, keep {max(1, keep)}")
        return Continue(until=self.level(rung + 1), reason=f"{place}: rank {rank}/{len(ladder)}, keep {max(1, keep)}")

    def forecast(self, trials: int) -> Forecast | None:
        """Return what so many trials come to, where one in eta goes on from each rung; None without a `max`."""
        if self.max is None:
            return None
        rungs, left = [], trials
        for level in self._ladder.levels():
            rungs.append((level, left))
            left = max(1, int(left / self.eta + 1e-9)) if left else 0
        return forecast(self.resource, [rungs])

    def choose(self, candidates: Candidates) -> int | None:
        """Promote from the highest rung that has someone to promote; else start the oldest waiting trial."""
        if (number := self.promotable(candidates)) is not None:
            return number
        trial = next(candidates.waiting(), None)
        return trial.number if trial else None

    def promotable(self, candidates: Candidates) -> int | None:
        """Return the best trial of the highest rung that has one to promote; always None in the stopping form."""
        if self._promotion:
            for index in reversed(range(len(self._rungs))):
                rung = self._rungs[index]
                for entry in rung.promotable if isinstance(rung, PromotionRung) and self._promotes(index) else ():
                    # One that a person holds or that does not fit now keeps its turn.
                    if candidates.paused(entry[2]) is not None:
                        return int(entry[2])
        return None

    def on_end(self, trial: TrialView, status: str) -> None:
        """Keep the record, which is still a measurement, but promote the trial no more."""
        self._promote(trial.number)

    def on_supply_end(self) -> None:
        """Nothing changes: rungs never wait for anybody."""

    def _promotes(self, rung: int) -> bool:
        """Whether trials of that rung may go on."""
        return True

    def _promote(self, number: int) -> None:
        for rung in self._rungs:
            rung.leave(number)

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        options = {"resource": self.resource, "min": self.min, "max": self.max, "eta": self.eta, "type": self.type}
        return {"name": "asha", **options}

    def state(self) -> Mapping[str, Any]:
        """Return who was recorded in each rung, in the order of arrival, and who was promoted, as plain data."""
        return {"rungs": [rung.to_data() for rung in self._rungs]}

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._rungs = [self._kind.of(self.eta, saved) for saved in data["rungs"]]

    def describe(self) -> Mapping[str, Any]:
        """Return the rungs: their level, how many arrived, how many may go on, and the best value."""
        return {
            "type": self.type,
            "resource": self.resource,
            "rungs": [
                {
                    "level": self.level(number),
                    "arrived": len(rung),
                    "keep": rung.keep() if self._promotion else max(1, rung.keep()),
                    "best": self._sign * rung.best() if len(rung) else None,
                }
                for number, rung in enumerate(self._rungs)
            ],
        }

    def _rung_at(self, number: int, resource: float) -> int | None:
        """The highest rung at or below that resource where the trial is not recorded yet; None if there is none."""
        rung = self._ladder.below(resource)
        if rung < 0 or (rung < len(self._rungs) and number in self._rungs[rung]):
            return None
        return rung

    def _record(self, rung: int, number: int, report: Report) -> int:
        while len(self._rungs) <= rung:
            self._rungs.append(self._kind(self.eta))
        return self._rungs[rung].add(self._sign * float(report.value(self._metric)), number)
