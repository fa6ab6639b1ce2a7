"""The median stopping rule."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Pause, Stop
from tune_platform.schedulers.median import MedianStopping
from tune_platform.testing.schedulers import FakeCandidates, FakeTrial, SchedulerContract


class TestMedian(SchedulerContract):
    def make_scheduler(self) -> MedianStopping:
        return MedianStopping(grace=2, min_samples=2, max=12)


class TestPausing(SchedulerContract):
    def make_scheduler(self) -> MedianStopping:
        return MedianStopping(hard=False, interval=3)


class TestOfSeconds(SchedulerContract):
    increment = 0.7

    def make_scheduler(self) -> MedianStopping:
        return MedianStopping(resource="seconds", interval=2.5)


def judged(scheduler: MedianStopping, number: int, *losses: float) -> Any:
    trial = FakeTrial(number, {})
    verdict = None
    for step, loss in enumerate(losses, start=1):
        trial.last = Report(step, {"loss": loss}, 0.0)
        verdict = scheduler.on_report(trial, trial.last)
    return verdict


def test_by_hand() -> None:
    """Three others with running averages 2, 3 and 4 at step 2: one whose best is 3.5 is stopped, 2.9 goes on."""
    scheduler = MedianStopping(grace=2)
    scheduler.setup(metric="loss", mode="min", seed=0)
    for number, losses in enumerate([(3, 1), (4, 2), (5, 3)]):
        assert judged(scheduler, number, *losses) is None
    assert judged(scheduler, 3, 9.0, 2.9) is None
    # Now 5.95 is among the averages, and the median of 2, 3, 4 and 5.95 is 3.5.
    assert judged(scheduler, 4, 9.0, 3.5) is None
    said = "step 2: its best 3.6 is worse than the median 4 of the running averages of 5 others"
    assert judged(scheduler, 5, 9.0, 3.6) is None
    scheduler.setup(metric="loss", mode="min", seed=0)
    for number, losses in enumerate([(3, 1), (4, 2), (5, 3), (6, 4), (7, 5)]):
        judged(scheduler, number, *losses)
    assert judged(scheduler, 9, 9.0, 4.6) == Stop(reason=said.replace("3.6", "4.6"))


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("seed", range(5))
def test_the_rule_holds_on_random_curves(seed: int, mode: str) -> None:
    """Counted again here with the plain definition."""
    draw = random.Random(seed)
    scheduler = MedianStopping(grace=3, min_samples=4)
    scheduler.setup(metric="loss", mode=mode, seed=0)
    curves: dict[int, list[float]] = {}
    living = {number: FakeTrial(number, {}) for number in range(30)}
    stopped = 0
    while living:
        number = draw.choice(list(living))
        trial = living[number]
        mine = curves.setdefault(number, [])
        mine.append(round(draw.random(), 2))
        step = len(mine)
        others = [statistics.fmean(curve[:step]) for n, curve in curves.items() if n != number and len(curve) >= step]
        best = min(mine) if mode == "min" else max(mine)
        worse = False
        if step >= 3 and len(others) >= 4:
            middle = statistics.median(others)
            worse = best > middle + 1e-12 if mode == "min" else best < middle - 1e-12
        trial.last = Report(step, {"loss": mine[-1]}, 0.0)
        verdict = scheduler.on_report(trial, trial.last)
        assert isinstance(verdict, Stop) == worse
        stopped += worse
        if worse or step == 12:
            del living[number]
            scheduler.on_end(trial, "stopped")
    assert stopped


def test_grace_and_samples() -> None:
    scheduler = MedianStopping(grace=3, min_samples=2)
    scheduler.setup(metric="loss", mode="min", seed=0)
    assert scheduler.until(FakeTrial(0, {})) == (3, False)
    assert judged(scheduler, 0, 1.0, 1.0, 1.0) is None
    assert judged(scheduler, 1, 9.0, 9.0) is None
    assert judged(scheduler, 2, 9.0, 9.0, 9.0) is None  # one other has come to step 3
    assert isinstance(judged(scheduler, 3, 9.5, 9.5, 9.5), Stop)


def test_a_soft_rule_pauses_and_lets_the_best_go_on_last() -> None:
    scheduler = MedianStopping(hard=False, min_samples=1)
    scheduler.setup(metric="loss", mode="min", seed=0)
    judged(scheduler, 0, 1.0)
    assert isinstance(judged(scheduler, 1, 3.0), Pause)
    assert isinstance(judged(scheduler, 2, 2.5), Pause)
    assert scheduler.until(FakeTrial(5, {}))[1], "it saves where it may pause"
    trials = {n: FakeTrial(n, {}, status="paused") for n in (1, 2)}
    assert scheduler.choose(FakeCandidates(trials)) == 2
    trials[7] = FakeTrial(7, {})
    assert scheduler.choose(FakeCandidates(trials)) == 7


def test_who_comes_to_max_is_done_and_nobody_before() -> None:
    scheduler = MedianStopping(max=3)
    scheduler.setup(metric="loss", mode="min", seed=0)
    assert judged(scheduler, 0, 1.0, 1.0) is None
    assert judged(scheduler, 1, 1.0, 1.0, 1.0) == Stop(reason="step 3: reached max", completed=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grace": -1}, "grace .* got -1"),
        ({"interval": 0}, "interval .* must be above 0, got 0"),
        ({"min_samples": 0}, "min_samples must be a whole number from 1 on, got 0"),
        ({"min_samples": 2.5}, "min_samples must be a whole number from 1 on, got 2.5"),
        ({"hard": "no"}, "hard must be true or false, got 'no'"),
        ({"max": 0}, "max must be above 0"),
        ({"grace": "2"}, "grace must be a number, got '2'"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=f"median: {said}"):
        MedianStopping(**options)
