"""Clones: another trial's checkpoint with another config, at once or when the source has written it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tune_platform.engine.play import Play, Scripted, only, running
from tune_platform.engine import snapshot
from tune_platform.engine.controller import Controller
from tune_platform.engine.failures import LOST_AT_ONCE
from tune_platform.engine.state import Awaited, State
from tune_platform.engine.trial import TrialStatus
from tune_platform.protocol.commands import Advance, DropCheckpoints, Launch, Tell
from tune_platform.protocol.effects import Awaits, Decided, Regained
from tune_platform.protocol.events import CapacityChanged, Reported, Resumed, Ticked
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Pause
from tune_platform.resources import Resources


def test_clone() -> None:
    play = running(2, t0s1=Clone(source=1, config={"x": 9}, until=2, reason="exploit"))
    play.report(1, 0.5, saved=True)
    launch = only(play.report(0, 1.0, saved=True), Launch)[0]
    assert (launch.trial, launch.attempt, launch.config, launch.start, launch.committed) == (0, 2, {"x": 9}, 1, 1)
    assert (launch.checkpoint.uri, launch.nodes) == ("1/1/1", (0,))
    assert play.status(0) is TrialStatus.RUNNING  # its process stays
    # The source saves anew: the old one is needed by the clone until that has saved too.
    assert not only(play.report(1, 0.4, saved=True), DropCheckpoints)
    dropped = only(play.report(0, 0.4, saved=True), DropCheckpoints)
    assert [ref.uri for command in dropped for ref in command.checkpoints] == ["1/1/1"]


def test_a_paused_trial_goes_on_with_the_config_and_the_checkpoint_of_another() -> None:
    answers: dict[str, Any] = {
        "t0s1": Pause(reason="r"),
        "t1s1": [Decision(0, Clone(source=1, config={"x": 9}, until=4, reason="exploit"))],
    }
    play = running(2, **answers)
    play.report(0, 3.0, saved=True)
    launch = only(play.report(1, 1.0, saved=True), Launch)[0]
    assert (launch.trial, launch.config, launch.checkpoint.uri, launch.start, launch.until) == (
        0,
        {"x": 9},
        "1/1/1",
        1,
        4,
    )
    assert play.trial(0).configs == [(1, {"x": 0})]


def test_a_waiting_trial_begins_as_a_clone() -> None:
    clone = Decision(2, Clone(source=0, config={"x": 9}, until=4, reason="warm start"))
    play = running(3, cpus=2.0, t0s1=[clone])
    play.report(0, 1.0, saved=True)
    launch = only(play.report(1, 1.0, done=True), Launch)[0]
    assert (launch.trial, launch.config, launch.checkpoint.uri, launch.start, launch.until) == (
        2,
        {"x": 9},
        "0/1/1",
        0,
        4,
    )


@pytest.mark.parametrize("source", ["no checkpoint", "ended", "forgotten"])
def test_what_cannot_be_cloned_goes_on_as_it_is(source: str) -> None:
    """Whether an ended trial is still in memory must not matter, or a resumed run would decide otherwise."""
    play = running(2, t0s1=Clone(source=1, config={}, until=2, reason="exploit"))
    if source != "no checkpoint":
        play.report(1, 1.0, saved=True, done=True)
    if source == "forgotten":
        play.state.forget(1)
    assert only(play.report(0, 1.0), Advance) == [Advance(trial=0, until=2, save=False)]
    assert play.verdicts() == [(0, "Continue", "trial 1 has no checkpoint to clone")]
    again = Controller(play.state.settings, Scripted(t0s1=Clone(source=1, config={}, until=2, reason="exploit")))
    for event, elapsed, effects in play.past:
        again.replay(event, elapsed, effects)
    assert not again.comparison.difference


def test_the_searcher_is_told_which_config_gave_the_value() -> None:
    """Found on the former release: it was told 0.26 for x = 0.7 though x = 0.448 had reached it."""
    clone = Clone(source=1, config={"x": 0.448}, until=3, reason="exploit")
    play = running(2, t0s2=clone)
    play.report(1, 0.5, saved=True)
    play.report(0, 0.9)
    play.report(0, 0.8)
    play.report(0, 0.26)
    outcome = only(play.report(0, 0.3, done=True), Tell)[0].outcome
    assert (outcome.value, outcome.config) == (0.26, {"x": 0.448})
    # What it reached with its first config is not held against the second.
    assert outcome.rungs == ((3.0, 0.26), (4.0, 0.3))
    assert outcome.resource == 4.0


def test_a_value_of_the_first_config_is_told_with_that() -> None:
    play = running(2, t0s1=Clone(source=1, config={"x": 9}, until=3, reason="exploit"))
    play.report(1, 0.5, saved=True)
    play.report(0, 0.26)
    outcome = only(play.report(0, 0.8, done=True), Tell)[0].outcome
    assert (outcome.value, outcome.config, outcome.rungs) == (0.26, {"x": 0}, ((1.0, 0.26),))


def test_of_several_metrics_the_last_values_and_their_config_are_told() -> None:
    play = running(2, t0s1=Clone(source=1, config={"x": 9}, until=3, reason="exploit"))
    play.state.settings = play.state.settings.__class__(metrics=("loss", "step"), modes=("min", "min"))
    play.report(1, 0.5, saved=True)
    play.report(0, 0.26)
    outcome = only(play.report(0, 0.8, done=True), Tell)[0].outcome
    assert (outcome.values, outcome.config, outcome.rungs) == ((0.8, 2), {"x": 9}, ((2.0, 0.8),))


# ------------------------------------------------------------------------------- while the source writes

CLONE = Clone(source=1, config={"x": 9}, until=4, reason="exploit")


def awaiting(**answers: Any) -> Play:
    """Trial 0 waits at its milestone for the checkpoint that trial 1 is writing."""
    play = running(2, **{"t0s1": CLONE, **answers})
    play.report(1, 0.5, saving=True)
    commands = play.report(0, 1.0)
    assert play.effects == [Awaits(trial=0, step=1, verdict=CLONE)]
    assert commands == []
    assert (play.status(0), play.trial(0).waits) == (TrialStatus.RUNNING, True)
    return play


def test_a_clone_waits_for_the_checkpoint_that_its_source_is_writing() -> None:
    play = awaiting()
    launch = only(play.report(1, 0.4, saved=True), Launch)[0]
    assert (launch.trial, launch.config, launch.checkpoint.uri, launch.until) == (0, {"x": 9}, "1/2/1", 4)
    assert [effect.by for effect in play.effects if isinstance(effect, Decided) and effect.trial == 0] == ["engine"]
    assert not play.state.awaiting


def test_a_later_checkpoint_is_not_waited_for() -> None:
    """Its source has that of the milestone at which it was judged; trained on, it is writing another."""
    play = running(2, t0s1=CLONE, t1s1=Continue(until=4, save=True, reason="best"))
    play.report(1, 0.5, saved=True)
    play.report(1, 0.4, saving=True)
    launch = only(play.report(0, 1.0), Launch)[0]
    assert (launch.trial, launch.checkpoint.uri) == (0, "1/1/1")
    assert not play.state.awaiting


def test_an_older_checkpoint_is_not_taken_while_that_of_the_milestone_is_written() -> None:
    """In memory or not: it is not what the source was judged by."""
    play = running(2, t0s1=CLONE)
    play.report(1, 0.5, saving=True, held=True)
    play.report(1, 0.4, saving=True)
    assert play.report(0, 1.0) == []
    assert list(play.state.awaiting) == [0]
    launch = only(play.report(1, saving=True, held=True), Launch)[0]
    assert (launch.trial, launch.checkpoint.uri) == (0, "1/2/1")


def test_a_clone_waits_for_one_checkpoint_however_many_follow() -> None:
    """Its source writes for longer than it trains to its next milestone, so it is always writing one."""
    play = awaiting(t1s2=Continue(until=4, save=True, reason="best"))
    ref = CheckpointRef(1, 1, "1/1/1")
    play.report(1, 0.4, saving=True)  # at its next milestone
    assert list(play.state.awaiting) == [0]
    fact = Reported(time=0.0, trial=1, attempt=1, reports=(), saved=(ref,), saving=True)
    launch = only(play.do(fact), Launch)[0]
    assert (launch.trial, launch.checkpoint.uri) == (0, "1/1/1")


def test_a_checkpoint_of_its_own_does_not_send_it_on() -> None:
    play = awaiting()
    assert play.report(0, saved=True) == []
    assert list(play.state.awaiting) == [0]


def test_a_resume_sees_nothing_else_in_a_clone_that_waits() -> None:
    """Its source has no checkpoint yet, and is writing one: told the history, the scheduler decides the same."""
    play = awaiting()
    play.report(1, 0.4, saved=True)
    again = Controller(play.state.settings, Scripted(t0s1=CLONE))
    for event, elapsed, effects in play.past:
        again.replay(event, elapsed, effects)
    assert not again.comparison.difference
    assert {number: trial.status.value for number, trial in again.state.trials.items()} == play.standing()


def test_nobody_is_overdue_for_waiting() -> None:
    play = awaiting()
    assert list(play.state.heard) == [1]
    play.time = 7.0
    play.report(1, 0.4, saved=True)
    assert play.state.heard[0] == 7.0


@pytest.mark.parametrize("what", ["failed", "ended"])
def test_a_source_that_writes_no_more_is_waited_for_no_longer(what: str) -> None:
    play = awaiting()
    commands = play.fail(1, fatal=True) if what == "failed" else play.report(1, 0.4, done=True)
    assert only(commands, Advance) == [Advance(trial=0, until=2, save=False)]
    assert (0, "Continue", "trial 1 has no checkpoint to clone") in play.verdicts()


def test_one_that_waits_may_be_stopped() -> None:
    play = awaiting()
    play.ask_for("stop", 0)
    assert not play.state.awaiting


def test_a_clone_whose_process_dies_while_it_waits_is_still_to_be_one() -> None:
    """It goes on waiting, without a place, and begins as the clone."""
    play = awaiting()
    assert only(play.fail(0), Launch) == []
    assert (play.status(0), list(play.state.awaiting)) == (TrialStatus.PENDING, [0])
    launch = only(play.report(1, 0.4, saved=True), Launch)[0]
    assert (launch.trial, launch.attempt, launch.config, launch.checkpoint.uri) == (0, 2, {"x": 9}, "1/2/1")


def test_a_paused_trial_waits_for_its_source_too() -> None:
    play = running(2, t0s1=Pause(reason="rung"), t1s1=[Decision(0, CLONE)])
    play.report(0, 1.0, saved=True)
    commands = play.report(1, 0.5, saving=True)
    assert Awaits(trial=0, step=1, verdict=CLONE) in play.effects
    assert only(commands, Launch) == []
    launch = only(play.report(1, 0.4, saved=True), Launch)[0]
    assert (launch.trial, launch.checkpoint.uri, launch.until) == (0, "1/2/1", 4)


def test_one_between_its_milestones_takes_what_there_is() -> None:
    """It does not wait anyway: it begins anew from the newest checkpoint of the source, if there is one."""
    play = running(2, t1s2=[Decision(0, CLONE)])
    play.report(1, 0.5, saved=True)
    launch = only(play.report(1, 0.4, saving=True), Launch)[0]
    assert (launch.trial, launch.checkpoint.uri) == (0, "1/1/1")
    assert not play.state.awaiting


def test_a_clone_of_a_clone_that_is_gone_leaves_a_running_trial_alone() -> None:
    play = running(2, t1s1=[Decision(0, CLONE)])
    assert only(play.report(1, 0.5), Launch) == []
    assert [verdict for verdict in play.verdicts() if verdict[0] == 0] == []
    assert play.trial(0).config == {"x": 0}


# ------------------------------------------------------------------------------- what is in memory


def uri(play: Play, number: int) -> str:
    kept = play.trial(number).checkpoint
    assert kept is not None
    return kept.ref.uri


def from_memory(**answers: Any) -> Play:
    """Trial 0 has gone on from a checkpoint of trial 1 that is in memory, and not written yet."""
    play = running(2, **{"t0s1": CLONE, **answers})
    play.report(1, 0.5, saving=True, held=True)
    launch = only(play.report(0, 1.0, saved=True), Launch)[0]
    assert (launch.checkpoint.uri, launch.config, launch.start) == ("1/1/1", {"x": 9}, 1)
    assert not play.state.awaiting
    return play


def test_a_clone_does_not_wait_for_what_is_in_memory() -> None:
    play = from_memory()  # which has seen the launch
    assert (play.trial(0).config, play.state.shelf.holders["1/1/1"]) == ({"x": 9}, 1)
    assert [ref.uri for ref in play.trial(1).fresh] == ["1/1/1"]


def test_one_that_waits_takes_the_first_that_is_in_memory() -> None:
    play = awaiting()
    launch = only(play.report(1, 0.4, saving=True, held=True), Launch)[0]
    assert (launch.trial, launch.checkpoint.uri) == (0, "1/2/1")


def test_what_a_clone_lets_go_of_is_not_deleted_while_it_is_written() -> None:
    """The clone has saved itself before its source's checkpoint is written, which is the source's own then."""
    play = from_memory()
    assert not only(play.report(0, 0.9, saved=True), DropCheckpoints)
    play.report(1, saved=True)
    assert uri(play, 1) == "1/1/1"
    assert (play.trial(1).fresh, play.state.shelf.holders["1/1/1"]) == ([], 1)


def test_a_clone_holds_what_its_source_lets_go_of() -> None:
    play = from_memory()
    play.report(1, saved=True)
    assert not only(play.report(1, 0.4, saved=True), DropCheckpoints)
    dropped = only(play.report(0, 0.9, saved=True), DropCheckpoints)
    assert [ref.uri for command in dropped for ref in command.checkpoints] == ["1/1/1"]


@pytest.mark.parametrize("what", ["source", "driver"])
def test_a_clone_whose_checkpoint_was_lost_is_cloned_again(what: str) -> None:
    """It was in the memory of a process that has died: the family stays what it was."""
    play = from_memory()
    if what == "driver":
        play.do(Resumed(time=1.0))
    else:
        play.fail(1)
    assert play.trial(1).fresh == []
    if what == "source":
        play.report(1, 0.4, saved=True)
        play.fail(0, "lost_checkpoint")
        assert (
            0,
            "Clone",
            "cloned from trial 1 again: the checkpoint that it went on from was lost",
        ) in play.verdicts()
        assert (uri(play, 0), play.trial(0).config) == ("1/2/2", {"x": 9})
    again = Controller(play.state.settings, Scripted(t0s1=CLONE))
    for event, elapsed, effects in play.past:
        again.replay(event, elapsed, effects)
    assert not again.comparison.difference
    assert again.state.trials[0].newest == play.trial(0).newest


def back(play: Play) -> list[Launch]:
    """The driver dies, and goes on with the same cluster; return what it launches."""
    play.do(Resumed(time=1.0))
    return only(play.do(CapacityChanged(time=1.0, nodes=({"cpu": 2.0},))), Launch)


def check_replayed(play: Play) -> None:
    """Told the history, the scheduler decides the same, and the state is the same."""
    scheduler = play.controller.scheduler
    assert isinstance(scheduler, Scripted)
    again = Controller(play.state.settings, Scripted(**scheduler.answers))
    for event, elapsed, effects in play.past:
        again.replay(event, elapsed, effects)
    assert not again.comparison.difference
    assert again.state.trials[0].newest == play.trial(0).newest
    assert again.state.awaiting == play.state.awaiting
    assert again.state.trials[1].again == play.trial(1).again


def saved_again(play: Play, *losses: float, step: int = 1) -> list[Launch]:
    """The source has come by that step again, and is saved there; perhaps it reports what is new behind that."""
    trial = play.trial(1)
    reports = tuple(Report(trial.step + n, {"loss": loss}, 0.0) for n, loss in enumerate(losses, start=1))
    ref = CheckpointRef(1, step, f"1/{step}/{trial.attempt}")
    later = [CheckpointRef(1, report.step, f"1/{report.step}/{trial.attempt}") for report in reports]
    fact = Reported(time=1.0, trial=1, attempt=trial.attempt, reports=reports, saved=(ref, *later))
    return only(play.do(fact), Launch)


@pytest.mark.parametrize("died", ["the driver", "the source"])
@pytest.mark.parametrize("beyond", [(), (0.3,)])
def test_the_checkpoint_that_a_clone_waited_for_is_written_again(died: str, beyond: tuple[float, ...]) -> None:
    """Found by kills: the clone had gone on as what it was, so that the family was another."""
    play = awaiting()
    launches = back(play) if died == "the driver" else only(play.fail(1), Launch)
    assert [(launch.trial, launch.start, launch.committed, launch.again) for launch in launches] == [(1, 0, 1, (1,))]
    assert list(play.state.awaiting) == [0]
    check_replayed(play)
    launch = next(launch for launch in saved_again(play, *beyond) if launch.trial == 0)
    assert launch.config == {"x": 9}
    assert uri(play, 0) == "1/1/2"  # not a later one
    assert not play.state.awaiting
    check_replayed(play)


def test_a_snapshot_knows_who_waits_without_a_place() -> None:
    play = Play(num_samples=2)
    for number in range(2):
        play.suggest(number, x=number)
    play.do(Resumed(time=1.0))
    play.state.queue.discard(play.trial(0))
    play.state.awaiting[0] = Awaited(CLONE, 1)
    setattr(play.state.scheduler, "state", dict)  # noqa: B010 (a scheduler may have none)
    text = snapshot.to_text(play.state, snapshot.Searcher({}))
    assert text is not None
    scheduler = Scripted()
    setattr(scheduler, "load_state", lambda data: None)  # noqa: B010
    loaded = State(play.state.settings, scheduler)
    assert snapshot.load(loaded, text, lambda data: None) is not None
    assert loaded.awaiting == play.state.awaiting
    loaded.check()


def test_a_source_that_is_not_saved_there_again_is_waited_for_no_longer() -> None:
    """A training function that gives no checkpoint the second time, or another training code."""
    play = awaiting()
    back(play)
    launch = only(play.report(1, 0.4), Launch)[0]
    assert (launch.trial, launch.config, launch.checkpoint) == (0, {"x": 0}, None)
    assert (0, "Continue", "trial 1 has no checkpoint to clone") in play.verdicts()


def test_a_source_that_a_person_holds_or_that_fails_meanwhile_is_waited_for_no_longer() -> None:
    play = awaiting()
    back(play)
    play.ask_for("pause", 1)
    assert not play.state.awaiting
    assert play.status(0) is TrialStatus.STARTING
    play = awaiting()
    back(play)
    play.fail(1, fatal=True)
    assert not play.state.awaiting
    assert play.status(0) is TrialStatus.STARTING


def test_a_clone_that_had_gone_on_waits_for_what_was_lost() -> None:
    """From memory: with the driver that died before it was written, and the clone itself has saved nothing since."""
    play = from_memory(t1s1=Continue(until=9, save=True, reason="best"))
    play.report(1, 0.4)
    launches = back(play)
    assert [(launch.trial, launch.start, launch.again) for launch in launches] == [(0, 1, ()), (1, 0, (1,))]
    assert only(play.fail(0, "lost_checkpoint"), Launch) == []
    assert play.effects[-1] == Awaits(trial=0, step=1, verdict=play.state.awaiting[0].clone, lost=1)
    check_replayed(play)
    launch = saved_again(play, 0.3)[0]
    assert play.effects[1:2] == [Regained(trial=0, step=1, checkpoint=CheckpointRef(1, 1, "1/1/2"))]
    assert (launch.trial, uri(play, 0), launch.config, launch.start) == (0, "1/1/2", {"x": 9}, 1)
    check_replayed(play)


def test_what_was_lost_may_be_there_again_before_it_is_missed() -> None:
    play = from_memory(t1s1=Continue(until=9, save=True, reason="best"))
    back(play)
    saved_again(play, 0.4, 0.3)
    assert [launch.trial for launch in only(play.fail(0, "lost_checkpoint"), Launch)] == [0]
    assert uri(play, 0) == "1/1/2"


def test_what_was_written_in_time_is_not_written_again() -> None:
    play = from_memory(t1s1=Continue(until=9, save=True, reason="best"))
    play.report(1, saved=True)
    play.report(1, 0.4)
    assert [launch.again for launch in back(play)] == [(), ()]


def test_a_search_does_not_end_before_those_that_wait() -> None:
    """Their source fits into no node any more, and fails when nothing runs: nothing else would happen of itself."""
    play = Play(Scripted(t0s1=CLONE), nodes=({"cpu": 3.0},), num_samples=2, misfit_after=10.0)
    for number in range(2):
        play.suggest(number, needs=Resources(cpu=1 + number), x=number)
    play.report(1, 0.5, saving=True)
    play.report(0, 1.0)
    play.do(Resumed(time=1.0))
    play.do(CapacityChanged(time=1.0, nodes=({"cpu": 1.0},)))
    assert (play.standing(), list(play.state.awaiting)) == ({0: "PENDING", 1: "PENDING"}, [0])
    play.do(Ticked(time=play.controller.deadline()))
    assert play.standing() == {0: "STARTING", 1: "FAILED"}
    assert play.finished() is None


def test_a_clone_that_loses_what_it_goes_on_from_again_and_again_is_given_up_at_last() -> None:
    play = from_memory()
    play.fail(1)
    for step in range(1, 1 + LOST_AT_ONCE):
        play.report(1, 0.4, saved=True)
        play.fail(0, "lost_checkpoint")
        assert (play.trial(0).status.value, uri(play, 0)) == ("STARTING", f"1/{1 + step}/2")
    play.report(1, 0.4, saved=True)
    play.fail(0, "lost_checkpoint")
    assert play.trial(0).status.value == "FAILED"


def test_a_clone_is_not_what_it_was() -> None:
    """What it held in memory before is not what others take from it afterwards."""
    play = running(2, t0s1=CLONE)
    play.report(1, 0.5, saved=True)
    play.report(0, 1.0, saving=True, held=True)
    assert (play.trial(0).fresh, uri(play, 0)) == ([], "1/1/1")


def test_a_clone_of_the_same_checkpoint_again_holds_it_once() -> None:
    """Its source stands still, and its own has not been written yet: to let go of the older would lose both."""
    play = running(2, t0s1=CLONE, t0s2=Clone(source=1, config={"x": 8}, until=4, reason="exploit"))
    play.report(1, 0.5, saved=True)
    play.report(0, 1.0, saved=True)
    launch = only(play.report(0, 0.9, saving=True, held=True), Launch)[0]
    assert (launch.checkpoint.uri, launch.start, launch.config) == ("1/1/1", 2, {"x": 8})
    assert play.state.shelf.holders["1/1/1"] == 2


def test_a_trial_goes_on_from_its_own_checkpoint_with_another_config() -> None:
    """Once it is written: if its process dies, there is something to go back to."""
    play = running(1, t0s1=Clone(source=0, config={"x": 9}, until=4, reason="replay"))
    assert not only(play.report(0, 1.0, saving=True, held=True), Launch)
    launch = only(play.report(0, saved=True), Launch)[0]
    assert (launch.checkpoint.uri, launch.start, launch.config, launch.until) == ("0/1/1", 1, {"x": 9}, 4)
    assert play.trial(0).configs == [(1, {"x": 0})]
