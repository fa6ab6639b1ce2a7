"""A backend wants places back: what runs there saves and goes on elsewhere, or later."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tune_platform.engine.play import Play, only, running
from tune_platform.engine.trial import TrialStatus
from tune_platform.protocol.commands import Launch, Release, Save
from tune_platform.protocol.effects import Decided
from tune_platform.protocol.events import CapacityChanged, from_record, to_record
from tune_platform.protocol.verdicts import Clone, Resize
from tune_platform.resources import Ledger, Resources

WHY = "a search of higher priority"


def reclaim(play: Play, *nodes: dict[str, float], why: str = WHY) -> list[Any]:
    return play.do(CapacityChanged(time=1.0, nodes=nodes, reclaim=why))


def test_those_that_came_last_save_and_wait_for_another_place() -> None:
    play = running(3, cpus=3.0)
    play.report(1, 1.0)
    commands = reclaim(play, {"cpu": 1.0})
    assert only(commands, Save) == [Save(trial=2, halt=True), Save(trial=1, halt=True)]
    assert play.standing() == {0: "RUNNING", 1: "PAUSING", 2: "PAUSING"}
    assert only(play.saved(1), Release) == [Release(trial=1)]
    assert (play.status(1), play.trial(1).reason) == (TrialStatus.PENDING, f"its place is wanted: {WHY}")
    again = only(play.do(CapacityChanged(time=2.0, nodes=({"cpu": 3.0},))), Launch)
    assert [(launch.trial, launch.start, launch.attempt) for launch in again] == [(1, 1, 2)]
    assert not play.trial(1).failures


def test_they_go_on_at_once_where_there_is_room_elsewhere() -> None:
    play = Play(nodes=({"cpu": 2.0}, {"cpu": 2.0}), num_samples=2)
    for number in (0, 1):
        play.suggest(number), play.start(number)
    reclaim(play, {}, {"cpu": 2.0}, why="its node is drained")
    play.saved(1)
    (launch,) = only(play.saved(0), Launch)
    assert (launch.trial, launch.nodes) == (0, (1,))


def test_one_that_has_not_begun_leaves_at_once() -> None:
    play = Play(nodes=({"cpu": 2.0},), num_samples=2)
    play.suggest(0), play.suggest(1)
    commands = reclaim(play, {"cpu": 1.0})
    assert only(commands, Release) == [Release(trial=1)]
    assert play.standing() == {0: "STARTING", 1: "PENDING"}


def test_nothing_is_interrupted_where_places_are_to_be_given_back_as_trials_end() -> None:
    play = running(3, cpus=3.0)
    assert only(reclaim(play, {"cpu": 1.0}, why=""), Save) == []
    assert set(play.standing().values()) == {"RUNNING"}


def test_all_may_be_wanted_and_nobody_fails_of_that() -> None:
    play = running(2)
    reclaim(play)
    play.saved(0), play.saved(1)
    play.time = 1e6
    assert play.standing() == {0: "PENDING", 1: "PENDING"}
    assert play.controller.deadline() == float("inf")


def test_those_that_leave_anyway_are_enough() -> None:
    play = running(3, cpus=3.0)
    play.ask_for("pause", 0)
    assert only(reclaim(play, {"cpu": 2.0}), Save) == []


def test_one_that_waits_to_become_a_clone_does_so_first() -> None:
    play = running(2, t1s1=Clone(source=0, config={"x": 1}, until=4, reason="better"))
    play.report(0, 1.0, saving=True)
    play.report(1, 2.0)
    assert 1 in play.state.awaiting
    reclaim(play)
    assert play.standing() == {0: "PAUSING", 1: "RUNNING"}
    play.report(0, saved=True)
    assert play.trial(1).config == {"x": 1}
    assert play.status(1) is TrialStatus.PENDING


def test_a_gang_leaves_whole() -> None:
    play = Play(nodes=({"cpu": 2.0}, {"cpu": 2.0}), num_samples=2)
    play.suggest(0)
    play.suggest(1, needs=Resources(cpu=1, workers=2, strategy="STRICT_SPREAD"))
    for number in (0, 1):
        play.start(number)
    reclaim(play, {"cpu": 2.0}, {})
    assert play.standing() == {0: "RUNNING", 1: "PAUSING"}


def test_a_cut_log_says_the_same() -> None:
    play = running(2)
    reclaim(play, {"cpu": 1.0})
    play.saved(1)
    decided = [each for _, _, effects in play.past for each in effects if isinstance(each, Decided)]
    assert isinstance(decided[-1].verdict, Resize)
    event = CapacityChanged(time=1.0, nodes=({"cpu": 1.0},), reclaim=WHY)
    assert from_record(1.0, *to_record(event)) == event
    assert "reclaim" not in to_record(CapacityChanged(time=1.0, nodes=()))[2]


@pytest.mark.parametrize("left", [0.0, 1.0, 2.5, 4.0])
def test_no_more_go_than_have_to(left: float) -> None:
    ledger = Ledger([{"cpu": 4.0}])
    for trial in range(4):
        ledger.lease(trial, Resources(cpu=1))
    ledger.resize([{"cpu": left}])
    gone = ledger.excess(reversed(range(4)), [])
    assert gone == [3, 2, 1, 0][: 4 - int(left)]
    assert ledger.excess(range(4), gone) == []
