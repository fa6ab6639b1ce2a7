"""Decisions about any trial: who may be stopped, paused, sent on, cloned and resized, by whom and when."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tune_platform.engine.play import Play, Scripted, only, running
from tune_platform.engine.trial import TrialStatus
from tune_platform.errors import SchedulerError
from tune_platform.protocol.commands import Advance, Finish, Launch, Release, Save, Tell
from tune_platform.protocol.effects import Decided, Moved
from tune_platform.protocol.events import CapacityChanged
from tune_platform.protocol.verdicts import Continue, Decision, Decisions, Pause, Resize, Stop
from tune_platform.resources import Resources

# ------------------------------------------------------------------------------- stop, pause, send on


def test_a_scheduler_stops_the_losers_of_a_rung_that_closes() -> None:
    """Synchronous halving: everybody pauses at the rung; the last to arrive decides for all."""
    losers = [Decision(n, Stop(reason="lost")) for n in (0, 1)]
    rung: Any = Pause(reason="rung")
    play = running(3, t0s1=rung, t1s1=rung, t2s1=[*losers, Decision(2, Continue(until=4, reason="won"))])
    play.report(0, 3.0, saved=True)
    play.report(1, 2.0, saved=True)
    assert play.standing() == {0: "PAUSED", 1: "PAUSED", 2: "RUNNING"}
    commands = play.report(2, 1.0)
    assert play.standing() == {0: "STOPPED", 1: "STOPPED", 2: "RUNNING"}
    # What it says of the trial that has reported comes first: it waits for that.
    assert play.verdicts() == [(2, "Continue", "won"), (0, "Stop", "lost"), (1, "Stop", "lost")]
    assert only(commands, Advance) == [Advance(trial=2, until=4, save=False)]
    assert [tell.trial for tell in only(commands, Tell)] == [0, 1]
    assert {effect.by for effect in play.effects if isinstance(effect, Decided)} == {"scheduler"}


def test_a_scheduler_stops_one_that_runs_and_one_that_waits_for_a_place() -> None:
    play = running(3, cpus=2.0, t0s1=[Decision(1, Stop(reason="b")), Decision(2, Stop(reason="c"))])
    assert play.standing() == {0: "RUNNING", 1: "RUNNING", 2: "PENDING"}
    commands = play.report(0, 1.0)
    assert play.standing() == {0: "RUNNING", 1: "STOPPED", 2: "STOPPED"}
    assert only(commands, Release) == [Release(trial=1)]
    # It said nothing of trial 0 itself, which goes on.
    assert only(commands, Advance) == [Advance(trial=0, until=2, save=False)]


def test_a_scheduler_pauses_a_running_trial_after_its_present_step() -> None:
    play = running(2, t0s1=[Decision(1, Pause(reason="make room"))])
    assert only(play.report(0, 1.0), Save) == [Save(trial=1, halt=True)]
    assert play.status(1) is TrialStatus.PAUSING
    play.saved(1)
    assert (play.status(1), play.trial(1).reason) == (TrialStatus.PAUSED, "make room")


def test_a_scheduler_pauses_one_that_is_being_started_and_one_that_waits() -> None:
    play = Play(Scripted(t0s1=[Decision(1, Pause(reason="b")), Decision(2, Pause(reason="c"))]), num_samples=3)
    for number in range(3):
        play.suggest(number)
    assert play.standing() == {0: "STARTING", 1: "STARTING", 2: "PENDING"}
    assert only(play.report(0, 1.0), Release) == [Release(trial=1)]
    assert play.standing() == {0: "RUNNING", 1: "PAUSED", 2: "PAUSED"}


def test_a_paused_trial_is_sent_on_to_the_milestone_that_the_decision_names() -> None:
    play = running(2, t0s1=Pause(reason="rung"), t1s1=[Decision(0, Continue(until=7, save=True, reason="go"))])
    play.report(0, 1.0, saved=True)
    launch = only(play.report(1, 2.0), Launch)[0]
    assert (launch.trial, launch.attempt, launch.start, launch.until, launch.save) == (0, 2, 1, 7, True)
    assert [reason for _, status, reason in play.trial(0).history if status == "PENDING"] == ["go"]


def test_one_that_is_sent_on_waits_for_a_place() -> None:
    answers: dict[str, Any] = {"t0s1": Pause(reason="rung"), "t1s1": [Decision(0, Continue(until=7, reason="go"))]}
    play = running(3, cpus=2.0, **answers)
    play.report(0, 1.0, saved=True)  # trial 2 takes its place
    assert not only(play.report(1, 2.0), Launch)
    assert (play.status(0), play.trial(0).sent_on) == (TrialStatus.PENDING, True)
    launch = only(play.report(2, 1.0, done=True), Launch)[0]
    assert (launch.trial, launch.until) == (0, 7)
    assert not play.trial(0).sent_on


def test_one_that_a_person_holds_is_sent_on_once_they_let_it() -> None:
    play = running(2, t0s1=Pause(reason="rung"), t1s1=[Decision(0, Continue(until=7, reason="go"))])
    play.report(0, 1.0, saved=True)
    play.ask_for("pause", 0)
    assert not only(play.report(1, 2.0), Launch)
    assert (play.status(0), play.trial(0).reason) == (TrialStatus.PAUSED, "a person paused it")
    launch = only(play.ask_for("unpause", 0), Launch)[0]
    assert (launch.trial, launch.until) == (0, 7)


def test_a_decision_on_a_waiting_trial_says_how_far_it_goes() -> None:
    play = running(3, cpus=2.0, t0s1=[Decision(2, Continue(until=5, reason="far"))])
    play.report(0, 1.0)
    launch = only(play.report(1, 1.0, done=True), Launch)[0]
    assert (launch.trial, launch.until) == (2, 5)


def test_a_milestone_is_moved_where_the_trial_waits() -> None:
    play = running(2, t0s1=None, t1s1=[Decision(1, Continue(until=9, reason="far"))])
    assert only(play.report(1, 1.0), Advance) == [Advance(trial=1, until=9, save=False)]
    assert play.trial(1).until == 9


def test_an_answer_to_a_new_trial_and_to_an_end() -> None:
    play = Play(
        Scripted(add1=Stop(reason="twice"), end2=[Decision(0, Stop(reason="its pair ended"))]),
        nodes=({"cpu": 4.0},),
        num_samples=4,
    )
    for number in range(3):
        play.suggest(number)
    assert (play.status(1), play.trial(1).reason) == (TrialStatus.STOPPED, "twice")
    play.report(2, 1.0, done=True)
    assert (play.status(0), play.trial(0).reason) == (TrialStatus.STOPPED, "its pair ended")


def test_decisions_at_the_end_of_the_supply() -> None:
    answers: dict[str, Any] = {"t0s1": Pause(reason="r"), "supply_end": [Decision(0, Continue(until=3, reason="last"))]}
    play = Play(Scripted(**answers), num_samples=2)
    play.suggest(0)
    play.report(0, 1.0, saved=True)
    launches = only(play.suggest(1), Launch)
    assert [(launch.trial, launch.until) for launch in launches] == [(1, 1), (0, 3)]


def test_a_stop_of_the_losers_at_the_end_may_free_another() -> None:
    """The experiment is not over while the scheduler still has an answer to its last stops."""
    answers: dict[str, Any] = {"t0s1": Pause(reason="r"), "t1s1": Pause(reason="r")}
    answers["end0"] = [Decision(1, Continue(until=None, reason="the other one then"))]
    play = running(2, **answers)
    play.report(0, 1.0, saved=True)
    play.report(1, 2.0, saved=True)
    assert play.standing() == {0: "STOPPED", 1: "STARTING"}
    assert play.finished() is None
    play.report(1, 1.0, done=True)
    assert play.finished() == Finish(status="finished", reason="all 2 trials are done")


# ------------------------------------------------------------------------------- resizes


def test_a_resize_saves_gives_the_place_back_and_goes_on_in_another() -> None:
    play = running(1, t0s1=Resize(resources=Resources(cpu=3), reason="wider"))
    assert only(play.report(0, 1.0), Save) == [Save(trial=0)]
    commands = play.saved(0)
    assert only(commands, Release) == [Release(trial=0)]
    launch = only(commands, Launch)[0]
    assert (launch.resources.cpu, launch.start, launch.attempt) == (3, 1, 2)
    assert Moved(trial=0, status="PENDING", reason="it goes on with 3 cpu") in play.effects


def test_a_resize_with_a_checkpoint_at_hand_is_done_in_one_turn() -> None:
    play = running(1, t0s1=Resize(resources=Resources(cpu=3), reason="wider"))
    assert only(play.report(0, 1.0, saved=True), Launch)[0].resources.cpu == 3


def test_a_resize_of_one_that_waits_or_is_paused() -> None:
    answers: dict[str, Any] = {
        "t0s1": Pause(reason="r"),
        "t1s1": [Decision(n, Resize(resources=Resources(cpu=2), reason="wider")) for n in (0, 2)],
    }
    play = running(3, cpus=2.0, **answers)
    play.state.paused = True  # or trial 2 would take the place
    play.report(0, 1.0, saved=True)
    play.report(1, 1.0)
    assert play.standing() == {0: "PAUSED", 1: "RUNNING", 2: "PENDING"}
    assert [play.trial(n).resources.cpu for n in range(3)] == [2, 1, 2]


def test_a_resize_that_never_fits_fails_as_any_misfit() -> None:
    play = running(2, t0s1=Resize(resources=Resources(cpu=99), reason="wider"))
    play.report(0, 1.0, saved=True)
    assert play.status(0) is TrialStatus.FAILED
    assert play.trial(0).reason == "resources: the trial needs 99 cpu, but the nodes have only: 4 cpu"


def test_a_resized_trial_that_is_lost_still_gets_its_new_place() -> None:
    play = running(1, t0s1=Resize(resources=Resources(cpu=3), reason="wider"))
    play.report(0, 1.0)
    launch = only(play.fail(0), Launch)[0]
    assert launch.resources.cpu == 3
    assert play.status(0) is TrialStatus.STARTING


# ------------------------------------------------------------------------------- what cannot be carried out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([Decision(77, Stop(reason="x"))], "on trial 77: there is no such trial"),
        (
            [Decision(1, Continue(until=1, reason="x"))],
            "on trial 1: the milestone 1 is not ahead of it: its step is 1 already",
        ),
    ],
)
def test_decisions_that_cannot_be_carried_out(answer: Decisions, said: str) -> None:
    play = running(2, t0s1=answer, t1s1=Pause(reason="rung"))
    play.report(1, 1.0, saved=True)
    with pytest.raises(SchedulerError, match=f"the scheduler Scripted decided .* {said}"):
        play.report(0, 1.0)


@pytest.mark.parametrize(
    ("where", "answer", "said"),
    [
        ("supply_end", Stop(reason="x"), r"to the end of the supply: which trial is it about\? Answer \[Decision\("),
        (
            "t0s1",
            [Stop(reason="x")],
            r"Stop\(.*\); what is needed is a verdict on the trial that it was told of, a list",
        ),
        ("t0s1", "stop", "'stop'; what is needed"),
        ("t0s1", 7, "7; what is needed"),
        ("add0", True, "True; what is needed"),
    ],
)
def test_answers_of_the_wrong_kind(where: str, answer: Any, said: str) -> None:
    play = Play(Scripted(**{where: answer}), num_samples=1)
    with pytest.raises(SchedulerError, match=f"the scheduler Scripted answered .*{said}"):  # noqa: PT012 (where it is told of that)
        play.suggest(0)
        play.report(0, 1.0)


def test_decisions_on_ended_trials_come_too_late_and_are_not_logged() -> None:
    play = running(2, t0s1=[Decision(1, Stop(reason="late")), Decision(1, Pause(reason="later"))])
    play.report(1, 1.0, done=True)
    play.report(0, 1.0)
    assert [verdict for verdict in play.verdicts() if verdict[0] == 1] == []
    forgotten = running(2, t0s1=[Decision(1, Stop(reason="late"))])
    forgotten.report(1, 1.0, done=True)
    forgotten.state.forget(1)
    forgotten.report(0, 1.0)
    assert forgotten.verdicts() == [(0, "Continue", "the scheduler has no objection")]


def test_two_decisions_on_one_trial_are_carried_out_in_order() -> None:
    play = running(2, t0s1=[Decision(1, Pause(reason="a")), Decision(1, Stop(reason="b"))])
    play.report(0, 1.0)
    assert play.verdicts()[1:] == [(1, "Pause", "a"), (1, "Stop", "b")]
    assert play.status(1) is TrialStatus.STOPPED


def test_a_trial_that_pauses_is_sent_on_once_it_has_paused() -> None:
    play = running(2, t0s1=[Decision(1, Pause(reason="a")), Decision(1, Continue(until=9, reason="b"))])
    play.report(0, 1.0)
    assert play.verdicts()[1:] == [(1, "Pause", "a"), (1, "Continue", "b")]
    assert play.status(1) is TrialStatus.PAUSING
    launch = only(play.saved(1), Launch)[0]
    assert (launch.trial, launch.until) == (1, 9)


def test_a_milestone_that_the_batch_has_passed_means_nothing() -> None:
    play = running(2, t0s1=Continue(until=1, reason="x"), t0s2=None)
    play.report(0, 3.0)
    assert play.verdicts() == [(0, "Continue", "the scheduler has no objection")]
    assert play.trial(0).until == 2


def test_one_that_is_between_its_milestones_goes_on_anyway() -> None:
    play = running(2, t0s1=[Decision(1, Continue(until=9, reason="x"))])
    play.report(0, 1.0)
    assert play.verdicts() == [(0, "Continue", "the scheduler has no objection")]
    assert play.trial(1).until == 1


def test_a_milestone_that_is_not_ahead_is_named() -> None:
    class Stuck(Scripted):
        def until(self, trial: Any) -> Any:
            return 1, False

    play = Play(Stuck())
    play.suggest(0)
    with pytest.raises(
        SchedulerError, match=r"Stuck answered until\(0\): the milestone 1 is not ahead of it: its step"
    ):
        play.report(0, 1.0)


def test_capacity_that_shrinks_below_what_runs_stops_nobody() -> None:
    play = running(2)
    play.do(CapacityChanged(time=0.0, nodes=({"cpu": 2.0},)))
    assert play.standing() == {0: "RUNNING", 1: "RUNNING"}
