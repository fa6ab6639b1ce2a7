"""Synchronous successive halving and HyperBand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Continue, Decision, Pause, Stop
from tune_platform.schedulers.asha import ASHA
from tune_platform.schedulers.async_hyperband import AsyncHyperBand
from tune_platform.schedulers.hyperband import HyperBand, brackets
from tune_platform.schedulers.successive_halving import SuccessiveHalving
from tune_platform.testing.schedulers import FakeTrial, SchedulerContract


class TestHalving(SchedulerContract):
    def make_scheduler(self) -> SuccessiveHalving:
        return SuccessiveHalving(n=4, max=8, eta=2)


class TestHalvingOfSeconds(SchedulerContract):
    """A resource that is no count, and that goes past the levels."""

    increment = 0.7

    def make_scheduler(self) -> SuccessiveHalving:
        return SuccessiveHalving(resource="hours", min=0.5, max=6, eta=3)


class TestHyperBand(SchedulerContract):
    def make_scheduler(self) -> HyperBand:
        return HyperBand(max=9)


def test_the_table_of_the_paper() -> None:
    """Table 1 of the JMLR paper: R = 81, eta = 3."""
    found = [list(zip(plan.sizes, plan.levels, strict=True)) for plan in brackets(1, 81, 3)]
    assert found == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]


def test_levels_need_not_be_whole() -> None:
    assert brackets(0.5, 2, 2)[0].levels == (0.5, 1.0, 2.0)
    assert brackets(1, 100, 3)[0].levels == (1, 3, 11, 33, 100)  # rounded down, where the resource is a count
    assert [plan.sizes[0] for plan in brackets(1, 1, 3)] == [1]


def test_as_many_as_leave_one_for_the_last_rung() -> None:
    """By hand: eta^(rungs - 1), also where that is no exact number: sqrt(2)^4 is 4.000000000000001 here."""
    assert SuccessiveHalving(max=9).plans[0].sizes == (9, 3, 1)
    assert SuccessiveHalving(max=81).n == 81
    assert SuccessiveHalving(min=0.5, max=2, eta=2**0.5).plans[0].sizes == (4, 2, 2, 1, 1)
    assert SuccessiveHalving(n=49, max=49, eta=7).plans[0].sizes == (49, 7, 1), "49 * 7**-2 is 0.9999999999999999"


def test_the_forecast_adds_up() -> None:
    """Each of the five brackets of the paper's table costs about (s_max + 1) R = 405; by hand."""
    found = HyperBand(max=81).forecast(143)
    costs = [0.0] * 5
    for (bracket, level, trials), before in zip(found.rungs, [(-1, 0.0, 0), *found.rungs], strict=False):
        costs[bracket] += (level - (before[1] if before[0] == bracket else 0)) * trials
    # 81 + 27 * 2 + 9 * 6 + 3 * 18 + 1 * 54, and so on: what has been trained is not trained again.
    assert costs == [297, 276, 279, 324, 405]
    assert found.total == sum(costs)
    assert found.saved == pytest.approx(1 - sum(costs) / (143 * 81))
    few = HyperBand(max=81).forecast(90)
    assert [rung for rung in few.rungs if rung[0] == 1] == [(1, 3, 9), (1, 9, 2), (1, 27, 1), (1, 81, 1)]
    assert SuccessiveHalving(n=9, max=9).forecast(18).rungs == (
        (0, 1, 9),
        (0, 3, 3),
        (0, 9, 1),
        (1, 1, 9),
        (1, 3, 3),
        (1, 9, 1),
    )
    assert ASHA(max=9).forecast(10) == (("step", ((0, 1, 10), (0, 3, 3), (0, 9, 1)), 22.0, 1 - 22 / 90))
    assert ASHA().forecast(10) is None
    several = AsyncHyperBand(max=9, brackets=2).forecast(14)
    assert several is not None
    assert several.rungs == ((0, 1, 9), (0, 3, 3), (0, 9, 1), (1, 3, 5), (1, 9, 1))


class Hand:
    """Trials by hand: `at` has them report."""

    def __init__(self, scheduler: Any, trials: int) -> None:
        self.scheduler = scheduler
        scheduler.setup(metric="loss", mode="min", seed=0)
        self.trials = {number: FakeTrial(number, {}) for number in range(trials)}
        for trial in self.trials.values():
            scheduler.on_add(trial)

    def at(self, number: int, step: int, loss: float) -> list[Decision]:
        report = Report(step, {"loss": loss}, 0.0)
        self.trials[number].last = report
        answer = self.scheduler.on_report(self.trials[number], report)
        if answer is None:
            return []
        return list(answer) if isinstance(answer, list) else [Decision(number, answer)]

    def end(self, number: int) -> list[Decision]:
        return list(self.scheduler.on_end(self.trials.pop(number), "failed") or [])


def kinds(decisions: list[Decision]) -> dict[int, str]:
    return {decision.trial: type(decision.verdict).__name__ for decision in decisions}


def test_a_rung_closes_when_all_have_arrived() -> None:
    """By hand: four trials, eta 2, levels 1, 2, 4."""
    hand = Hand(SuccessiveHalving(n=4, max=4, eta=2), 4)
    assert hand.at(0, 1, 0.4) == [Decision(0, Pause(reason="bracket 0, rung 0 (step 1): 1 of 4 have arrived"))]
    hand.at(1, 1, 0.1)
    hand.at(2, 1, 0.3)
    closed = hand.at(3, 1, 0.2)
    assert closed == [
        Decision(1, Continue(until=2, save=True, reason="bracket 0, rung 0 (step 1): rank 1/4, keep 2")),
        Decision(3, Continue(until=2, save=True, reason="bracket 0, rung 0 (step 1): rank 2/4, keep 2")),
        Decision(2, Stop(reason="bracket 0, rung 0 (step 1): rank 3/4, keep 2")),
        Decision(0, Stop(reason="bracket 0, rung 0 (step 1): rank 4/4, keep 2")),
    ]
    hand.end(0)
    hand.end(2)
    assert kinds(hand.at(1, 2, 0.1)) == {1: "Pause"}
    assert kinds(hand.at(3, 2, 0.05)) == {3: "Continue", 1: "Stop"}
    assert hand.at(3, 4, 0.01) == [Decision(3, Stop(reason="step 4: reached max", completed=True))]
    assert hand.scheduler.describe()["brackets"][0]["step"] == 1 + 1 + 2 + 4


def test_those_that_fail_are_not_waited_for() -> None:
    hand = Hand(SuccessiveHalving(n=4, max=4, eta=2), 4)
    hand.at(0, 1, 0.4)
    hand.at(1, 1, 0.1)
    assert hand.end(2) == []
    assert kinds(hand.end(3)) == {1: "Continue", 0: "Continue"}, "the rung keeps two, as of four"


def test_one_that_is_past_the_next_rung_already_counts_there() -> None:
    """By hand: 0 ran on to 2 although it was to wait at 1; it is kept, needs no verdict, and closes the next rung."""
    hand = Hand(SuccessiveHalving(n=4, max=4, eta=2), 4)
    assert kinds(hand.at(0, 1, 0.1)) == {0: "Pause"}
    assert hand.at(0, 2, 0.15) == []
    for number in (1, 2):
        hand.at(number, 1, 0.1 * (1 + number))
    assert kinds(hand.at(3, 1, 0.4)) == {1: "Continue", 2: "Stop", 3: "Stop"}, "0 is where it would be sent"
    assert [rung["arrived"] for rung in hand.scheduler.describe()["brackets"][0]["rungs"]] == [0, 1, 0]
    found = hand.at(1, 2, 0.05)
    assert kinds(found) == {1: "Continue", 0: "Stop"}
    assert found[1].verdict.reason == "bracket 0, rung 1 (step 2): rank 2/2, keep 1", "with its loss of step 2"


def test_a_bracket_that_does_not_fill_goes_on_with_what_it_has() -> None:
    hand = Hand(SuccessiveHalving(n=9, max=9, eta=3), 4)
    for number in range(4):
        assert kinds(hand.at(number, 1, number)) == {number: "Pause"}
    assert kinds(hand.scheduler.on_supply_end()) == {0: "Continue", 1: "Stop", 2: "Stop", 3: "Stop"}


def test_the_next_bracket_begins_while_the_first_waits() -> None:
    hand = Hand(HyperBand(max=9), 12)
    found = hand.scheduler.describe()["brackets"]
    assert [(bracket["trials"], bracket["of"]) for bracket in found] == [(9, 9), (3, 5)]
    assert hand.scheduler.until(hand.trials[0]) == (1, True)
    assert hand.scheduler.until(hand.trials[9]) == (3, True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_rule_holds_on_random_orders(seed: int, mode: str) -> None:
    """Whoever arrives when: of each full rung the best floor(n / eta) go on, counted again here."""
    draw = random.Random(seed)
    scheduler = SuccessiveHalving(n=9, max=9)
    hand = Hand(scheduler, 9)
    scheduler.setup(metric="loss", mode=mode, seed=0)
    for trial in hand.trials.values():
        scheduler.on_add(trial)
    for level, keep in ((1, 3), (3, 1)):
        losses = {number: draw.random() for number in hand.trials}
        order = list(losses)
        draw.shuffle(order)
        closed = [decisions for number in order if (decisions := hand.at(number, level, losses[number]))][-1]
        best = sorted(losses, key=lambda n: losses[n] if mode == "min" else -losses[n])[:keep]
        assert {d.trial for d in closed if isinstance(d.verdict, Continue)} == set(best)
        for decision in closed:
            if isinstance(decision.verdict, Stop):
                hand.end(decision.trial)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max": 0.5}, "max must be at least min"),
        ({"max": None}, "must be a finite number"),
        ({"max": 9, "n": 1}, "n (trials of a bracket) must be a whole number from 2 on, got 1"),
        ({"max": 9, "n": 2.5}, "got 2.5"),
        ({"max": 9, "eta": 1}, "eta (the reduction factor) must be a number from 1.01 on"),
        ({"max": "9"}, "max must be a number, got '9'"),
        ({"max": 9, "min": 0}, "must be above 0"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match="successive_halving: ") as error:
        SuccessiveHalving(**options)
    assert said in str(error.value)
    if "n" not in options:
        with pytest.raises(SpecError, match="hyperband: "):
            HyperBand(**options)
