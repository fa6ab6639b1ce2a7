"""The controller, one rule at a time: reports, verdicts, checkpoints and the end of an experiment."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.support import TinyPBT
from tests.tune_platform.engine.play import Play, Scripted, only
from tune_platform.engine.trial import TrialStatus
from tune_platform.protocol.commands import Advance, Ask, DropCheckpoints, Finish, Launch, Release, Save, Tell
from tune_platform.protocol.effects import Decided, Finished, Launched
from tune_platform.protocol.events import Failed, Interrupted, Reported, Requested, Resumed, Saved, Suggested, Ticked
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.protocol.scheduler import Candidates
from tune_platform.protocol.searcher import RUNGS, Outcome
from tune_platform.protocol.verdicts import Continue, Pause, Stop
from tune_platform.schedulers import ASHA


def test_a_trial_runs_once_its_process_is_up() -> None:
    play = Play()
    play.suggest(0)
    assert (play.status(0), play.trial(0).started) == (TrialStatus.STARTING, None)
    play.time = 4.0
    play.start(0)
    assert (play.status(0), play.trial(0).started, play.trial(0).worker) == (TrialStatus.RUNNING, 4.0, "w0")
    play.suggest(1)
    play.time = 6.0
    play.report(1, 1.0)  # a first report says so too; its process was up soon after the launch
    assert (play.status(1), play.trial(1).started) == (TrialStatus.RUNNING, 4.0)


def test_step_numbers_rise_by_one() -> None:
    play = Play()
    play.suggest(0)
    play.report(0, 1.0, 0.9)
    event = Reported(time=0.0, trial=0, attempt=1, reports=(Report(4, {"loss": 1.0}, 0.0),))
    with pytest.raises(ValueError, match="step 4 was reported after step 2"):
        play.do(event)


def test_stale_events_are_refused() -> None:
    play = Play(retries={"exception": 1})
    play.suggest(0)
    play.fail(0)
    accepts = play.controller.accepts
    report = (Report(1, {"loss": 1.0}, 0.0),)
    assert not accepts(Reported(time=0.0, trial=0, attempt=1, reports=report))
    assert accepts(Reported(time=0.0, trial=0, attempt=2, reports=report))
    assert not accepts(Failed(time=0.0, trial=0, attempt=1, cause="exception", message=""))
    assert not accepts(Failed(time=0.0, trial=5, attempt=1, cause="exception", message=""))
    assert not accepts(Saved(time=0.0, trial=0, attempt=2, checkpoint=None))
    assert not accepts(Suggested(time=0.0, trial=0, config={}))
    play.ask_for("pause")
    assert not accepts(Requested(time=0.0, request=1, action="stop"))


def test_a_start_is_news_once() -> None:
    play = Play()
    play.suggest(0)
    play.start(0)
    with pytest.raises(AssertionError, match="not accepted"):
        play.start(0)


def test_a_late_checkpoint_of_an_ended_trial_is_kept() -> None:
    """It was being written when its place was given back: the table of checkpoints has to know of it."""
    play = Play()
    play.suggest(0)
    play.report(0, 1.0, done=True)
    late = Saved(time=1.0, trial=0, attempt=1, checkpoint=CheckpointRef(0, 1, "late"))
    assert play.controller.accepts(late)
    assert not play.controller.accepts(Saved(time=1.0, trial=0, attempt=1, checkpoint=None))
    assert only(play.do(late), DropCheckpoints) == []
    play.state.forget(0)
    assert play.controller.accepts(late)
    assert not play.controller.accepts(Saved(time=1.0, trial=7, attempt=1, checkpoint=CheckpointRef(7, 1, "x")))


def test_target_ends_the_experiment() -> None:
    play = Play(target=0.5)
    play.suggest(0)
    play.suggest(1)
    play.report(0, 0.7)
    assert play.finished() is None
    play.report(0, 0.4)
    assert play.finished() == Finish(status="finished", reason="loss reached the target 0.5 in trial 0")
    assert play.status(0) is play.status(1) is TrialStatus.STOPPED
    assert [effect.by for effect in play.effects if isinstance(effect, Decided)] == ["budget", "budget"]


def test_what_a_time_budget_leaves_waiting_is_told_and_goes_on_when_it_is_extended() -> None:
    play = Play(time_budget=10.0, max_concurrent=1, prefetch=2)
    for number in range(3):
        play.suggest(number)
    play.report(0, 1.0)
    play.do(Ticked(time=10.0))
    reason = "the time budget of 10 s is used up; 2 trials wait, and would go on if it were extended"
    assert play.finished() == Finish(status="finished", reason=reason)
    assert [play.status(number) for number in (1, 2)] == [TrialStatus.PENDING] * 2
    play.do(Requested(time=11.0, request=1, action="extend", trial=None, data={"time": 5.0}))
    assert play.finished() is None
    assert play.status(1) is TrialStatus.STARTING


def test_time_budget() -> None:
    play = Play(time_budget=10.0)
    play.suggest(0)
    assert play.controller.deadline() == 10.0
    play.time = 4.0
    play.report(0, 1.0)
    assert play.controller.deadline() == 10.0
    play.do(Ticked(time=10.0))
    assert play.finished() == Finish(status="finished", reason="the time budget of 10 s is used up")
    assert play.status(0) is TrialStatus.STOPPED
    assert play.controller.deadline() == math.inf


def test_a_clock_set_forward_ends_nothing() -> None:
    """Only `elapsed` counts: the events' times are for people."""
    play = Play(time_budget=10.0, step_timeout=5.0)
    play.suggest(0)
    play.start(0)
    day = 86_400.0
    play.do(Reported(time=day, trial=0, attempt=1, reports=(Report(1, {"loss": 1.0}, day),)), elapsed=2.0)
    play.do(Ticked(time=day + 1), elapsed=3.0)
    assert play.status(0) is TrialStatus.RUNNING
    assert play.controller.deadline() == 7.0
    assert play.controller.overdue(day, 6.9) is None
    assert play.controller.overdue(day, 7.0) is not None


def test_elapsed_never_runs_backwards() -> None:
    play = Play(time_budget=10.0)
    play.suggest(0)
    play.do(Ticked(time=1.0), elapsed=4.0)
    play.do(Ticked(time=2.0), elapsed=3.0)
    assert play.state.elapsed == 4.0


def test_time_budget_ends_what_a_person_lets_run_out() -> None:
    play = Play(time_budget=10.0)
    play.suggest(0)
    play.ask_for("stop")
    assert play.finished() is None
    play.do(Ticked(time=10.0))
    finish = play.finished()
    assert finish is not None
    assert (finish.status, finish.reason) == ("stopped", "a person stopped it")


def test_stop_condition() -> None:
    play = Play(stop={"step": 2})
    play.suggest(0)
    play.report(0, 1.0, 0.9)
    (decided,) = [effect for effect in play.effects if isinstance(effect, Decided)]
    assert (decided.by, decided.step) == ("stop", 2)
    assert decided.verdict == Stop(reason="step 2 reached the stop condition 2", completed=True)
    assert play.status(0) is TrialStatus.COMPLETED


def test_a_metric_that_is_missing_at_a_milestone_holds_nobody_up() -> None:
    play = Play(Scripted(), stop={"step": 3})
    play.suggest(0)
    report = (Report(1, {"other": 1.0}, 0.0),)
    commands = play.do(Reported(time=0.0, trial=0, attempt=1, reports=report))
    assert only(commands, Advance) == [Advance(trial=0, until=2, save=False)]


def test_without_a_verdict_a_trial_goes_on() -> None:
    play = Play(Scripted())
    play.suggest(0)
    assert only(play.report(0, 1.0), Advance) == [Advance(trial=0, until=2, save=False)]
    assert play.verdicts() == [(0, "Continue", "the scheduler has no objection")]
    assert [effect.by for effect in play.effects if isinstance(effect, Decided)] == ["engine"]


def test_the_first_verdict_that_ends_the_leg_holds() -> None:
    """A batch may go beyond a rung: what was trained after it was decided on too late."""
    verdicts: dict[str, Any] = {"t0s1": Continue(until=3, reason="a"), "t0s2": Stop(reason="b")}
    verdicts["t0s3"] = Continue(until=9, reason="c")
    play = Play(Scripted(**verdicts))
    play.suggest(0)
    play.report(0, 3.0, 2.0, 1.0)
    assert play.verdicts() == [(0, "Stop", "b")]
    verdicts = {"t0s1": Continue(until=2, reason="a"), "t0s2": Continue(until=4, reason="b")}
    play = Play(Scripted(**verdicts))
    play.suggest(0)
    play.report(0, 3.0, 2.0)
    assert play.verdicts() == [(0, "Continue", "b")]


def test_a_done_trial_is_completed_whatever_the_verdict() -> None:
    scheduler = Scripted(t0s1=Stop(reason="worst"))
    play = Play(scheduler)
    play.suggest(0)
    play.report(0, 1.0, done=True)
    assert play.verdicts() == []
    assert (play.status(0), play.trial(0).reason) == (TrialStatus.COMPLETED, "the training code ended")
    assert scheduler.heard[-1] == ("completed", 0)


def test_a_scheduler_hears_of_a_trials_whole_life() -> None:
    scheduler = Scripted(t0s2=Pause(reason="rung"))
    play = Play(scheduler, num_samples=1)
    play.suggest(0)
    play.report(0, 2.0)
    play.report(0, 1.0, saved=True)
    assert scheduler.heard == [
        ("add", 0), ("start", 0), ("supply end", -1), ("report 1", 0), ("report 2", 0), ("stopped", 0)
    ]  # fmt: skip
    assert play.trial(0).reason == "it was not sent on before the search ended"


# ------------------------------------------------------------------------------- pauses


def test_pause_saves_first() -> None:
    play = Play(Scripted(t0s1=Pause(reason="rung 0")))
    play.suggest(0)
    assert only(play.report(0, 1.0), Save) == [Save(trial=0, halt=False)]  # it waits at its milestone already
    assert play.status(0) is TrialStatus.PAUSING
    assert only(play.saved(0), Release) == [Release(trial=0, warm=False)]
    assert (play.status(0), play.trial(0).reason) == (TrialStatus.PAUSED, "rung 0")


def test_pause_with_a_checkpoint_at_hand() -> None:
    play = Play(Scripted(t0s1=Pause(reason="rung 0")), keep_warm=True)
    play.suggest(0)
    commands = play.report(0, 1.0, saved=True)
    assert only(commands, Release) == [Release(trial=0, warm=True)]
    assert play.status(0) is TrialStatus.PAUSED


def test_a_checkpoint_that_comes_alone_is_no_objection_to_the_verdict() -> None:
    """Found in real kills: the trial was sent on because the batch of its checkpoint had no verdict with it."""
    play = Play(Scripted(t0s1=Pause(reason="rung 0")))
    play.suggest(0)
    play.report(0, 1.0, saving=True)
    assert play.report(0, saved=True) == []
    assert (play.verdicts(), play.status(0)) == ([], TrialStatus.PAUSING)
    assert only(play.saved(0), Release) == [Release(trial=0, warm=False)]
    assert play.status(0) is TrialStatus.PAUSED


def test_the_process_of_a_trial_that_has_ended_is_not_kept_warm() -> None:
    play = Play(keep_warm=True)
    play.suggest(0)
    assert only(play.report(0, 1.0, done=True), Release) == [Release(trial=0)]


class Eager(Scripted):
    """Sends trial 0 on as soon as it is paused."""

    def choose(self, candidates: Candidates) -> int | None:
        return 0 if candidates.paused(0) is not None else super().choose(candidates)


def test_a_paused_trial_that_is_chosen_is_sent_on_to_the_schedulers_milestone() -> None:
    scheduler = Eager(t0s1=Pause(reason="rung 0"))
    play = Play(scheduler)
    play.suggest(0)
    launch = only(play.report(0, 3.0, saved=True), Launch)[0]
    assert (launch.trial, launch.attempt, launch.start, launch.until) == (0, 2, 1, 2)
    assert play.verdicts() == [(0, "Pause", "rung 0"), (0, "Continue", "the scheduler sent it on")]
    assert [(status, reason) for _, status, reason in play.trial(0).history] == [
        ("STARTING", ""),
        ("RUNNING", ""),
        ("PAUSED", "rung 0"),
        ("PENDING", "the scheduler sent it on"),
        ("STARTING", ""),
    ]
    assert scheduler.heard == [("add", 0), ("start", 0), ("report 1", 0), ("start", 0)]


def test_the_searcher_is_told_of_each_pause_and_of_the_end() -> None:
    play = Play(Eager(t0s1=Pause(reason="rung 0"), t0s2=Pause(reason="rung 1")))
    play.suggest(0, x=1)
    told = [play.report(0, 3.0, saved=True), play.report(0, 4.0, saved=True), play.report(0, 1.0, done=True)]
    outcomes = [tell.outcome for commands in told for tell in only(commands, Tell)]
    config = {"x": 1}
    assert outcomes == [
        Outcome("paused", 3.0, 1, (3.0,), config, 1.0, ((1.0, 3.0),)),
        Outcome("paused", 3.0, 2, (4.0,), config, 2.0, ((1.0, 3.0), (2.0, 4.0))),
        Outcome("completed", 1.0, 3, (1.0,), config, 3.0, ((1.0, 3.0), (2.0, 4.0), (3.0, 1.0))),
    ]


@pytest.mark.parametrize("follow", [False, True])
def test_a_searcher_that_follows_is_told_of_each_rung_that_a_trial_passes(follow: bool) -> None:
    play = Play(ASHA(min=1, max=9, eta=3), follow=follow)
    play.suggest(0, x=1)
    told = [play.report(0, 3.0), play.report(0, 2.5), play.report(0, 2.0), play.report(0, 1.0, done=True)]
    outcomes = [tell.outcome for commands in told for tell in only(commands, Tell)]
    running = [
        Outcome("running", 3.0, 1, (3.0,), {"x": 1}, 1.0, ((1.0, 3.0),)),
        Outcome("running", 2.0, 3, (2.0,), {"x": 1}, 3.0, ((1.0, 3.0), (3.0, 2.0))),
    ]
    end = Outcome("completed", 1.0, 4, (1.0,), {"x": 1}, 4.0, ((1.0, 3.0), (3.0, 2.0), (4.0, 1.0)))
    assert outcomes == [*(running if follow else []), end]


def test_a_searcher_is_told_of_a_bounded_number_of_rungs() -> None:
    play = Play(ASHA(min=1, eta=1.01), follow=True)
    play.suggest(0)
    told = [only(play.report(0, 3.0), Tell)[0].outcome for _ in range(RUNGS + 5)]
    assert len(told[-1].rungs) == RUNGS
    assert told[-1].rungs[-1][0] == RUNGS + 5


def test_who_does_not_report_the_resource_has_come_nowhere() -> None:
    scheduler = Scripted()
    scheduler.resource = "samples"
    play = Play(scheduler)
    play.suggest(0, x=1)
    (tell,) = only(play.report(0, 3.0, done=True), Tell)
    assert (tell.outcome.resource, tell.outcome.rungs) == (0.0, ((0.0, 3.0),))


def test_an_outcome_has_the_last_report_beside_the_rungs() -> None:
    play = Play(ASHA(min=2, max=9, eta=3))
    play.suggest(0, x=1)
    outcome = only(play.report(0, 3.0, done=True), Tell)[0].outcome
    assert outcome == Outcome("completed", 3.0, 1, (3.0,), {"x": 1}, 1.0, ((1.0, 3.0),))
    play.suggest(1, x=2)
    play.report(1, 3.0, 2.0)
    outcome = only(play.report(1, 1.0, done=True), Tell)[0].outcome
    assert (outcome.resource, outcome.rungs) == (3.0, ((2.0, 2.0), (3.0, 1.0)))


def test_losers_that_are_paused_are_stopped_at_the_end() -> None:
    play = Play(ASHA(max=9, eta=3, type="promotion"), num_samples=2)
    for number in range(2):
        play.suggest(number)
    play.report(0, 1.0, saved=True)
    play.report(1, 2.0, saved=True)
    reason = "it was not sent on before the search ended"
    assert [effect for effect in play.effects if isinstance(effect, (Decided, Finished))][1:] == [
        Decided(trial=0, step=1, verdict=Stop(reason=reason), by="engine"),
        Decided(trial=1, step=1, verdict=Stop(reason=reason), by="engine"),
        Finished(status="finished", reason="all 2 trials are done"),
    ]


# ------------------------------------------------------------------------------- checkpoints, memory, the end


@pytest.mark.parametrize(
    ("last", "best", "kept"),
    [(1, None, [5]), (2, None, [4, 5]), (None, None, [1, 2, 3, 4, 5]), (0, 1, [2, 5]), (1, 2, [2, 3, 5])],
)
def test_retention(last: int | None, best: int | None, kept: list[int]) -> None:
    play = Play(keep_last=last, keep_best=best)
    play.suggest(0)
    for loss in (5.0, 1.0, 2.0, 3.0, 4.0):
        play.report(0, loss, saved=True)
    assert [entry.step for entry in play.trial(0).checkpoints] == kept


def test_forgotten_trials_leave_nothing_behind() -> None:
    play = Play(num_samples=math.inf)
    for number in range(500):
        play.suggest(number)
        play.report(number, 1.0, saved=True)
        play.report(number, 1.0, done=True)
        play.state.forget(number)
    state = play.state
    assert not state.trials
    assert not state.shelf.holders
    assert not state.placed
    assert not state.heard
    assert len(play.asked) <= 3


def test_a_living_trial_is_not_forgotten() -> None:
    play = Play()
    play.suggest(0)
    play.state.forget(0)
    assert play.status(0) is TrialStatus.STARTING


def test_interrupted_saves_and_launches_nothing() -> None:
    play = Play()
    play.suggest(0)
    play.suggest(1)
    play.start(1)
    assert only(play.do(Interrupted(time=1.0)), Save) == [Save(trial=0, halt=True), Save(trial=1, halt=True)]
    assert not only(play.report(0, 1.0, done=True), Launch)
    assert not only(play.suggest(2), Launch)


def test_an_interrupted_search_asks_for_no_more_saves_of_what_saves_already() -> None:
    play = Play(Scripted(t0s1=Pause(reason="rung 0")))
    play.suggest(0)
    play.report(0, 1.0)
    assert only(play.do(Interrupted(time=1.0)), Save) == []


def test_resume_after_the_end_with_more() -> None:
    play = Play(num_samples=1)
    play.suggest(0)
    play.report(0, 1.0, done=True)
    assert play.finished() == Finish(status="finished", reason="all 1 trials are done")
    play.do(Resumed(time=1.0))
    play.do(capacity(1.0))
    assert play.finished() is not None
    assert only(play.ask_for("extend", trials=2), Ask) == [Ask(trial=1), Ask(trial=2)]
    assert play.finished() is None


def capacity(time: float, cpus: float = 2.0) -> Any:
    from tune_platform.protocol.events import CapacityChanged

    return CapacityChanged(time=time, nodes=({"cpu": cpus},))


def test_the_seed_reaches_the_scheduler() -> None:
    scheduler = TinyPBT()
    Play(scheduler, seed=42)
    assert scheduler.seed == 42


def test_launches_say_where_and_how_far() -> None:
    play = Play(Scripted(), nodes=({"cpu": 1.0}, {"cpu": 1.0}))
    play.suggest(0, x=1)
    (launched,) = [effect for effect in play.effects if isinstance(effect, Launched)]
    assert (launched.trial, launched.attempt, launched.nodes, launched.until, launched.save) == (0, 1, (0,), 1, False)
    commands = play.suggest(1, x=2)
    (launch,) = only(commands, Launch)
    assert (launch.nodes, launch.config, launch.checkpoint, launch.start, launch.committed) == (
        (1,),
        {"x": 2},
        None,
        0,
        0,
    )


def test_a_checkpoint_that_comes_after_later_reports_is_kept_for_what_it_was_worth() -> None:
    """It is written behind the training, and a batch may bring several steps with all of their checkpoints."""
    play = Play(keep_last=1, keep_best=1)
    play.suggest(0)
    trial = play.trial(0)
    reports = tuple(Report(step, {"loss": loss}, 0.0) for step, loss in enumerate((10.0, 4.0, 10.0), start=1))
    refs = tuple(CheckpointRef(0, step, f"0/{step}") for step in (1, 2))
    play.do(Reported(time=0.0, trial=0, attempt=trial.attempt, reports=reports, saved=refs))
    play.do(Reported(time=0.0, trial=0, attempt=1, reports=(), saved=(CheckpointRef(0, 3, "0/3"),)))
    assert [(kept.step, kept.value) for kept in trial.checkpoints] == [(2, 4.0), (3, 10.0)]
    assert trial.unsaved == []
