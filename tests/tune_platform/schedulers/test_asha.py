"""ASHA against the paper's rule, written down as naively as possible."""

from __future__ import annotations

import gc
import json
import math
import random
import sys
import tracemalloc
from array import array
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Continue, Pause, Stop
from tune_platform.schedulers import ASHA
from tune_platform.schedulers._rungs import PromotionRung, Rung, packed, unpacked
from tune_platform.testing.schedulers import FakeCandidates, FakeTrial, SchedulerContract


class TestStopping(SchedulerContract):
    def make_scheduler(self) -> ASHA:
        return ASHA(max=9)


class TestPromotion(SchedulerContract):
    def make_scheduler(self) -> ASHA:
        return ASHA(max=9, type="promotion")


class TestInfinite(SchedulerContract):
    increment = 0.75

    def make_scheduler(self) -> ASHA:
        return ASHA(resource="samples", min=0.5, eta=1.5)


class TestFractional(SchedulerContract):
    def make_scheduler(self) -> ASHA:
        return ASHA(eta=1.5, max=30, type="promotion")


class TestEpochs(SchedulerContract):
    increment = 5

    def make_scheduler(self) -> ASHA:
        return ASHA(resource="epoch", min=2, max=100, eta=4, type="promotion")


class Naive:
    """Li et al., Algorithm 2, with lists that are sorted anew each time; and the stopping form of the module's page."""

    def __init__(self, *, min: float, max: float | None, eta: float, sign: float) -> None:
        self.min, self.max, self.eta, self.sign = min, max, eta, sign
        self.levels: list[float] = []
        power = 0
        while not self.levels or (self.levels[-1] != max and len(self.levels) < 40):
            level = min * eta**power
            if float(min).is_integer():
                level = math.floor(level + 1e-9)
            if max is not None and level > max:
                level = max
            power += 1
            if level not in self.levels:
                self.levels.append(level)
        self.rungs: list[list[tuple[float, int]]] = [[] for _ in self.levels]  # (loss, trial) by arrival
        self.promoted: list[set[int]] = [set() for _ in self.levels]

    def arrive(self, trial: int, resource: float, value: float) -> tuple[int, int] | None:
        """Record; return (rung, rank), or None where there is no rung at hand."""
        below = [k for k, level in enumerate(self.levels) if level <= resource]
        if not below or trial in [number for _, number in self.rungs[below[-1]]]:
            return None
        rung = self.rungs[below[-1]]
        rung.append((self.sign * value, trial))
        return below[-1], 1 + sum(loss <= self.sign * value for loss, _ in rung[:-1])

    def goes_on(self, rung: int, rank: int) -> bool:
        return rank <= max(1, math.floor(len(self.rungs[rung]) / self.eta + 1e-9))

    def get_job(self, paused: set[int]) -> int | None:
        """The paper's get_job, from the top rung down; None where it would start a new trial."""
        for k in reversed(range(len(self.rungs))):
            ranked = sorted(range(len(self.rungs[k])), key=lambda i, k=k: (self.rungs[k][i][0], i))  # type: ignore[misc]
            top = [self.rungs[k][i][1] for i in ranked[: math.floor(len(ranked) / self.eta + 1e-9)]]
            for number in top:
                if number not in self.promoted[k] and number in paused:
                    self.promoted[k].add(number)
                    return number
        return None


shapes = st.tuples(
    st.sampled_from([1, 2, 0.5, 3]),
    st.sampled_from([None, 3, 8, 27, 20]),
    st.sampled_from([2, 3, 4, 1.5, 2.7]),
    st.sampled_from([1, 0.5, 2, 5]),  # what one report adds to the resource
    st.sampled_from(["step", "epoch", "samples"]),
    st.sampled_from(["min", "max"]),
)


def build(shape: Any, type: Any) -> tuple[ASHA, Naive, float]:
    low, high, eta, increment, resource, mode = shape
    increment = 1 if resource == "step" else increment
    scheduler = ASHA(resource=resource, min=low, max=high, eta=eta, type=type)
    scheduler.setup(metric="loss", mode=mode, seed=0)
    return scheduler, Naive(min=low, max=high, eta=eta, sign=1 if mode == "min" else -1), increment


def report(scheduler: ASHA, trial: FakeTrial, value: float, increment: float) -> Report:
    step = trial.last.step + 1 if trial.last else 1
    trial.last = Report(step, {"loss": value, "epoch": step * increment, "samples": step * increment}, 0.0)
    return trial.last


@settings(max_examples=200, deadline=None)
@given(shapes, st.integers(0, 10**9))
def test_stopping_is_the_rule(shape: Any, seed: int) -> None:
    draw = random.Random(seed)
    moves = [(draw.randrange(40), draw.choice([0.0, 0.1, 0.1, 0.2, 0.5, 1.0, -1.0])) for _ in range(300)]
    scheduler, naive, increment = build(shape, "stopping")
    trials = {n: FakeTrial(n, {}) for n in range(40)}
    for number, value in moves:
        trial = trials[number]
        if trial.status == "over":
            continue
        now = report(scheduler, trial, value, increment)
        reached = float(now.value(scheduler.resource))
        verdict = scheduler.on_report(trial, now)
        arrival = naive.arrive(number, reached, value)
        if arrival is None:
            assert verdict is None
        elif naive.levels[arrival[0]] == naive.max:
            assert isinstance(verdict, Stop)
            assert verdict.completed
            trial.status = "over"
        elif naive.goes_on(*arrival):
            assert isinstance(verdict, Continue)
            assert verdict.until == naive.levels[arrival[0] + 1]
            assert f"rank {arrival[1]}/{len(naive.rungs[arrival[0]])}" in verdict.reason
        else:
            assert isinstance(verdict, Stop)
            assert not verdict.completed
            trial.status = "over"


@settings(max_examples=200, deadline=None)
@given(shapes, st.integers(0, 10**9), st.sets(st.integers(0, 29), max_size=9))
def test_promotion_is_algorithm_2(shape: Any, seed: int, by_persons: set[int]) -> None:
    draw = random.Random(seed)
    moves = [(draw.randrange(99), draw.choice([0.0, 0.1, 0.1, 0.2, 0.5, 1.0]), draw.random() < 0.5) for _ in range(150)]
    scheduler, naive, increment = build(shape, "promotion")
    trials = {n: FakeTrial(n, {}) for n in range(30)}
    for pick, value, holds in moves:
        held = by_persons if holds else set()
        running = [trial for trial in trials.values() if trial.status == "running"]
        while len(running) < 3:
            paused = {n for n, trial in trials.items() if trial.status == "paused"}
            expected = naive.get_job(paused - held)
            if expected is None:
                fresh = [n for n, trial in trials.items() if trial.status == "waiting" and n not in held]
                expected = fresh[0] if fresh else None
            assert scheduler.choose(FakeCandidates(trials, unfit=held)) == expected
            if expected is None:
                break
            trial = trials[expected]
            trial.status = "running"
            scheduler.on_start(trial)
            until, save = scheduler.until(trial)
            reached = float(trial.last.value(scheduler.resource)) if trial.last else 0.0
            assert until == next((level for level in naive.levels if level > reached), None)
            assert save == (until is not None)
            running.append(trial)
        if not running:
            return
        trial = running[pick % len(running)]
        now = report(scheduler, trial, value, increment)
        verdict = scheduler.on_report(trial, now)
        arrival = naive.arrive(trial.number, float(now.value(scheduler.resource)), value)
        if arrival is None:
            assert verdict is None
        elif naive.levels[arrival[0]] == naive.max:
            assert isinstance(verdict, Stop)
            assert verdict.completed
            trial.status = "over"
            scheduler.on_end(trial, "completed")
        else:
            assert isinstance(verdict, Pause)
            trial.status = "paused"


def test_one_who_is_held_keeps_the_turn() -> None:
    scheduler = ASHA(max=9, type="promotion")
    scheduler.setup(metric="loss", mode="min", seed=0)
    trials = {n: FakeTrial(n, {}) for n in range(4)}
    for n in range(3):
        trials[n].last = now = Report(1, {"loss": float(n)}, 0.0)
        assert isinstance(scheduler.on_report(trials[n], now), Pause)
        trials[n].status = "paused"
    assert scheduler.choose(FakeCandidates(trials, unfit={0})) == 3  # a person holds trial 0, who would be promoted
    trials[3].status = "running"
    assert scheduler.choose(FakeCandidates(trials)) == 0
    trials[0].status = "running"
    scheduler.on_start(trials[0])
    assert scheduler.choose(FakeCandidates(trials)) is None


def test_infinite_horizon_has_rungs_without_end() -> None:
    scheduler = ASHA(min=1, eta=3)
    scheduler.setup(metric="loss", mode="min", seed=0)
    assert [scheduler.level(k) for k in range(6)] == [1, 3, 9, 27, 81, 243]
    trial = FakeTrial(0, {})
    for step in range(1, 1000):
        trial.last = Report(step, {"loss": 1.0}, 0.0)
        verdict = scheduler.on_report(trial, trial.last)
        assert (verdict is None) == (step not in (1, 3, 9, 27, 81, 243, 729))
    assert ASHA(max=math.inf).max is None


def test_levels_are_whole_and_differ() -> None:
    assert [ASHA(min=1, eta=1.5).level(k) for k in range(5)] == [1, 2, 3, 5, 7]
    assert [ASHA(min=1, max=20, eta=3).level(k) for k in range(6)] == [1, 3, 9, 20, 20, 20]
    assert [ASHA(min=1.5, eta=2).level(k) for k in range(3)] == [1.5, 3.0, 6.0]
    assert ASHA(min=4, max=4).level(3) == 4


def test_the_rung_at_max_completes() -> None:
    scheduler = ASHA(min=3, max=3)
    scheduler.setup(metric="loss", mode="min", seed=0)
    trial = FakeTrial(0, {})
    assert scheduler.until(trial) == (3, False)
    trial.last = Report(3, {"loss": 1.0}, 0.0)
    verdict = scheduler.on_report(trial, trial.last)
    assert isinstance(verdict, Stop)
    assert verdict.completed
    assert scheduler.until(trial) == (None, False)


def test_one_that_ends_is_not_promoted_but_counts() -> None:
    scheduler = ASHA(max=9, type="promotion")
    scheduler.setup(metric="loss", mode="min", seed=0)
    trials = {n: FakeTrial(n, {}, Report(1, {"loss": float(n)}, 0.0), "paused") for n in range(6)}
    for trial in trials.values():
        assert trial.last is not None
        scheduler.on_report(trial, trial.last)
    scheduler.on_end(trials[0], "failed")
    trials[0].status = "over"
    assert scheduler.choose(FakeCandidates(trials)) == 1
    assert scheduler.describe()["rungs"] == [{"level": 1, "arrived": 6, "keep": 2, "best": 0.0}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min": 0}, "min .* above 0, got 0"),
        ({"min": -1}, "min"),
        ({"min": math.nan}, "min"),
        ({"min": math.inf}, "min"),
        ({"min": 5, "max": 4}, "max must be at least min"),
        ({"max": math.nan}, "max"),
        ({"max": "9"}, "max must be a number, got '9'"),
        ({"eta": 1}, "eta .* from 1.01 on, got 1"),
        ({"eta": math.inf}, "eta"),
        ({"eta": True}, "eta must be a number"),
        ({"type": "stop"}, "type must be 'stopping' or 'promotion', got 'stop'"),
    ],
)
def test_bad_values(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        ASHA(**options)


class Counted(float):
    """A loss that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Counted.compared += 1
        return float.__lt__(self, other)

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return float.__eq__(self, other)

    __hash__ = float.__hash__


@pytest.mark.parametrize("kind", [Rung, PromotionRung])
def test_a_decision_costs_a_bounded_number_of_comparisons(kind: type[Rung]) -> None:
    draw = random.Random(0)

    def cost(n: int) -> float:
        rung = kind(3)
        for number in range(n):
            rung.add(Counted(draw.random()), number)
        Counted.compared = 0
        for number in range(n, n + 200):
            rung.add(Counted(draw.random()), number)
        return Counted.compared / 200

    small, large = cost(1000), cost(30_000)
    assert large < 250
    assert large < 2 * small + 50


def test_100_000_arrivals_are_all_recorded() -> None:
    scheduler = ASHA(max=9)
    scheduler.setup(metric="loss", mode="min", seed=0)
    draw = random.Random(0)

    def arrivals() -> Iterator[tuple[FakeTrial, Report]]:
        for number in range(100_000):
            trial = FakeTrial(number, {})
            trial.last = Report(1, {"loss": draw.random()}, 0.0)
            yield trial, trial.last

    for trial, now in arrivals():
        scheduler.on_report(trial, now)
    assert scheduler.describe()["rungs"][0]["arrived"] == 100_000


def test_a_rung_keeps_little_of_a_trial() -> None:
    """A million are to fit: whether it has arrived, and its loss in the order of losses."""
    draw = random.Random(0)
    gc.collect()
    tracemalloc.start()
    rung, many = Rung(3), 20_000
    for number in range(many):
        rung.add(draw.random(), number)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rung) == many
    assert size / many < 50  # bytes


def test_what_a_snapshot_says_of_a_rung_takes_little_for_a_moment() -> None:
    rung, many = Rung(3), 20_000
    for number in range(many):
        rung.add(number / 7, number)
    gc.collect()
    tracemalloc.start()
    text = json.dumps(rung.to_data())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most / many < 60  # bytes, of which the text is 11 twice
    assert Rung.of(3, json.loads(text)).to_data() == rung.to_data()


@pytest.mark.parametrize("order", ["little", "big"])
def test_packed_numbers_are_the_same_text_on_all_machines(order: Literal["little", "big"], monkeypatch: Any) -> None:
    here = array("q", [1, -2, 2**40])
    there = here[:]
    if order != sys.byteorder:
        there.byteswap()  # as a machine of that order has them
    monkeypatch.setattr(sys, "byteorder", order)
    assert packed(there) == "AQAAAAAAAAD+/////////wAAAAAAAQAA"
    assert unpacked("q", packed(there)) == there


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.sampled_from([Rung, PromotionRung]))
def test_the_rank_of_an_arrival_is_that_among_all_before_it(losses: list[int], kind: type[Rung]) -> None:
    rung = kind(3)
    for number, loss in enumerate(losses):
        assert (
            rung.add(float(loss), number)
            == sorted((each, at) for at, each in enumerate(losses[: number + 1])).index((loss, number)) + 1
        )
        assert rung.best() == min(losses[: number + 1])
        again = kind.of(3, rung.to_data())
        assert [len(again), *(number in again for number in range(30))] == [
            number + 1,
            *(n <= number for n in range(30)),
        ]
        assert again.to_data() == rung.to_data()
        assert again.best() == rung.best()


def test_who_has_left_a_rung_is_never_promoted_and_arrives_no_more() -> None:
    rung = PromotionRung(2)
    for number, loss in enumerate([0.4, 0.3, 0.2, 0.1]):
        rung.add(loss, number)
    assert [each[2] for each in rung.promotable] == [3, 2]
    rung.leave(3)
    rung.leave(17)
    assert [each[2] for each in rung.promotable] == [2]
    rung.add(0.5, 4)
    rung.add(0.6, 5)  # the cut moves
    assert [each[2] for each in rung.promotable] == [2, 1]
    assert 3 in rung
    assert 17 not in rung
    again = PromotionRung.of(2, rung.to_data())
    assert (again.to_data(), list(again.promotable), again.here) == (rung.to_data(), list(rung.promotable), rung.here)
    assert unpacked("q", rung.to_data()["promoted"]).tolist() == [3]
