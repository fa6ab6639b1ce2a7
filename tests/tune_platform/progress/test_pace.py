from __future__ import annotations

import math

import pytest

from tests.tune_platform.progress.drive import Clock, Drive
from tune_platform.progress.pace import Pace
from tune_platform.progress.standing import Standing
from tune_platform.protocol.events import Requested, Started


def waves(places: int, seconds: float, count: int) -> Pace:
    """Trials that all take the same time, so many at once, after `count` waves."""
    pace = Pace()
    for wave in range(count):
        for place in range(places):
            pace.launched(wave * seconds, place + 1)
        for _ in range(places):
            pace.ended((wave + 1) * seconds, seconds)
    return pace


@pytest.mark.parametrize(("now", "left"), [(50, 50), (55, 45), (59, 41)])
def test_trials_of_one_length_are_foreseen_to_the_second(now: float, left: float) -> None:
    """20 trials of 10 seconds, two at a time: after 50 seconds ten are done."""
    assert waves(2, 10, 5).left(now, 10, [50, 50]) == pytest.approx(left)


def test_the_last_ones_take_as_long_as_a_trial_takes() -> None:
    """10 trials of 10 seconds, eight at a time: the last two start when the first eight are done."""
    pace = waves(8, 10, 1)
    assert pace.left(10, 2, [10, 10]) == pytest.approx(10)
    assert pace.left(17, 2, [10, 10]) == pytest.approx(3)
    pace.ended(19.5, 9.5)
    assert pace.left(19.5, 1, [10]) == pytest.approx(2.17, abs=0.01)


def test_nothing_is_said_before_it_is_known() -> None:
    pace = Pace()
    assert pace.left(5, 10, []) is None
    for place in range(4):
        pace.launched(0, place + 1)
    for seconds in (1, 2, 3):
        pace.ended(seconds, seconds)
    assert pace.left(3, 8, [0]) is None  # the first to end are the short ones
    pace.ended(9, 9)
    assert pace.left(9, 7, []) == pytest.approx(15.75)
    assert pace.left(9, math.inf, []) is None  # nothing limits the trials
    assert pace.left(9, 0, []) is None
    assert waves(1, 1, 2).left(2, 10, []) is None  # two are too few
    assert pace.left(1000, 7, [900]) is None  # far overdue: whatever it is, it is not known


def standing_of(clock: Clock, **settings: float) -> tuple[Standing, Drive]:
    standing = Standing("toy", clock)
    return standing, Drive(standing.take, started=2, clock=clock, max_concurrent=2, **settings)  # type: ignore[arg-type]


def test_the_budget_of_time_is_a_bound() -> None:
    clock = Clock()
    standing, drive = standing_of(clock, trials=4, time_budget=100.0)
    clock.now += 10
    assert standing.time() == "10 s of 1m 40s, at most 1m 30s left"
    drive.report(0, 1, 0.5, done=True)
    drive.report(1, 1, 0.5, done=True)
    assert standing.time() == "10 s of 1m 40s, at most 1m 30s left"
    drive.turn(Started(time=10.0, trial=2, attempt=1))
    clock.now += 2
    drive.report(2, 1, 0.5, done=True)
    assert standing.time() == "12 s of 1m 40s, about 5.3 s left"
    drive.turn(Requested(time=1.0, request=1, action="extend", data={"time": 100.0}))
    assert standing.time() == "12 s of 3m 20s, about 5.3 s left"
    clock.now += 100
    assert standing.time() == "1m 52s of 3m 20s, at most 1m 28s left"


def test_what_persons_add_counts() -> None:
    clock = Clock()
    standing, drive = standing_of(clock, trials=3)
    assert standing.progress() == "0 of 3 trials done"
    drive.turn(Requested(time=1.0, request=1, action="extend", data={"trials": 7}))
    assert standing.progress() == "0 of 10 trials done"


def test_without_a_budget_nothing_is_known() -> None:
    clock = Clock()
    standing, drive = standing_of(clock, num_samples=math.inf)
    clock.now += 10
    drive.report(0, 1, 0.5, done=True)
    drive.report(1, 1, 0.5, done=True)
    assert standing.time() == "10 s"
    assert standing.seconds_left() is None
    assert standing.progress() == "2 trials done"
