"""For how many trials a search wants places, whatever places there are now."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tune_platform.engine.play import Play
from tune_platform.engine.places import demand
from tune_platform.engine.trial import TrialStatus
from tune_platform.resources import Resources

ONE, GANG = Resources(), Resources(cpu=2, workers=2)


def wanted(play: Play) -> dict[Resources, int]:
    return dict(demand(play.state))


@pytest.mark.parametrize(
    ("options", "count"),
    [({"num_samples": 5}, 5), ({"num_samples": 5, "max_concurrent": 3}, 3), ({"num_samples": float("inf")}, 1000)],
)
def test_a_cluster_without_a_node_is_to_hold_what_may_run_at_a_time(options: Any, count: int) -> None:
    play = Play(nodes=({},), misfit_after=900.0, **options)
    assert play.asked == [0], "one is asked for, to see what it needs"
    assert wanted(play) == {ONE: count}
    play.suggest(0)
    assert play.status(0) is TrialStatus.PENDING
    assert wanted(play) == {ONE: count}


def test_it_shrinks_as_trials_end_and_is_nothing_at_the_end() -> None:
    play = Play(nodes=({"cpu": 2.0},), num_samples=3)
    for number, left in ((0, 2), (1, 1), (2, 0)):
        play.suggest(number)
        assert sum(wanted(play).values()) == left + 1
        play.report(number, 1.0, done=True)
        assert sum(wanted(play).values()) == left


def test_gangs_and_small_trials_are_told_apart() -> None:
    play = Play(nodes=({"cpu": 1.0},), num_samples=2, max_concurrent=8, misfit_after=900.0)
    play.suggest(0, needs=GANG)
    play.suggest(1, needs=ONE)
    assert wanted(play) == {ONE: 1, GANG: 1}


def test_once_nothing_is_launched_any_more_only_what_runs_counts() -> None:
    play = Play(nodes=({"cpu": 1.0},), num_samples=8)
    play.suggest(0)
    play.ask_for("pause")
    assert wanted(play) == {ONE: 1}
    play.ask_for("unpause")
    assert sum(wanted(play).values()) == 8
    play.ask_for("stop")
    assert wanted(play) == {ONE: 1}
