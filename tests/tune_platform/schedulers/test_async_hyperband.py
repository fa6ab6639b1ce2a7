"""Asynchronous HyperBand and PASHA: families of ASHA."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Continue, Pause, Stop
from tune_platform.schedulers.asha import ASHA
from tune_platform.schedulers.async_hyperband import AsyncHyperBand, Round
from tune_platform.schedulers.pasha import PASHA
from tune_platform.testing.schedulers import FakeCandidates, FakeTrial, SchedulerContract


class TestBrackets(SchedulerContract):
    def make_scheduler(self) -> AsyncHyperBand:
        return AsyncHyperBand(max=9, brackets=3)


class TestPromotionBrackets(SchedulerContract):
    def make_scheduler(self) -> AsyncHyperBand:
        return AsyncHyperBand(max=9, brackets=2, type="promotion")


class TestPASHA(SchedulerContract):
    def make_scheduler(self) -> PASHA:
        return PASHA(max=27)


def test_brackets_get_trials_by_hyperbands_weights() -> None:
    """R = 81, eta = 3: 81, 34, 15, 8 and 5 of 143 trials, and the small ones not only at the end."""
    one = Round(81, 3, 5)
    order = [one[turn] for turn in range(len(one))]
    assert [Counter(order)[bracket] for bracket in range(5)] == [81, 34, 15, 8, 5]
    assert set(order[:30]) == {0, 1, 2, 3, 4}


def test_a_round_of_millions_is_worked_out_as_far_as_it_is_asked_for() -> None:
    """A max of timesteps: bracket 0 alone takes 3^18 trials of a round."""
    scheduler = AsyncHyperBand(max=10**9, brackets=3)
    given = Counter(scheduler.bracket(number) for number in range(1000))
    weights = [3**18, math.ceil(19 / 18 * 3**17), math.ceil(19 / 17 * 3**16)]
    for bracket, weight in enumerate(weights):
        assert given[bracket] == pytest.approx(1000 * weight / sum(weights), abs=1)
    assert AsyncHyperBand(max=10**9).bracket(5) == 0


def test_one_bracket_is_asha() -> None:
    draw = random.Random(0)
    one, other = AsyncHyperBand(max=9), ASHA(max=9)
    for scheduler in (one, other):
        scheduler.setup(metric="loss", mode="min", seed=0)
    for number in range(30):
        trial = FakeTrial(number, {})
        for step in (1, 3, 9):
            assert one.until(trial) == other.until(trial)
            trial.last = Report(step, {"loss": draw.random()}, 0.0)
            verdict = one.on_report(trial, trial.last)
            assert verdict == other.on_report(trial, trial.last)
            if isinstance(verdict, Stop):
                break
    assert one.describe() == other.describe()
    two = AsyncHyperBand(max=9)
    two.load_state(other.state())  # of a snapshot from when the name meant ASHA
    assert two.describe() == other.describe()


def test_a_bracket_judges_its_own_trials_only() -> None:
    scheduler = AsyncHyperBand(max=9, brackets=2)
    scheduler.setup(metric="loss", mode="min", seed=0)
    late = next(n for n in range(20) if scheduler.bracket(n) == 1)
    early = [n for n in range(20) if scheduler.bracket(n) == 0][:3]
    assert scheduler.until(FakeTrial(late, {})) == (3, False)
    for number in early:
        scheduler.on_report(FakeTrial(number, {}), Report(1, {"loss": 0.1}, 0.0))
    trial = FakeTrial(late, {}, Report(3, {"loss": 9.0}, 0.0))
    verdict = scheduler.on_report(trial, Report(3, {"loss": 9.0}, 0.0))
    assert verdict == Continue(until=9, reason="bracket 1, rung 0 (step 3): rank 1/1, keep 1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"brackets": 0}, "brackets must be a whole number from 1 on, got 0"),
        ({"brackets": 2}, "2 brackets need a max"),
        ({"brackets": 4, "max": 9}, "4 brackets do not fit between min 1 and max 9 with eta 3: 3 at most"),
    ],
)
def test_bad_brackets(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        AsyncHyperBand(**options)


# ------------------------------------------------------------------------------- PASHA


class Search:
    """Nine trials and more on one place, by hand, with curves that are given."""

    def __init__(self, scheduler: PASHA, curve: Any, trials: int = 27) -> None:
        scheduler.setup(metric="loss", mode="min", seed=0)
        self.scheduler = scheduler
        self.trials = {number: FakeTrial(number, {}) for number in range(trials)}
        while (number := scheduler.choose(FakeCandidates(self.trials))) is not None:
            trial = self.trials[number]
            scheduler.on_start(trial)
            until, save = scheduler.until(trial)
            assert save
            while True:
                step = (trial.last.step if trial.last else 0) + 1
                trial.last = Report(step, {"loss": curve(number, step)}, 0.0)
                verdict = scheduler.on_report(trial, trial.last)
                if step == until:
                    break
                assert verdict is None
            trial.status = "paused" if isinstance(verdict, Pause) else "over"
            if isinstance(verdict, Stop):
                scheduler.on_end(trial, "completed")

    @property
    def longest(self) -> int:
        return max(trial.last.step for trial in self.trials.values() if trial.last)


def test_stable_rankings_end_the_growth() -> None:
    """Curves that never cross: what eta * r says is what any longer training would say."""
    search = Search(PASHA(max=81), lambda number, step: number + 1 / step)
    assert (search.longest, search.scheduler.top) == (3, 3)


def test_rankings_that_change_open_the_next_rung() -> None:
    """The order turns round between the rungs: trained on to the end, as ASHA would."""

    def curve(number: int, step: int) -> float:
        return float(number if sum(step > level for level in (1, 3, 9)) % 2 else -number)

    search = Search(PASHA(max=27), curve, trials=60)
    assert (search.longest, search.scheduler.top) == (27, 27)


def test_differences_that_are_noise_are_no_instability() -> None:
    """Two by two the curves cross from rung to rung, by 0.01: epsilon covers that."""

    def curve(number: int, step: int) -> float:
        return number // 2 + 0.01 * ((number + step.bit_length()) % 2)

    noisy = Search(PASHA(max=81, eta=2), curve, trials=40)
    assert noisy.scheduler.tolerance == pytest.approx(0.01)
    exact = Search(PASHA(max=81, eta=2, epsilon=0.0), curve, trials=40)
    assert (noisy.longest, exact.longest) == (4, 32)


def test_epsilon_by_hand() -> None:
    """Two crossings between trials 0 and 1, none with trial 2; the difference at the last step that both have."""
    scheduler = PASHA(max=9)
    scheduler.setup(metric="loss", mode="min", seed=0)
    curves = {0: (1.0, 0.5, 0.4), 1: (0.9, 0.6, 0.1), 2: (5.0, 5.0, 5.0)}
    for number, losses in curves.items():
        trial = FakeTrial(number, {})
        for step, loss in enumerate(losses, start=1):
            trial.last = Report(step, {"loss": loss}, 0.0)
            scheduler.on_report(trial, trial.last)
    assert scheduler.describe()["epsilon"] == pytest.approx(0.3)


def test_curves_that_never_came_to_the_top_say_nothing_of_noise() -> None:
    """By hand: 0 is in the top rung (step 9); 1 crosses its curve at each step from 3 on, and is not there yet."""
    scheduler = PASHA(min=3, max=27)
    scheduler.setup(metric="loss", mode="min", seed=0)
    for number, losses in enumerate(([0.5] * 9, [0.6, 0.4] * 4)):
        trial = FakeTrial(number, {})
        for step, loss in enumerate(losses, start=1):
            trial.last = Report(step, {"loss": loss}, 0.0)
            scheduler.on_report(trial, trial.last)
    assert scheduler.describe()["epsilon"] == 0
    trial.last = Report(9, {"loss": 0.6}, 0.0)  # now it is
    scheduler.on_report(trial, trial.last)
    assert scheduler.describe()["epsilon"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max": 0.5}, "pasha: max must be at least min"),
        ({"max": None}, "pasha: max .* must be a finite number"),
        ({"max": 9, "epsilon": -1}, "pasha: epsilon must be a number from 0 on, or left out, got -1"),
    ],
)
def test_bad_options_of_pasha(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        PASHA(**options)
