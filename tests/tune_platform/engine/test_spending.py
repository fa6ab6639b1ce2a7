"""Limits on what may be spent: a deadline, hours of GPUs, a cost. What runs is saved before, and can go on."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.tune_platform.engine.play import Play
from tune_platform.engine import snapshot
from tune_platform.engine.spending import Limits, Spending
from tune_platform.engine.state import State
from tune_platform.engine.trial import TrialStatus
from tune_platform.protocol.commands import Release, Save
from tune_platform.protocol.events import CapacityChanged, Resumed, Ticked
from tune_platform.resources import Resources
from tune_platform.schedulers import FIFO

GPU = Resources(cpu=2.0, gpu=0.5)


def play_of(**limits: Any) -> Play:
    """One trial runs, of which each hour takes half an hour of a GPU and two of a CPU."""
    play = Play(limits=Limits(**limits), resources=GPU, max_concurrent=1, nodes=({"cpu": 2.0, "gpu": 1.0},))
    play.suggest(0)
    play.start(0)
    play.report(0, 1.0)
    return play


def tick(play: Play, at: float) -> list[Any]:
    play.time = at
    return play.do(Ticked(time=at))


@pytest.mark.parametrize(
    ("limits", "end", "reason"),
    [
        ({"gpu_seconds": 1800.0}, 3600.0, "the budget of 0.5 GPU hours is used up"),
        ({"cost": 5.0, "per_gpu": 2.0, "per_cpu": 0.75}, 7200.0, "the cost limit of 5 is reached"),
        ({"deadline": 900.0}, 900.0, "the deadline 1970-01-01 00:15:00 UTC is reached"),
        ({"deadline": 900.0, "gpu_seconds": 1800.0}, 900.0, "the deadline 1970-01-01 00:15:00 UTC is reached"),
    ],
    ids=["GPU hours", "cost", "deadline", "the first of two"],
)
def test_what_runs_is_saved_before_the_limit_and_the_search_ends(limits: Any, end: float, reason: str) -> None:
    play = play_of(**limits)
    lead = min(60.0, 0.05 * end)
    assert play.controller.deadline() == pytest.approx(end - lead)
    tick(play, end / 2)
    assert play.status(0) is TrialStatus.RUNNING
    assert play.controller.deadline() == pytest.approx(end - lead)
    commands = tick(play, play.controller.deadline())
    assert [command for command in commands if isinstance(command, Save)] == [Save(trial=0, halt=True)]
    assert play.status(0) is TrialStatus.PAUSING
    assert play.controller.deadline() == pytest.approx(end)
    play.saved(0)
    assert play.status(0) is TrialStatus.PENDING
    finish = play.finished()
    assert finish is not None
    assert (finish.status, finish.reason) == (
        "finished",
        f"{reason}; 1 trial waits, and would go on if it were extended",
    )


def test_what_is_not_saved_by_then_loses_its_place() -> None:
    play = play_of(gpu_seconds=1800.0)
    tick(play, 3540.0)
    commands = tick(play, 3600.0)
    assert [command for command in commands if isinstance(command, Release)] == [Release(trial=0, kill=True)]
    assert play.status(0) is TrialStatus.PENDING
    assert play.finished() is not None
    assert play.state.spending.gpu_seconds == 1800.0
    assert play.controller.deadline() == math.inf


def test_one_whose_worker_dies_while_it_is_saved_waits_as_well() -> None:
    play = play_of(gpu_seconds=1800.0)
    tick(play, 3540.0)
    play.fail(0, "node_lost")
    assert play.status(0) is TrialStatus.PENDING
    assert play.finished() is not None


@pytest.mark.parametrize(("more", "left"), [({"gpu_hours": 0.25}, 1860.0), ({"deadline": 9000.0}, 5400.0)])
def test_an_extension_goes_on_where_it_was_saved(more: Any, left: float) -> None:
    """While nothing ran, no GPU was spent, but the deadline came nearer."""
    play = play_of(**({"gpu_seconds": 1800.0} if "gpu_hours" in more else {"deadline": 3600.0}))
    tick(play, 3540.0)
    play.saved(0)
    play.time = 3600.0
    play.ask_for("extend", **more)
    assert play.finished() is None
    assert play.status(0) is TrialStatus.STARTING
    assert play.state.spending.left(3600.0)[0] == pytest.approx(left)
    assert play.trial(0).checkpoint is not None


def test_gangs_and_several_trials_are_summed_and_what_nobody_holds_costs_nothing() -> None:
    gang = Resources(cpu=1.0, gpu=0.3, workers=2)
    nodes = ({"cpu": 4.0, "gpu": 2.0},)
    play = Play(limits=Limits(gpu_seconds=1e6), resources=gang, max_concurrent=2, nodes=nodes)
    spending = play.state.spending
    for number in range(2):
        play.suggest(number)
    assert (spending.cpus, spending.gpus) == (4.0, 1.2)
    tick(play, 10.0)
    play.report(0, 1.0, done=True)
    assert (spending.cpus, spending.gpus) == (2.0, 0.6)
    tick(play, 20.0)
    play.report(1, 1.0, done=True)
    assert (spending.cpus, spending.gpus) == (0.0, 0.0)
    tick(play, 1000.0)
    assert (spending.cpu_seconds, spending.gpu_seconds) == (60.0, 18.0)


def test_a_resume_comes_to_the_same_sums_and_ends_at_the_same_hour() -> None:
    play = play_of(gpu_seconds=1800.0)
    tick(play, 1000.3)
    play.report(0, 0.9)
    other = Play(limits=Limits(gpu_seconds=1800.0), resources=GPU, max_concurrent=1, nodes=())  # as the log has them
    for event, elapsed, effects in play.past:
        other.controller.replay(event, elapsed, effects)
    assert other.state.spending.told() == play.state.spending.told()
    assert other.controller.deadline() == play.controller.deadline()
    # Another driver takes over hours later by the clock: nothing was spent meanwhile.
    other.do(Resumed(time=9000.0), elapsed=1000.3)
    assert other.state.spending.gpus == 0.0
    other.do(CapacityChanged(time=9001.0, nodes=({"cpu": 2.0, "gpu": 1.0},)), elapsed=1001.3)
    assert other.status(0) is TrialStatus.STARTING
    assert other.state.spending.gpu_seconds == pytest.approx(500.15)
    assert other.controller.deadline() == pytest.approx(3601.0 - 60.0)


def test_a_snapshot_has_the_sums_and_what_persons_added() -> None:
    play = play_of(gpu_seconds=1800.0, cost=100.0, per_cpu=1.0)
    tick(play, 1000.3)
    play.ask_for("extend", gpu_hours=1.0, deadline=99_999.0)
    text = snapshot.to_text(play.state, snapshot.Searcher({}))
    assert text is not None
    state = State(play.controller.settings, FIFO())
    assert snapshot.load(state, text, lambda _: None) is not None
    assert state.spending.told() == play.state.spending.told()
    assert state.spending.bounds == {"deadline": 99_999.0, "gpu_hours": 1.5, "cost": 100.0}
    old = json.loads(text)
    del old["spending"]  # as a former release wrote it
    state = State(play.controller.settings, FIFO())
    assert snapshot.load(state, json.dumps(old), lambda _: None) is not None


def test_a_limit_that_is_reached_already_ends_a_resumed_search_again() -> None:
    play = play_of(deadline=900.0)
    tick(play, 860.0)
    play.saved(0)
    play.do(Resumed(time=5000.0), elapsed=865.0)
    play.do(CapacityChanged(time=5000.0, nodes=({"cpu": 2.0, "gpu": 1.0},)), elapsed=865.0)
    finish = play.finished()
    assert finish is not None
    assert finish.reason.startswith("the deadline")
    assert play.status(0) is TrialStatus.PENDING


def test_without_such_a_limit_the_log_says_nothing_of_it() -> None:
    assert Spending(Limits()).told() is None
    assert Spending(Limits(cost=1.0)).told() == {"seconds": [0.0, 0.0], "held": [0.0, 0.0], "of": {"cost": 1.0}}
