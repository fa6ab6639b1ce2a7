"""Each published rule, written down again as naively as possible, against its scheduler in whole plays.

In a play trials fail, are tried again, stopped, paused and added by persons, drivers restart, nodes come and go. A rule
hears what its scheduler hears; each verdict and each choice has to be what the rule says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.tune_platform.schedulers.test_asha import Naive
from tune_platform import uniform
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView, decisions_of
from tune_platform.protocol.verdicts import Clone, Continue, Pause, Stop, Verdict
from tune_platform.schedulers import (
    ASHA,
    MFPBT,
    MOASHA,
    PASHA,
    PB2,
    PBT,
    AsyncHyperBand,
    FreezeThaw,
    HyperBand,
    MedianStopping,
    SuccessiveHalving,
)
from tune_platform.space import Space
from tune_platform.testing.play import Play, World, memory

#: What a rule says: of each trial that is decided about, the kind of verdict, and whom a clone may copy.
Said = Mapping[int, Any]


class Watched:
    """A scheduler beside its rule."""

    def __init__(self, scheduler: Any, rule: Any) -> None:
        self.scheduler, self.rule, self.resource = scheduler, rule, scheduler.resource
        self.checked = 0

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        self.scheduler.setup(metric=metric, mode=mode, seed=seed)
        self.rule.setup(1.0 if mode == "min" else -1.0)

    def until(self, trial: TrialView) -> Any:
        return self.scheduler.until(trial)

    def choose(self, candidates: Candidates) -> int | None:
        found: int | None = self.scheduler.choose(candidates)
        assert not hasattr(self.rule, "choose") or found == self.rule.choose(candidates)
        return found

    def on_add(self, trial: TrialView) -> Any:
        return self._compare(self.scheduler.on_add(trial), self.rule.add(trial), trial)

    def on_start(self, trial: TrialView) -> None:
        self.scheduler.on_start(trial)
        self.rule.start(trial)

    def on_report(self, trial: TrialView, report: Report) -> Any:
        return self._compare(self.scheduler.on_report(trial, report), self.rule.report(trial, report), trial)

    def on_end(self, trial: TrialView, status: str) -> Any:
        return self._compare(self.scheduler.on_end(trial, status), self.rule.end(trial), trial)

    def on_supply_end(self) -> Any:
        return self._compare(self.scheduler.on_supply_end(), self.rule.supply_end(), None)

    def describe(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.scheduler.describe()
        return found

    def _compare(self, answer: Any, said: Said | None, trial: TrialView | None) -> Any:
        found = {d.trial: d.verdict for d in decisions_of(self.scheduler, answer, trial.number if trial else None)}
        wanted = said or {}
        assert set(found) == set(wanted), f"{found} is not about {wanted}"
        for number, verdict in found.items():
            assert self.rule.agrees(number, verdict, wanted[number]), (
                f"trial {number}: {verdict}, and the rule: {wanted[number]}"
            )
            self.checked += 1
        return answer


class Rungs:
    """ASHA in brackets: Li et al. 2020, algorithm 2 and its stopping form. One bracket, and `top`, for PASHA."""

    def __init__(self, scheduler: Any, brackets: int, *, promotion: bool) -> None:
        self.scheduler, self.count, self.promotion = scheduler, brackets, promotion

    def setup(self, sign: float) -> None:
        low, high, eta = self.scheduler.min, self.scheduler.max, self.scheduler.eta
        self.sign = sign
        self.brackets = [Naive(min=low * eta**s, max=high, eta=eta, sign=sign) for s in range(self.count)]

    def of(self, number: int) -> Naive:
        return self.brackets[self.scheduler.bracket(number) if self.count > 1 else 0]

    def add(self, trial: TrialView) -> None:
        pass

    def start(self, trial: TrialView) -> None:
        naive = self.of(trial.number)
        for recorded, promoted in zip(naive.rungs, naive.promoted, strict=True):
            if trial.number in [number for _, number in recorded]:
                promoted.add(trial.number)

    def end(self, trial: TrialView) -> None:
        self.start(trial)

    def supply_end(self) -> None:
        pass

    def report(self, trial: TrialView, report: Report) -> Said | None:
        naive = self.of(trial.number)
        arrival = naive.arrive(trial.number, report.step, report.metrics["loss"])
        if arrival is None:
            return None
        rung, rank = arrival
        if naive.levels[rung] == naive.max:
            return {trial.number: "completed"}
        if self.promotion:
            return {trial.number: Pause}
        return {trial.number: Continue if naive.goes_on(rung, rank) else Stop}

    def rungs_that_promote(self, naive: Naive) -> range:
        return range(len(naive.levels))

    def choose(self, candidates: Candidates) -> int | None:
        for naive in self.brackets if self.promotion else ():
            for k in reversed(self.rungs_that_promote(naive)):
                arrived = naive.rungs[k]
                ranked = sorted(range(len(arrived)), key=lambda i, arrived=arrived: (arrived[i][0], i))  # type: ignore[misc]
                for i in ranked[: int(len(arrived) / naive.eta + 1e-9)]:
                    number = arrived[i][1]
                    if number not in naive.promoted[k] and candidates.paused(number) is not None:
                        return number
        waiting = [trial.number for trial in candidates.waiting()]
        return waiting[0] if waiting else None

    def agrees(self, number: int, verdict: Verdict, wanted: Any) -> bool:
        if isinstance(verdict, Stop) and verdict.completed:
            return bool(wanted == "completed")
        return type(verdict) is wanted


class Progressive(Rungs):
    """PASHA: Bohdal et al. 2023, algorithm 1 with soft ranking, epsilon by the 90th percentile (their section 4.3)."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler, 1, promotion=True)

    def setup(self, sign: float) -> None:
        super().setup(sign)
        self.top, self.noise = 1, []  # type: tuple[int, list[float]]
        self.curves: dict[int, dict[int, float]] = {}

    def rungs_that_promote(self, naive: Naive) -> range:
        return range(self.top)

    def report(self, trial: TrialView, report: Report) -> Said | None:
        [naive] = self.brackets
        self.curves.setdefault(trial.number, {})[report.step] = self.sign * report.metrics["loss"]
        before = len(naive.rungs[self.top])
        said = super().report(trial, report)
        if len(naive.rungs[self.top]) > before and naive.levels[self.top] != naive.max:
            mine = self.curves[trial.number]
            for _, other in naive.rungs[self.top]:
                shared = sorted(set(mine) & set(self.curves[other]))
                gaps = [mine[step] - self.curves[other][step] for step in shared]
                ups = [gap > 0 for gap in gaps if gap]
                if other != trial.number and sum(a != b for a, b in pairwise(ups)) >= 2:
                    self.noise.append(abs(gaps[-1]))
            epsilon = float(np.percentile(self.noise, 90)) if self.noise else 0.0
            below = {number: loss for loss, number in naive.rungs[self.top - 1]}
            above = {number: loss for loss, number in naive.rungs[self.top] if number in below}
            now = sorted(above, key=lambda n: (above[n], n))
            then = sorted(above, key=lambda n: (below[n], n))
            if any(abs(below[a] - below[b]) > epsilon + 1e-9 for a, b in zip(now, then, strict=True)):
                self.top, self.noise = self.top + 1, []
        return said


class Population:
    """PBT: Jaderberg et al. 2017, algorithm 1 with truncation selection and x1.2 or x0.8, in turn or all at once."""

    def __init__(self, interval: int, quantile: float, *, together: bool = False) -> None:
        self.interval, self.quantile, self.together = interval, quantile, together

    def setup(self, sign: float) -> None:
        self.sign, self.generation, self.over = sign, 0, False
        self.configs: dict[int, float] = {}
        self.scores: dict[int, float] = {}
        self.reached: dict[int, int] = {}
        self.placeless: set[int] = set()
        self.arrived: set[int] = set()

    def add(self, trial: TrialView) -> None:
        self.configs[trial.number] = trial.config["x"]
        self.reached[trial.number] = trial.last.step if trial.last else 0
        self.placeless.add(trial.number)
        self.over = False

    def start(self, trial: TrialView) -> None:
        self.placeless.discard(trial.number)
        self.configs[trial.number] = trial.config["x"]

    def end(self, trial: TrialView) -> Said | None:
        for known in (self.configs, self.scores, self.reached):
            known.pop(trial.number, None)
        self.placeless.discard(trial.number)
        self.arrived.discard(trial.number)
        return self.turn()

    def supply_end(self) -> Said | None:
        self.over = True
        return self.turn()

    def report(self, trial: TrialView, report: Report) -> Said | None:
        number, before = trial.number, self.reached[trial.number]
        self.reached[number], self.configs[number] = report.step, trial.config["x"]
        self.placeless.discard(number)
        if report.step // self.interval <= before // self.interval:
            return None
        self.scores[number] = self.sign * report.metrics["loss"]
        if self.together:
            self.arrived.add(number)
            return self.turn() or {number: Pause}
        said = self.exploit(number, list(self.scores))
        if said is not Continue or all(self.reached[other] >= report.step for other in self.placeless):
            return {number: said}
        self.placeless.add(number)
        return {number: Pause}

    def ranked(self, members: Sequence[int]) -> list[int]:
        return sorted(members, key=lambda n: (self.scores[n], n))

    def exploit(self, number: int, members: Sequence[int]) -> Any:
        ranked, size = self.ranked(members), int(len(members) * self.quantile + 1e-9)
        return dict.fromkeys(ranked[:size]) if number in ranked[len(ranked) - size :] else Continue

    def turn(self) -> Said | None:
        if not self.together or not self.over or not self.arrived or self.arrived != set(self.configs):
            return None
        self.generation += 1
        members, self.arrived = self.arrived, set()
        return self.judge(sorted(members))

    def judge(self, members: Sequence[int]) -> Said:
        return {number: self.exploit(number, members) for number in members}

    def agrees(self, number: int, verdict: Verdict, wanted: Any) -> bool:
        """A clone copies one of those that may be copied, with x as wanted, or perturbed (None)."""
        if not isinstance(verdict, Clone) or not isinstance(wanted, dict):
            return type(verdict) is wanted
        x = verdict.config["x"]
        if verdict.source not in wanted or not 0 <= x <= 1:
            return False
        if wanted[verdict.source] is not None:
            return bool(x == wanted[verdict.source])
        of = self.configs[verdict.source]
        return any(math.isclose(x, min(of * factor, 1.0)) for factor in (1.2, 0.8))


class Frequencies(Population):
    """MF-PBT: sub-populations evolve every so many generations; the quantile above the lowest makes room for better
    ones of the others, with the config of slower ones and, from faster ones, the weights alone."""

    def judge(self, members: Sequence[int]) -> Said:
        said: dict[int, Any] = dict.fromkeys(members, Continue)
        for home, frequency in enumerate((1, 3)):
            own = self.ranked([n for n in members if n % 2 == home])
            if self.generation % frequency:
                continue
            said.update({number: self.exploit(number, own) for number in own})
            size = int(len(own) * self.quantile + 1e-9)
            abroad = self.ranked([n for n in members if n % 2 != home])
            for number, migrant in zip(own[len(own) - 2 * size : len(own) - size], abroad, strict=False):
                if self.scores[migrant] >= self.scores[number]:
                    break
                said[number] = {migrant: self.configs[migrant if home == 0 else own[0]]}
        return said


X = {"x": uniform(0, 1)}


def make(kind: str) -> tuple[Any, Any]:
    """Return a scheduler and its rule."""
    match kind:
        case "brackets, stopping":
            scheduler: Any = AsyncHyperBand(max=27, brackets=3)
            return scheduler, Rungs(scheduler, 3, promotion=False)
        case "brackets, promotion":
            scheduler = AsyncHyperBand(max=16, eta=2, brackets=4, type="promotion")
            return scheduler, Rungs(scheduler, 4, promotion=True)
        case "pasha":
            scheduler = PASHA(max=32, eta=2)
            return scheduler, Progressive(scheduler)
        case "pbt":
            return PBT(interval=3, mutations=X, quantile=0.4, resample=0), Population(3, 0.4)
        case "pbt, generations":
            scheduler = PBT(interval=3, mutations=X, quantile=0.4, resample=0, synchronous=True)
            return scheduler, Population(3, 0.4, together=True)
    scheduler = MFPBT(interval=1, frequencies=(1, 3), mutations=X, quantile=0.34, resample=0)
    return scheduler, Frequencies(1, 0.34, together=True)


KINDS = (
    "brackets, stopping",
    "brackets, promotion",
    "pasha",
    "pbt",
    "pbt, generations",
    "mf_pbt",
)


def metrics(step: int, draw: Any) -> dict[str, Any]:
    loss = round(draw.random(), 1)  # one digit: there are ties
    return {"loss": loss, "size": round((7 * loss) % 1, 1)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_decided_is_the_rule(kind: str) -> None:
    checked = 0
    for seed in range(6):
        watched = Watched(*make(kind))
        world = World(
            metrics=metrics, seed=seed, mode=("min", "max")[seed % 2], trials=14,
            trouble=(0.0, 0.05, 0.2)[seed % 3], places=1 + seed % 5,
        )  # fmt: skip
        Play(watched, world).go()
        checked += watched.checked
    assert checked > 100


def fronts() -> MOASHA:
    scheduler = MOASHA(max=16, eta=2)
    scheduler.prepare(Space({"x": uniform(0, 1)}), ("loss", "size"), ("min", "max"))
    return scheduler


#: Those whose rules are in `test_second_copies.py`.
OTHERS: dict[str, Any] = {
    "asha, stopping": lambda: ASHA(max=16, eta=2),
    "asha, promotion": lambda: ASHA(max=16, eta=2, type="promotion"),
    "successive_halving": lambda: SuccessiveHalving(n=4, max=8, eta=2),
    "hyperband": lambda: HyperBand(max=9),
    "median": lambda: MedianStopping(min_samples=2),
    "median, pausing": lambda: MedianStopping(min_samples=2, hard=False),
    "mo_asha": fronts,
    "pb2": lambda: PB2(interval=3, mutations=X, quantile=0.4, resample=0),
    "pb2, generations": lambda: PB2(interval=3, mutations=X, quantile=0.4, resample=0, synchronous=True),
    "freeze_thaw": lambda: FreezeThaw(max=12, interval=4),
}


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_a_cut_at_every_row_changes_nothing(kind: str) -> None:
    """Told the first rows, or given the state after them: what follows is what followed."""

    def new() -> Any:
        return OTHERS[kind]() if kind in OTHERS else make(kind)[0]

    world = World(metrics=metrics, seed=3, trials=4, trouble=0.15, places=2)
    whole = Play(new(), world)
    whole.go(moves=60)  # populations live long, and each cut is told the whole
    for cut in range(len(whole.past) + 1):
        again = Play(new(), world)
        again.retell(whole.past[:cut])
        assert not again.difference
        if cut % 2:
            loaded = new()
            loaded.setup(metric="loss", mode=world.mode, seed=world.seed)
            loaded.load_state(json.loads(json.dumps(again.referee.scheduler.state())))  # type: ignore[attr-defined]
            again.referee.scheduler = loaded
        for event, _, effects in whole.past[cut:]:
            again.feed(event)
            assert again.past[-1][2] == effects, f"after the first {cut} facts: {event}"
        assert memory(again.referee.scheduler) == memory(whole.referee.scheduler)
