"""What goes wrong: failures and their retries, hangs, lost checkpoints, and drivers that end."""

from __future__ import annotations

import math

import pytest

from tests.tune_platform.engine.play import Play, Scripted, only
from tune_platform.engine.trial import TrialStatus
from tune_platform.protocol.commands import Finish, Launch, Release, Tell
from tune_platform.protocol.effects import Dropped, Moved
from tune_platform.protocol.events import CapacityChanged, Event, Failed, Resumed
from tune_platform.protocol.verdicts import Pause
from tune_platform.resources import Resources


def test_retries_are_bounded_by_cause() -> None:
    play = Play(retries={"exception": 2, "worker_died": 1})
    play.suggest(0)
    for cause, text in [
        ("exception", "retry 1 of 2 after exception: bang"),
        ("worker_died", "retry 1 of 1 after worker_died: bang"),
        ("exception", "retry 2 of 2 after exception: bang"),
    ]:
        commands = play.fail(0, cause)
        assert only(commands, Release) == [Release(trial=0, kill=True)]
        assert play.effects[0] == Moved(trial=0, status="PENDING", reason=text, kill=True)
        assert only(commands, Launch)
    commands = play.fail(0)
    assert play.status(0) is TrialStatus.FAILED
    assert (play.trial(0).reason, play.trial(0).error) == ("exception: bang", "bang")
    assert only(commands, Tell)[0].outcome.status == "failed"


def test_a_trial_that_brings_down_its_nodes_is_given_up() -> None:
    play = Play()
    play.suggest(0)
    for _ in range(5):
        assert only(play.fail(0, "node_lost"), Launch)
    play.report(0, 1.0)
    assert only(play.fail(0, "node_lost"), Launch), "it has come a step further"
    play.fail(0, "node_lost")
    assert play.status(0) is TrialStatus.FAILED


@pytest.mark.parametrize(
    ("cause", "times"), [("node_lost", 5), ("preempted", 20), ("disk_full", 20), ("storage_away", 20)]
)
def test_what_the_machines_do_to_a_trial_uses_up_none_of_its_retries(cause: str, times: int) -> None:
    play = Play(retries={"worker_died": 1})
    play.suggest(0)
    of = " of 5" if cause == "node_lost" else ""
    for time in range(1, times + 1):
        assert only(play.fail(0, cause), Launch)
        assert play.effects[0] == Moved(
            trial=0, status="PENDING", reason=f"retry {time}{of} after {cause}: bang", kill=True
        )  # fmt: skip
    assert only(play.fail(0, "worker_died"), Launch), "its own retry is still there"
    play.fail(0, "worker_died")
    assert play.status(0) is TrialStatus.FAILED


def test_a_trial_whose_memory_ran_out_is_tried_again_with_more() -> None:
    small = Resources(cpu=1, custom={"memory": 1000})
    play = Play(retries={"out_of_memory": 2}, more_memory=1.5, resources=small, nodes=({"cpu": 2, "memory": 4000},))
    play.suggest(0)
    for memory in (1500, 2250):
        (launch,) = only(play.fail(0, "out_of_memory"), Launch)
        assert launch.resources == Resources(cpu=1, custom={"memory": memory})
    assert "2250 bytes from now on" in play.verdicts()[0][2]
    play.fail(0, "out_of_memory")
    assert play.status(0) is TrialStatus.FAILED


def test_out_of_memory_has_the_retries_of_a_dead_worker_where_it_has_none_of_its_own() -> None:
    play = Play(retries={"worker_died": 1}, more_memory=1.5)
    play.suggest(0)
    (launch,) = only(play.fail(0, "out_of_memory"), Launch)
    assert launch.resources == Resources(), "there is no memory that could grow"
    play.fail(0, "out_of_memory")
    assert play.status(0) is TrialStatus.FAILED


@pytest.mark.parametrize(("cause", "kill"), [("bad_metric", False), ("bad_report", False), ("exception", True)])
def test_only_code_that_raised_spoils_its_process(cause: str, kill: bool) -> None:
    play = Play()
    play.suggest(0)
    assert only(play.fail(0, cause), Release) == [Release(trial=0, kill=kill)]


@pytest.mark.parametrize(("cause", "fatal"), [("bad_metric", False), ("exception", True)])
def test_what_is_not_retried(cause: str, fatal: bool) -> None:
    play = Play(retries={"exception": 5})
    play.suggest(0)
    play.fail(0, cause, fatal=fatal)
    assert play.status(0) is TrialStatus.FAILED


def test_nothing_is_tried_again_once_the_experiment_is_to_end() -> None:
    play = Play(retries={"exception": 5})
    play.suggest(0)
    play.ask_for("stop")
    play.fail(0)
    assert play.status(0) is TrialStatus.FAILED
    assert play.finished() == Finish(status="stopped", reason="a person stopped it")


def test_failure_budget() -> None:
    play = Play(max_failures=1)
    for number in range(3):
        play.suggest(number)
    play.fail(0)
    assert play.finished() is None
    commands = play.fail(1)
    reason = "2 trials failed, more than the budget of 1; the last: exception: bang"
    assert play.finished() == Finish(status="failed", reason=reason)
    assert [command.trial for command in only(commands, Release)] == [1, 2]
    assert play.status(2) is TrialStatus.STOPPED


def test_step_timeout_counts_from_the_start_of_the_process_and_from_each_report() -> None:
    play = Play(step_timeout=5.0, retries={"timeout": 1})
    play.suggest(0)
    play.suggest(1)
    assert play.controller.deadline() == math.inf  # both are being started
    play.time = 3.0
    play.start(0)
    play.time = 4.0
    play.start(1)
    assert play.controller.deadline() == 8.0
    play.time = 6.0
    play.report(0, 1.0)
    assert play.controller.deadline() == 9.0
    assert play.controller.overdue(8.9, 8.9) is None
    overdue = play.controller.overdue(9.0, 9.0)
    assert overdue == Failed(time=9.0, trial=1, attempt=1, cause="timeout", message="no report for 5 s (step_timeout)")
    commands = play.do(overdue)
    assert only(commands, Release) == [Release(trial=1, kill=True)]
    assert only(commands, Launch)[0].attempt == 2
    assert play.controller.deadline() == 11.0


def test_lost_checkpoint_falls_back_to_the_one_before() -> None:
    play = Play(keep_last=2, retries={"lost_checkpoint": 2})
    play.suggest(0)
    play.report(0, 1.0, saved=True)
    play.report(0, 1.0, saved=True)
    launch = only(play.fail(0, "lost_checkpoint"), Launch)[0]
    assert play.effects[0] == Dropped(trial=0, uris=("0/2/1",))
    assert (launch.start, launch.committed) == (1, 2)
    launch = only(play.fail(0, "lost_checkpoint"), Launch)[0]
    assert (launch.checkpoint, launch.start, launch.committed) == (None, 0, 2)


@pytest.mark.parametrize("lost", [Failed, Resumed])
def test_a_trial_that_was_to_pause_stays_paused(lost: type[Event]) -> None:
    """Else it would run on to the next rung, which the scheduler has not allowed."""
    play = Play(Scripted(t0s1=Pause(reason="rung 0")), retries={"exception": 1})
    play.suggest(0)
    play.report(0, 1.0)
    if lost is Failed:
        assert only(play.fail(0), Release) == [Release(trial=0, kill=True)]
    else:
        play.do(Resumed(time=1.0))
    assert (play.status(0), play.trial(0).reason) == (TrialStatus.PAUSED, "rung 0")


# ------------------------------------------------------------------------------- drivers


def test_resumed_launches_once_the_new_capacity_is_known() -> None:
    play = Play(nodes=({"cpu": 8.0},))
    for number in range(3):
        play.suggest(number)
    assert not only(play.do(Resumed(time=1.0)), Launch)
    assert set(play.standing().values()) == {"PENDING"}
    assert play.trial(0).reason == "the driver restarted"
    launches = only(play.do(CapacityChanged(time=1.0, nodes=({"cpu": 2.0},))), Launch)
    assert [(launch.trial, launch.attempt) for launch in launches] == [(0, 2), (1, 2)]


def test_retry_failed() -> None:
    play = Play(num_samples=1)
    play.suggest(0)
    play.fail(0)
    play.do(Resumed(time=1.0, retry_failed=True))
    assert (play.trial(0).reason, play.trial(0).failures, play.trial(0).error) == (
        "a person had it tried again",
        {},
        "",
    )
    play.do(CapacityChanged(time=1.0, nodes=({"cpu": 2.0},)))
    assert play.status(0) is TrialStatus.STARTING
    assert play.trial(0).ended is None


def test_resumed_leaves_what_failed_unless_it_is_asked_for() -> None:
    play = Play(num_samples=2)
    play.suggest(0)
    play.fail(0)
    play.do(Resumed(time=1.0))
    assert play.status(0) is TrialStatus.FAILED
