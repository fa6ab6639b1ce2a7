"""Brackets of successive halving whose rungs close: nobody goes on before all of a rung have arrived.

A bracket takes n_0 trials in the order of their suggestion. At each rung its trials pause; once all members have
arrived, failed or been stopped, the best n_{i+1} of them go on to the next rung and the others are stopped. So a rung
never waits for a trial that does not come. A bracket that no longer fills, because the supply has ended, goes on with
the trials that it has, and keeps the share of them that it would have kept of all.

A trial that a person holds is waited for; the other brackets go on meanwhile. One that ran on although it was to wait
(its log was decided by other code) counts in the next rung with what it reported last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Continue, Decision, Decisions, Pause, Stop
from tune_platform.schedulers._rungs import Forecast, forecast, reached


class Plan(NamedTuple):
    """A bracket: rung i takes `sizes[i]` trials to the resource `levels[i]`."""

    sizes: tuple[int, ...]
    levels: tuple[float, ...]


@dataclass(slots=True)
class _Bracket:
    """One that has begun. `rungs[i]` has the members of rung i: the loss on arrival, None while they are on the way.

    Those that are not kept are members no more, while they are being stopped.
    """

    rungs: list[dict[int, float | None]]
    filled: int = 0  # trials that it has taken
    used: float = 0.0  # resource that its trials have spent
    closed: int = 0  # rungs


class Brackets:
    """The scheduler of a list of plans, which follow one another and then begin anew."""

    def __init__(self, *, resource: str, eta: float, plans: list[Plan]) -> None:
        self.resource, self.eta, self.plans = resource, eta, plans
        self.setup(metric="", mode="min", seed=0)

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Start without brackets. The seed is not used: nothing is drawn."""
        self._metric, self._sign = metric, (1.0 if mode == "min" else -1.0)
        self._brackets: list[_Bracket] = []
        self._home: dict[int, tuple[int, int]] = {}  # the bracket and rung that a trial is in, or on its way to
        self._last: dict[int, tuple[float, float]] = {}  # (resource, loss) of the last report of those that live
        self._over = False

    def plan(self, bracket: int) -> Plan:
        """Return the plan of a bracket, counted from 0 over the whole search."""
        return self.plans[bracket % len(self.plans)]

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the level of the next rung of the trial's bracket, and save there: it pauses."""
        home = self._home.get(trial.number)
        levels = self.plan(home[0] if home else 0).levels
        at = reached(trial.last, self.resource) if trial.last else -math.inf
        return next((level for level in levels if level > at), None), True

    def forecast(self, trials: int) -> Forecast:
        """Return what so many trials come to."""
        brackets: list[list[tuple[float, int]]] = []
        while trials > 0:
            plan = self.plan(len(brackets))
            filled = min(trials, plan.sizes[0])
            trials -= filled
            counts = [filled]
            for rung in range(len(plan.sizes) - 1):
                counts.append(min(counts[-1], self._keep(filled, plan, rung)))
            brackets.append(list(zip(plan.levels, counts, strict=True)))
        return forecast(self.resource, brackets)

    def choose(self, candidates: Candidates) -> int | None:
        """Return the oldest that waits: those sent on are older than those that begin."""
        trial = next(candidates.waiting(), None)
        if trial is not None:
            return trial.number
        # One that a person had paused on its way to a rung.
        for number, (bracket, rung) in self._home.items():
            absent = self._brackets[bracket].rungs[rung].get(number, 0.0) is None
            if absent and candidates.paused(number) is not None:
                return number
        return None

    def on_add(self, trial: TrialView) -> Decisions:
        """Let a trial join the bracket that is being filled, or begin the next."""
        if not self._filling():
            self._brackets.append(_Bracket([{} for _ in self.plan(len(self._brackets)).levels]))
        self._over = False
        number, bracket = len(self._brackets) - 1, self._brackets[-1]
        bracket.filled += 1
        bracket.rungs[0][trial.number] = None
        self._home[trial.number] = number, 0
        if trial.last is not None:  # a person has it tried again: perhaps it was past the first rung already
            at, loss = self._note(trial.number, trial.last)
            if at >= self.plan(number).levels[0]:
                bracket.rungs[0][trial.number] = loss
        return self._close(number)

    def on_start(self, trial: TrialView) -> None:
        """Nothing to note."""

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """Record a trial that has reached its rung; close the rung if it was the last to arrive."""
        number = trial.number
        index, rung = self._home[number]
        bracket, levels = self._brackets[index], self.plan(index).levels
        before = self._last.get(number, (0.0, 0.0))[0]
        at, loss = self._note(number, report)
        bracket.used += max(0.0, at - before)
        if at >= levels[-1]:
            return Stop(reason=f"{self.resource} {levels[-1]:g}: reached max", completed=True)
        if number not in bracket.rungs[rung]:
            return Stop(reason=f"{self._place(index, rung)}: it was not among those kept")
        if at < levels[rung] or bracket.rungs[rung][number] is not None:
            return None
        bracket.rungs[rung][number] = loss
        decisions = self._close(index)
        if all(decision.trial != number for decision in decisions):
            members = bracket.rungs[rung]
            here = sum(value is not None for value in members.values())
            wanted = max(len(members), self.plan(index).sizes[0] if rung == 0 and self._takes(index) else 0)
            reason = f"{self._place(index, rung)}: {here} of {wanted} have arrived"
            decisions.append(Decision(number, Pause(reason=reason)))
        return decisions

    def on_end(self, trial: TrialView, status: str) -> Decisions:
        """Wait for it no more; close its rung if all others have arrived."""
        index, rung = self._home.pop(trial.number)
        self._brackets[index].rungs[rung].pop(trial.number, None)
        self._last.pop(trial.number, None)
        return self._close(index)

    def on_supply_end(self) -> Decisions:
        """Let the last bracket go on with the trials that it has."""
        self._over = True
        return self._close(len(self._brackets) - 1) if self._brackets else None

    def state(self) -> Mapping[str, Any]:
        """Return the members of all rungs as plain data."""
        return {
            "brackets": [[b.filled, b.used, b.closed, [list(r.items()) for r in b.rungs]] for b in self._brackets],
            "home": [[number, *home] for number, home in self._home.items()],
            "last": [[number, *last] for number, last in self._last.items()],
            "over": self._over,
        }

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._brackets = [
            _Bracket([{int(n): loss for n, loss in rung} for rung in rungs], filled, used, closed)
            for filled, used, closed, rungs in data["brackets"]
        ]
        self._home = {number: (bracket, rung) for number, bracket, rung in data["home"]}
        self._last = {number: (at, loss) for number, at, loss in data["last"]}
        self._over = data["over"]

    def describe(self) -> Mapping[str, Any]:
        """Return the brackets: the levels and sizes of their rungs, who has arrived, and the resource spent."""
        return {
            "resource": self.resource,
            "brackets": [
                {
                    "trials": bracket.filled,
                    "of": self.plan(index).sizes[0],
                    self.resource: bracket.used,
                    "rungs": [
                        {
                            "level": level,
                            "size": size,
                            "members": len(members),
                            "arrived": sum(loss is not None for loss in members.values()),
                        }
                        for level, size, members in zip(
                            self.plan(index).levels, self.plan(index).sizes, bracket.rungs, strict=True
                        )
                    ],
                }
                for index, bracket in enumerate(self._brackets)
            ],
        }

    def _note(self, number: int, report: Report) -> tuple[float, float]:
        self._last[number] = reached(report, self.resource), self._sign * float(report.value(self._metric))
        return self._last[number]

    def _filling(self) -> bool:
        """Whether the last bracket takes the next trial."""
        return bool(self._brackets) and self._takes(len(self._brackets) - 1)

    def _takes(self, index: int) -> bool:
        bracket = self._brackets[index]
        last = index == len(self._brackets) - 1
        return last and not self._over and not bracket.closed and bracket.filled < self.plan(index).sizes[0]

    def _place(self, index: int, rung: int) -> str:
        return f"bracket {index}, rung {rung} ({self.resource} {self.plan(index).levels[rung]:g})"

    def _close(self, index: int) -> list[Decision]:
        """Decide about all members of the lowest rung of a bracket that has any, where it is complete."""
        bracket, plan = self._brackets[index], self.plan(index)
        rung = next((i for i, members in enumerate(bracket.rungs) if members), None)
        if rung is None or self._takes(index):
            return []
        members = bracket.rungs[rung]
        losses = {number: loss for number, loss in members.items() if loss is not None}
        if len(losses) < len(members):
            return []
        bracket.closed = max(bracket.closed, rung + 1)
        ranked = sorted(members, key=lambda number: (losses[number], number))
        keep = self._keep(bracket.filled, plan, rung)
        members.clear()
        decisions = []
        for rank, number in enumerate(ranked, start=1):
            reason = f"{self._place(index, rung)}: rank {rank}/{len(ranked)}, keep {min(keep, len(ranked))}"
            if rank > keep:
                decisions.append(Decision(number, Stop(reason=reason)))
                continue
            at, loss = self._last[number]
            if at >= plan.levels[-1]:
                reason = f"{self.resource} {plan.levels[-1]:g}: reached max"
                decisions.append(Decision(number, Stop(reason=reason, completed=True)))
                continue
            self._home[number] = index, rung + 1
            ahead = at >= plan.levels[rung + 1]
            bracket.rungs[rung + 1][number] = loss if ahead else None
            if not ahead:
                decisions.append(Decision(number, Continue(until=plan.levels[rung + 1], save=True, reason=reason)))
        return decisions + self._close(index)

    @staticmethod
    def _keep(filled: int, plan: Plan, rung: int) -> int:
        """How many of a rung go on: n_{i+1}, or the same share of a bracket that did not fill."""
        if rung + 1 >= len(plan.sizes):
            return filled
        share = plan.sizes[rung + 1] / plan.sizes[0]
        return max(1, min(plan.sizes[rung + 1], math.floor(filled * share + 1e-9)))
