"""What persons ask for, on one trial and on the whole."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tune_platform.engine.play import Play, Scripted, only
from tune_platform.engine.trial import TrialStatus
from tune_platform.protocol.commands import Finish, Launch, Release, Save, Tell
from tune_platform.protocol.effects import Decided
from tune_platform.protocol.events import Resumed
from tune_platform.protocol.verdicts import Clone, Continue, Pause
from tune_platform.schedulers import ASHA


def test_a_person_pauses_and_lets_go_on() -> None:
    play = Play(num_samples=2)
    play.suggest(0)
    play.suggest(1)
    play.start(0)
    assert only(play.ask_for("pause", 0), Save) == [Save(trial=0, halt=True)]
    assert (play.status(0), play.trial(0).held) == (TrialStatus.PAUSING, True)
    play.saved(0)
    play.report(1, 1.0, done=True)
    assert play.finished() is None  # it waits for the person
    launch = only(play.ask_for("unpause", 0), Launch)[0]
    assert (launch.trial, launch.attempt) == (0, 2)


def test_one_that_is_being_started_is_paused_at_once() -> None:
    """Nothing is lost by that, and nobody waits for a process that is coming up."""
    play = Play()
    play.suggest(0)
    assert only(play.ask_for("pause", 0), Release) == [Release(trial=0)]
    assert (play.status(0), play.trial(0).reason) == (TrialStatus.PAUSED, "a person paused it")


def test_nothing_is_told_of_a_trial_that_a_person_paused_before_its_first_report() -> None:
    play = Play(nodes=({"cpu": 1.0},))
    play.suggest(0)
    play.suggest(1)
    assert not only(play.ask_for("pause", 1), Tell)
    assert play.status(1) is TrialStatus.PAUSED


def test_a_person_changes_their_mind_while_it_saves() -> None:
    play = Play(num_samples=1)
    play.suggest(0)
    play.start(0)
    play.ask_for("pause", 0)
    play.ask_for("unpause", 0)
    assert only(play.saved(0), Launch)[0].trial == 0
    assert play.trial(0).history[-2][1:] == ("PENDING", "a person let it go on")


@pytest.mark.parametrize("lost", ["failed", "resumed"])
def test_a_person_changed_their_mind_before_its_process_was_lost(lost: str) -> None:
    play = Play(num_samples=1, retries={"exception": 1})
    play.suggest(0)
    play.start(0)
    play.ask_for("pause", 0)
    play.ask_for("unpause", 0)
    play.fail(0) if lost == "failed" else play.do(Resumed(time=1.0))
    assert play.status(0) is (TrialStatus.STARTING if lost == "failed" else TrialStatus.PENDING)


def test_a_held_trial_that_fails_is_not_launched() -> None:
    play = Play(retries={"exception": 3}, num_samples=1)
    play.suggest(0)
    play.start(0)
    play.ask_for("pause", 0)
    assert not only(play.fail(0), Launch)
    assert only(play.ask_for("unpause", 0), Launch)


def test_one_that_the_scheduler_paused_goes_on_waiting_for_the_scheduler() -> None:
    play = Play(Scripted(t0s1=Pause(reason="rung 0")))
    play.suggest(0)
    play.report(0, 1.0, saved=True)
    play.ask_for("pause", 0)
    assert (play.trial(0).held, play.trial(0).reason) == (True, "rung 0")
    assert play.state.queue.paused(0) is None
    play.ask_for("unpause", 0)
    assert play.status(0) is TrialStatus.PAUSED
    assert play.state.queue.paused(0) is play.trial(0)


def test_persons_on_the_whole() -> None:
    play = Play()
    play.ask_for("pause")
    assert not only(play.suggest(0), Launch)
    assert only(play.ask_for("unpause"), Launch)
    play.suggest(1)
    play.ask_for("stop")
    assert play.finished() is None
    play.report(0, 1.0, done=True)
    commands = play.ask_for("cancel")
    assert only(commands, Release)[0].trial == 1
    assert play.finished() == Finish(status="stopped", reason="a person stopped it")


def test_a_person_stops_a_trial_in_any_state() -> None:
    play = Play(Scripted(t0s1=Pause(reason="r")))
    for number in range(3):
        play.suggest(number)
    play.report(0, 1.0, saved=True)
    for number in (0, 1, 2, 2, 77):
        play.ask_for("stop", number)
    assert [play.status(n) for n in range(3)] == [TrialStatus.STOPPED] * 3
    assert {play.trial(n).reason for n in range(3)} == {"a person stopped it"}


def stopping(**settings: Any) -> Play:
    """A trial that runs, has a checkpoint of its last report, and is to be stopped by a person."""
    play = Play(num_samples=1, **settings)
    play.suggest(0)
    play.report(0, 1.0, saved=True)
    assert play.ask_for("stop", 0) == [Save(trial=0, halt=True)]
    assert (play.status(0), play.trial(0).reason) == (
        TrialStatus.PAUSING, "a person stops it after its present step",
    )  # fmt: skip
    return play


def test_a_person_stops_a_trial_after_its_present_step() -> None:
    play = stopping()
    play.report(0, 0.5)
    commands = play.saved(0)
    assert only(commands, Release) == [Release(trial=0)]
    assert only(commands, Tell)[0].outcome.value == 0.5
    assert (play.status(0), play.trial(0).reason) == (TrialStatus.STOPPED, "a person stopped it")


def test_asked_twice_it_still_ends_its_step_but_not_where_it_is_to_be_at_once() -> None:
    play = stopping()
    assert not play.ask_for("stop", 0)
    assert only(play.ask_for("cancel", 0), Release)
    assert play.status(0) is TrialStatus.STOPPED


@pytest.mark.parametrize(
    "verdict", [Continue(until=5), Pause(reason="r"), Clone(source=0, config={}, until=5, reason="c")]
)
def test_what_the_scheduler_says_meanwhile_does_not_keep_it(verdict: Any) -> None:
    play = Play(Scripted(t0s2=verdict), num_samples=1)
    play.suggest(0)
    play.report(0, 1.0, saved=True)
    play.ask_for("stop", 0)
    play.report(0, 0.5)
    if play.status(0) is not TrialStatus.STOPPED:
        assert not only(play.saved(0), Launch)
    assert play.status(0) is TrialStatus.STOPPED


def test_it_ends_whatever_a_person_says_of_a_pause_meanwhile() -> None:
    play = stopping()
    play.ask_for("pause", 0)
    play.ask_for("unpause", 0)
    play.saved(0)
    assert play.status(0) is TrialStatus.STOPPED


def test_it_is_not_tried_again() -> None:
    play = stopping(retries={"exception": 3})
    assert only(play.fail(0), Release) == [Release(trial=0, kill=True)]
    assert play.status(0) is TrialStatus.STOPPED


def test_it_ends_too_where_its_driver_was_lost_meanwhile() -> None:
    play = stopping()
    play.do(Resumed(time=1.0))
    assert (play.status(0), play.trial(0).reason) == (TrialStatus.STOPPED, "a person stopped it")


def test_a_persons_verdict_is_in_the_log_as_theirs() -> None:
    play = Play()
    play.suggest(0)
    play.ask_for("stop", 0)
    assert [effect.by for effect in play.effects if isinstance(effect, Decided)] == ["person"]


def test_clone_of_a_trial_that_a_person_is_pausing() -> None:
    verdict = Clone(source=1, config={"x": 9}, until=2, reason="exploit")
    play = Play(Scripted(t0s1=verdict), num_samples=2)
    play.suggest(0, x=0)
    play.suggest(1, x=1)
    play.report(1, 0.5, saved=True)
    play.start(0)
    play.ask_for("pause", 0)
    assert not only(play.report(0, 1.0), Launch)
    assert play.status(0) is TrialStatus.PAUSED
    launch = only(play.ask_for("unpause", 0), Launch)[0]
    assert (launch.config, launch.checkpoint.uri) == ({"x": 9}, "1/1/1")


def test_extending_the_time() -> None:
    play = Play(time_budget=10.0)
    play.suggest(0)
    play.ask_for("extend", time=5.0)
    assert play.controller.deadline() == 15.0


def test_asha_promotes_one_that_a_person_held_in_its_turn() -> None:
    play = Play(ASHA(max=9, type="promotion"), nodes=({"cpu": 1.0},), num_samples=4)
    for number in range(3):
        play.suggest(number)
        play.report(number, float(number), saved=True)
        if number == 0:
            play.ask_for("pause", 0)
    assert play.status(0) is TrialStatus.PAUSED
    play.suggest(3)
    assert play.status(3) is TrialStatus.STARTING
    play.ask_for("unpause", 0)
    assert only(play.report(3, 9.0, saved=True), Launch)[0].trial == 0
