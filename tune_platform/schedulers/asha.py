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

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sortedcontainers import SortedList

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Continue, Pause, Stop, Verdict

Entry = tuple[float, int, int]  # (loss, order of arrival, trial number): smaller is better


class ASHA:
    """Asynchronous successive halving over any reported resource ("step", "epoch", "samples" ...).

    `min` is the resource of the first rung (the grace period), `max` that at which a trial is done (None: rungs grow
    without end, as in the paper's infinite horizon), `eta` the reduction factor. Raises SpecError on bad values.
    """

    def __init__(
        self,
        *,
        resource: str = "step",
        min: float = 1,
        max: float | None = None,
        eta: float = 3,
        type: Literal["stopping", "promotion"] = "stopping",
    ) -> None:
        for name, value in (("min", min), ("max", max), ("eta", eta)):
            if not (value is None and name == "max") and (
                isinstance(value, bool) or not isinstance(value, (int, float))
            ):
                raise SpecError(f"asha: {name} must be a number, got {value!r}")
        if not 0 < min < math.inf:
            raise SpecError(f"asha: min (the resource of the first rung) must be above 0, got {min!r}")
        if max is not None and not max >= min:
            raise SpecError(f"asha: max must be at least min ({min:g}), got {max!r}")
        if not 1 < eta < math.inf:
            raise SpecError(f"asha: eta (the reduction factor) must be above 1, got {eta!r}; the papers use 3 or 4")
        if type not in ("stopping", "promotion"):
            raise SpecError(f"asha: type must be 'stopping' or 'promotion', got {type!r}")
        self.resource, self.min, self.eta, self.type = resource, min, eta, type
        self.max = None if max == math.inf else max
        self._levels: list[float] = [min]
        self._power = 0  # eta's in the last of the levels
        self._promotion = type == "promotion"
        self.setup(metric="", mode="min", seed=0)

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Start with empty rungs. The seed is not used: ASHA draws nothing."""
        self._metric, self._sign = metric, (1.0 if mode == "min" else -1.0)
        self._rungs: list[_Rung] = []

    def level(self, rung: int) -> float:
        """Return the resource of rung `rung`, counted from 0; `max` for any beyond the last.

        Where `min` is a whole number the resource is taken for a count: levels are rounded down, and a rung that
        falls on the one before it (an eta below 2) is left out.
        """
        while len(self._levels) <= rung:
            top = self._levels[-1]
            if top == self.max:
                return top
            self._levels.append(self._next_level(top))
        return self._levels[rung]

    def _next_level(self, top: float) -> float:
        level = top
        while level <= top:
            self._power += 1
            level = self.min * self.eta**self._power
            if float(self.min).is_integer():
                level = math.floor(level + 1e-9)
        return level if self.max is None else min(level, self.max)

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the level of the next rung above the trial's last report; promotion saves there."""
        rung = self._below(self._reached(trial.last)) if trial.last else -1
        if rung >= 0 and self._levels[rung] == self.max:
            return None, False
        return self.level(rung + 1), self._promotion

    def on_add(self, trial: TrialView) -> None:
        """Nothing to note: it begins at the bottom."""

    def on_start(self, trial: TrialView) -> None:
        """Note a trial that was sent on from the rung where it was paused."""
        self._promote(trial.number)

    def on_report(self, trial: TrialView, report: Report) -> Verdict | None:
        """Record a trial that has reached a rung, and say whether it goes on."""
        reached = self._reached(report)
        rung = self._rung_at(trial.number, reached)
        if rung is None:
            return None
        level = self.level(rung)
        entry = self._record(rung, trial.number, report)
        if self.max is not None and level >= self.max:
            return Stop(reason=f"{self.resource} {level:g}: reached max", completed=True)
        place = f"rung {rung} ({self.resource} {level:g})"
        ladder = self._rungs[rung]
        keep = ladder.keep()
        rank = ladder.rank(entry)
        if self._promotion:
            return Pause(reason=f"{place}: rank {rank}/{len(ladder)}, top {keep} promoted")
        if rank > max(1, keep):
            return Stop(reason=f"{place}: rank {rank}/{len(ladder)}, keep {max(1, keep)}")
        return Continue(until=self.level(rung + 1), reason=f"{place}: rank {rank}/{len(ladder)}, keep {max(1, keep)}")

    def choose(self, candidates: Candidates) -> int | None:
        """Promote from the highest rung that has someone to promote; else start the oldest waiting trial."""
        if self._promotion:
            for rung in reversed(self._rungs):
                for entry in rung.promotable:
                    # One that a person holds or that does not fit now keeps its turn.
                    if candidates.paused(entry[2]) is not None:
                        return int(entry[2])
        trial = next(candidates.waiting(), None)
        return trial.number if trial else None

    def on_end(self, trial: TrialView, status: str) -> None:
        """Keep the record, which is still a measurement, but promote the trial no more."""
        self._promote(trial.number)

    def on_supply_end(self) -> None:
        """Nothing changes: rungs never wait for anybody."""

    def _promote(self, number: int) -> None:
        for rung in self._rungs:
            entry = rung.entries.get(number)
            if entry is not None:
                rung.promote(entry)

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        options = {"resource": self.resource, "min": self.min, "max": self.max, "eta": self.eta, "type": self.type}
        return {"name": "asha", **options}

    def state(self) -> Mapping[str, Any]:
        """Return who was recorded in each rung, in the order of arrival, and who was promoted, as plain data."""
        return {
            "rungs": [
                {
                    "trials": list(rung.entries),
                    "losses": [loss for loss, _, _ in rung.entries.values()],
                    "promoted": sorted(rung.promoted),
                }
                for rung in self._rungs
            ]
        }

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._rungs = [
            _Rung.of(self.eta, saved["trials"], saved["losses"], set(saved["promoted"])) for saved in data["rungs"]
        ]

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
                    "best": self._sign * rung.best()[0] if len(rung) else None,
                }
                for number, rung in enumerate(self._rungs)
            ],
        }

    def _reached(self, report: Report) -> float:
        value = report.value(self.resource)
        return float(value) if isinstance(value, (int, float)) else 0.0

    def _below(self, reached: float) -> int:
        """The highest rung at or below `reached`; -1 if there is none."""
        while self._levels[-1] <= reached and self._levels[-1] != self.max:
            self.level(len(self._levels))
        return bisect_right(self._levels, reached) - 1

    def _rung_at(self, number: int, reached: float) -> int | None:
        """The highest rung at or below `reached` where the trial is not recorded yet; None if there is none."""
        rung = self._below(reached)
        if rung < 0 or (rung < len(self._rungs) and number in self._rungs[rung].entries):
            return None
        return rung

    def _record(self, rung: int, number: int, report: Report) -> Entry:
        while len(self._rungs) <= rung:
            self._rungs.append(_Rung(self.eta))
        return self._rungs[rung].add(self._sign * float(report.value(self._metric)), number)


@dataclass(slots=True)
class _Rung:
    """The results recorded at one level, split at the cut: the best floor(n / eta), and the rest."""

    eta: float
    entries: dict[int, Entry] = field(default_factory=dict)
    top: SortedList = field(default_factory=SortedList)
    rest: SortedList = field(default_factory=SortedList)
    promotable: SortedList = field(default_factory=SortedList)  # those of `top` that were not promoted
    promoted: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, eta: float, trials: Sequence[int], losses: Sequence[float], promoted: set[int]) -> _Rung:
        """Build a rung at once from those that arrived, in their order."""
        entries = list(zip(losses, range(len(trials)), trials, strict=True))
        rung = cls(eta, dict(zip(trials, entries, strict=True)), promoted=promoted)
        ranked, keep = sorted(entries), rung.keep()
        rung.top, rung.rest = SortedList(ranked[:keep]), SortedList(ranked[keep:])
        rung.promotable = SortedList(entry for entry in ranked[:keep] if entry[2] not in promoted)
        return rung

    def __len__(self) -> int:
        return len(self.entries)

    def keep(self) -> int:
        return math.floor(len(self.entries) / self.eta + 1e-9)

    def best(self) -> Entry:
        return (self.top or self.rest)[0]  # type: ignore[no-any-return]

    def rank(self, entry: Entry) -> int:
        """Rank of a recorded entry, from 1."""
        if self.top and entry <= self.top[-1]:
            return int(self.top.bisect_left(entry)) + 1
        return len(self.top) + int(self.rest.bisect_left(entry)) + 1

    def add(self, loss: float, number: int) -> Entry:
        entry = (loss, len(self.entries), number)
        self.entries[number] = entry
        if self.top and entry < self.top[-1]:
            self._raise(entry)
        else:
            self.rest.add(entry)
        # An arrival moves the cut by at most one either way, so the split is kept in O(log n).
        keep = self.keep()
        while len(self.top) > keep:
            fallen = self.top.pop()
            self.promotable.discard(fallen)
            self.rest.add(fallen)
        while len(self.top) < keep:
            self._raise(self.rest.pop(0))
        return entry

    def promote(self, entry: Entry) -> None:
        self.promoted.add(entry[2])
        self.promotable.discard(entry)

    def _raise(self, entry: Entry) -> None:
        self.top.add(entry)
        if entry[2] not in self.promoted:
            self.promotable.add(entry)
