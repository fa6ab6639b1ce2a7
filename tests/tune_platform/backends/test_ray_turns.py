from __future__ import annotations

import math
import time

import pytest

from tune_platform.backends import _ray_turns
from tune_platform.backends._ray_turns import Turns
from tune_platform.testing.backends import launch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_nothing_is_held_back_where_nobody_waits(clock: list[float]) -> None:
    turns = Turns()
    assert not turns.hold(launch(0, 2))
    turns.gave_way()  # a process that ended for another reason
    assert not turns.hold(launch(0, 2))
    assert (bool(turns), turns.at, turns.due(200.0)) == (False, math.inf, [])


def test_the_next_launch_waits_until_the_place_is_free_and_a_little_longer(clock: list[float]) -> None:
    turns = Turns()
    turns.give_way()
    assert turns.hold(launch(1, 2))
    assert turns.hold(launch(2, 2))
    assert (bool(turns), turns.at, turns.due(1e9)) == (True, math.inf, [])
    turns.gave_way()
    assert turns.at == 100.0 + _ray_turns._GAP_S
    assert turns.due(100.1) == []
    clock[0] = turns.at
    assert [one.trial for one in turns.due(clock[0])] == [1, 2]
    assert (bool(turns), turns.at) == (False, math.inf)
    assert not turns.hold(launch(3, 2)), "until the next of its trials ends"


def test_one_that_comes_after_the_end_waits_for_the_rest_of_it(clock: list[float]) -> None:
    turns = Turns()
    turns.give_way()
    turns.gave_way()
    assert turns.at == math.inf
    assert turns.hold(launch(1, 2))
    assert turns.at == 100.0 + _ray_turns._GAP_S


def test_a_launch_that_is_released_or_asked_for_is_taken_out(clock: list[float]) -> None:
    turns = Turns()
    turns.give_way()
    turns.hold(launch(1, 2))
    held = turns.take(1)
    assert held is not None
    assert held.trial == 1
    assert turns.take(1) is None
    assert not turns
