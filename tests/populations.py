"""Three small schedulers that decide about trials other than the one that has reported. They are told in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.seeds import rng
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Pause, Stop


class Synchronous:
    """Successive halving as it was first written: a rung closes once all of its members have arrived or have ended.

    `size` trials make a bracket (fewer at the end of the supply). The best 1 / eta of a rung go on, the others are
    stopped. A trial that runs on although it was to wait counts in the next rung with what it reported last. Every
    other trial saves at its milestones without being asked; of the rest, some still pause when their rung closes.
    """

    resource = "step"

    def __init__(self, size: int = 4, eta: int = 2, levels: tuple[int, ...] = (1, 2, 4, 8)) -> None:
        self.size, self.eta, self.levels = size, eta, levels

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        self.metric, self.sign = metric, (1 if mode == "min" else -1)
        self.last: dict[int, tuple[int, float]] = {}  # (step, loss) of the last report of those that live
        self.rungs: dict[tuple[int, int], dict[int, float | None]] = {}  # (bracket, rung): members, loss on arrival
        self.home: dict[int, tuple[int, int]] = {}  # the rung that a trial is in, or on its way to
        self.bracket, self.filled, self.over = 0, 0, False

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        step = trial.last.step if trial.last else 0
        return next((level for level in self.levels if level > step), None), trial.number % 2 == 0

    def choose(self, candidates: Candidates) -> int | None:
        trial = next(candidates.waiting(), None)
        if trial is not None:
            return trial.number
        absent = (n for n, key in self.home.items() if self.rungs[key][n] is None)
        return next((n for n in absent if candidates.paused(n)), None)

    def on_add(self, trial: TrialView) -> None:
        if self.filled == self.size or (self.over and self.filled):
            self.bracket, self.filled = self.bracket + 1, 0
        self.filled, self.over = self.filled + 1, False
        if trial.last is not None:  # a person has it tried again
            self.last[trial.number] = trial.last.step, self.sign * trial.last.metrics[self.metric]
        self._join(trial.number, (self.bracket, 0))

    def on_start(self, trial: TrialView) -> None:
        pass

    def on_report(self, trial: TrialView, report: Report) -> Any:
        number = trial.number
        self.last[number] = report.step, self.sign * report.metrics[self.metric]
        if report.step >= self.levels[-1]:
            return Stop(reason="it has reached the top", completed=True)
        key = self.home[number]
        if report.step < self.levels[key[1]] or self.rungs[key][number] is not None:  # or it was let go on
            return None
        self.rungs[key][number] = self.last[number][1]
        decisions = self._close(key)
        if all(decision.trial != number for decision in decisions):
            decisions.append(Decision(number, Pause(reason=f"it waits for rung {key}")))
        return decisions

    def on_end(self, trial: TrialView, status: str) -> Any:
        key = self.home.pop(trial.number)
        del self.rungs[key][trial.number]
        self.last.pop(trial.number, None)
        return self._close(key)

    def on_supply_end(self) -> Any:
        self.over = True
        return self._close((self.bracket, 0))

    def describe(self) -> Mapping[str, Any]:
        return {f"{bracket}.{rung}": len(members) for (bracket, rung), members in self.rungs.items()}

    def state(self) -> Mapping[str, Any]:
        rungs = [[*key, list(members.items())] for key, members in self.rungs.items()]
        return {"last": list(self.last.items()), "rungs": rungs, "rest": [self.bracket, self.filled, self.over],
                "home": list(self.home.items())}  # fmt: skip

    def load_state(self, data: Mapping[str, Any]) -> None:
        self.last = {number: (step, loss) for number, (step, loss) in data["last"]}
        self.rungs = {(bracket, rung): dict(members) for bracket, rung, members in data["rungs"]}
        self.home = {number: (bracket, rung) for number, (bracket, rung) in data["home"]}
        self.bracket, self.filled, self.over = data["rest"]

    def _join(self, number: int, key: tuple[int, int]) -> None:
        self.home[number] = key
        self.rungs.setdefault(key, {})[number] = None

    def _close(self, key: tuple[int, int]) -> list[Decision]:
        """Decide about all members of a rung, where it is complete."""
        members, (bracket, rung) = self.rungs.get(key, {}), key
        filling = bracket == self.bracket and rung == 0 and self.filled < self.size and not self.over
        earlier = any(self.rungs.get((bracket, lower)) for lower in range(rung))
        if not members or filling or earlier or None in members.values():
            return []
        ranked = sorted(members, key=lambda number: (members[number], number))
        keep = max(1, len(ranked) // self.eta)
        decisions = []
        for rank, number in enumerate(ranked, start=1):
            reason = f"rung {bracket}.{rung}: rank {rank}/{len(ranked)}, keep {keep}"
            if rank > keep:
                decisions.append(Decision(number, Stop(reason=reason)))
                continue
            step, loss = self.last[number]
            if step >= self.levels[-1]:
                decisions.append(Decision(number, Stop(reason="it has reached the top", completed=True)))
                continue
            del members[number]
            self._join(number, (bracket, rung + 1))
            if step >= self.levels[rung + 1]:
                self.rungs[bracket, rung + 1][number] = loss
            else:
                save = number % 2 == 0
                decisions.append(Decision(number, Continue(until=self.levels[rung + 1], save=save, reason=reason)))
        return decisions + self._close((bracket, rung + 1))


class Thaw:
    """Freezes what runs, whoever has reported, where a frozen trial looks better; thaws the best first.

    At every third report it looks at those that have trained for `patience` reports since they were thawed.
    """

    resource = "step"
    patience = 2

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        self.metric, self.sign = metric, (1 if mode == "min" else -1)
        self.losses: dict[int, float] = {}
        self.since: dict[int, int] = {}  # reports since it was started; those of frozen ones are negative
        self.heard, self.over = 0, False

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        return None, False

    def choose(self, candidates: Candidates) -> int | None:
        new = next(candidates.waiting(), None)
        if new is not None:
            return new.number
        frozen = sorted(self.losses, key=lambda number: (self.losses[number], number))
        return next((number for number in frozen if candidates.paused(number)), None)

    def on_add(self, trial: TrialView) -> None:
        self.losses[trial.number], self.over = -99.0, False  # what has not been tried may be the best

    def on_start(self, trial: TrialView) -> None:
        self.since[trial.number] = 0

    def on_report(self, trial: TrialView, report: Report) -> Any:
        self.losses[trial.number] = self.sign * report.metrics[self.metric]
        self.since[trial.number] = max(self.since[trial.number], 0) + 1
        self.heard += 1
        if self.heard % 3:
            return None
        old = [n for n, reports in self.since.items() if reports >= self.patience]
        frozen = [self.losses[n] for n in self.losses if self.since.get(n, -1) < 0]
        best = min(frozen if self.over else [-99.0], default=None)
        worst = max(old, key=lambda n: (self.losses[n], n), default=None)
        if best is None or worst is None or self.losses[worst] <= best:
            return None
        self.since[worst] = -1
        return [Decision(worst, Pause(reason=f"frozen at {self.losses[worst]:g}: another has {best:g}"))]

    def on_end(self, trial: TrialView, status: str) -> None:
        self.losses.pop(trial.number, None)
        self.since.pop(trial.number, None)

    def on_supply_end(self) -> None:
        self.over = True

    def describe(self) -> Mapping[str, Any]:
        return {
            "heard": self.heard,
            "over": self.over,
            "losses": list(self.losses.items()),
            "since": list(self.since.items()),
        }


class Generations:
    """PBT by generations: all pause every `interval` steps; then the worst third become clones of the best."""

    resource = "step"

    def __init__(self, interval: int = 2) -> None:
        self.interval = interval

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        self.metric, self.sign, self.seed = metric, (1 if mode == "min" else -1), seed
        self.arrived: dict[int, float | None] = {}
        self.steps: dict[int, int] = {}
        self.configs: dict[int, Any] = {}
        self.over, self.number = False, 0

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        return self._next(trial.last.step if trial.last else 0), True

    def choose(self, candidates: Candidates) -> int | None:
        trial = next(candidates.waiting(), None)
        if trial is not None:
            return trial.number
        return next((n for n, loss in self.arrived.items() if loss is None and candidates.paused(n)), None)

    def on_add(self, trial: TrialView) -> None:
        self.over, self.arrived[trial.number] = False, None
        self.steps[trial.number], self.configs[trial.number] = trial.last.step if trial.last else 0, dict(trial.config)

    def on_start(self, trial: TrialView) -> None:
        pass

    def on_report(self, trial: TrialView, report: Report) -> Any:
        self.steps[trial.number], self.configs[trial.number] = report.step, dict(trial.config)
        if report.step % self.interval:
            return None
        self.arrived[trial.number] = self.sign * report.metrics[self.metric]
        return self._turn() or Pause(reason="it waits for its generation")

    def on_end(self, trial: TrialView, status: str) -> Any:
        for known in (self.arrived, self.steps, self.configs):
            known.pop(trial.number, None)
        return self._turn()

    def on_supply_end(self) -> Any:
        self.over = True
        return self._turn()

    def describe(self) -> Mapping[str, Any]:
        return {"generation": self.number, "arrived": list(self.arrived.items()), "steps": list(self.steps.items())}

    def _next(self, step: int) -> int:
        return (step // self.interval + 1) * self.interval

    def _turn(self) -> list[Decision]:
        """Begin the next generation, where all have arrived."""
        if not self.arrived or None in self.arrived.values() or not self.over:
            return []
        self.number += 1
        ranked = sorted(self.arrived, key=lambda number: (self.arrived[number], number))
        third = len(ranked) // 3
        decisions = []
        for rank, number in enumerate(ranked):
            until, reason = self._next(self.steps[number]), f"generation {self.number}: rank {rank + 1}/{len(ranked)}"
            self.arrived[number] = None
            if rank < len(ranked) - third:
                decisions.append(Decision(number, Continue(until=until, save=True, reason=reason)))
                continue
            source = ranked[int(rng(self.seed, number, f"clone {self.number}").integers(third))]
            config = {**self.configs[source], "x": round(float(self.configs[source]["x"]) * 0.8, 3)}
            decisions.append(Decision(number, Clone(source=source, config=config, until=until, reason=reason)))
        return decisions
