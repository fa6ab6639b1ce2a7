"""The controller, one rule at a time: events in, commands out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support import CheckedController, TinyPBT
from tune_platform.engine.controller import PATIENCE
from tune_platform.engine.queue import Queue
from tune_platform.engine.settings import Settings
from tune_platform.engine.trial import Trial, TrialStatus
from tune_platform.protocol.commands import (
    Advance,
    Ask,
    Command,
    Decide,
    DropCheckpoints,
    Finish,
    Launch,
    Release,
    Save,
    Tell,
)
from tune_platform.protocol.events import (
    CapacityChanged,
    Event,
    Exhausted,
    Failed,
    Interrupted,
    Reported,
    Requested,
    Resumed,
    Saved,
    Suggested,
    Ticked,
)
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.searcher import Outcome
from tune_platform.protocol.verdicts import Clone, Continue, Pause, Stop, Verdict
from tune_platform.resources import Ledger, Resources
from tune_platform.schedulers import ASHA, FIFO


class Play:
    """Feeds a controller and remembers its answers."""

    def __init__(self, scheduler: Any = None, *, nodes: Any = ({"cpu": 2.0},), **options: Any) -> None:
        options = {"num_samples": 8, "resources": lambda config: config.get("needs", Resources()), **options}
        settings = Settings(metrics=("loss",), modes=("min",), **options)
        self.controller = CheckedController(settings, scheduler or FIFO())
        self.time, self.requests = 0.0, 0
        self.do(CapacityChanged(time=0.0, nodes=nodes))

    def do(self, event: Event) -> list[Command]:
        assert self.controller.accepts(event), f"not accepted: {event}"
        return self.controller.handle(event)

    def suggest(self, number: int, **config: Any) -> list[Command]:
        return self.do(Suggested(time=self.time, trial=number, config=config))

    def report(self, number: int, *losses: Any, saved: bool = False, done: bool = False) -> list[Command]:
        trial = self.controller.trials[number]
        reports = tuple(Report(trial.step + n, {"loss": v}, 0.0) for n, v in enumerate(losses, start=1))
        step = trial.step + len(losses)
        refs = (CheckpointRef(number, step, f"{number}/{step}/{trial.attempt}"),) if saved else ()
        return self.do(
            Reported(time=self.time, trial=number, attempt=trial.attempt, reports=reports, saved=refs, done=done)
        )

    def saved(self, number: int) -> list[Command]:
        trial = self.controller.trials[number]
        ref = CheckpointRef(number, trial.step, f"{number}/{trial.step}/{trial.attempt}/asked")
        return self.do(Saved(time=self.time, trial=number, attempt=trial.attempt, checkpoint=ref))

    def fail(self, number: int, cause: str = "exception", *, fatal: bool = False) -> list[Command]:
        attempt = self.controller.trials[number].attempt
        return self.do(Failed(time=self.time, trial=number, attempt=attempt, cause=cause, message="bang", fatal=fatal))

    def ask_for(self, action: str, trial: int | None = None, **data: Any) -> list[Command]:
        self.requests += 1
        return self.do(Requested(time=self.time, request=self.requests, action=action, trial=trial, data=data))

    def finished(self) -> Finish | None:
        return self.controller.finished

    def status(self, number: int) -> TrialStatus:
        return self.controller.trials[number].status


def only(commands: list[Command], kind: Any) -> list[Any]:
    return [command for command in commands if isinstance(command, kind)]


class Scripted(FIFO):
    """A scheduler that says what it is told to say, at milestones of one step."""

    def __init__(self, **verdicts: Verdict | None) -> None:
        self.verdicts: Mapping[str, Verdict | None] = verdicts
        self.ended: list[tuple[int, str]] = []

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        return (trial.last.step if trial.last else 0) + 1, False

    def on_report(self, trial: TrialView, report: Report) -> Verdict | None:
        return self.verdicts.get(f"t{trial.number}s{report.step}")

    def on_end(self, trial: TrialView, status: str) -> None:
        self.ended.append((trial.number, status))


def test_prefetch_asks_for_as_many_as_can_run() -> None:
    play = Play(nodes=({"cpu": 3.0},))
    assert list(play.controller.asked) == [0, 1, 2]
    commands = play.suggest(0)
    assert [type(command) for command in commands] == [Launch, Ask]
    assert list(Play(nodes=({"cpu": 3.0},), prefetch=1).controller.asked) == [0]
    assert list(Play(nodes=({"cpu": 3.0},), prefetch=0).controller.asked) == [0]
    assert list(Play(nodes=({"cpu": 9.0},), num_samples=2).controller.asked) == [0, 1]
    assert list(Play(nodes=({"cpu": 9.0},), max_concurrent=4).controller.asked) == [0, 1, 2, 3]


def test_a_big_cluster_is_counted_quickly() -> None:
    assert len(Play(nodes=tuple({"cpu": 64.0} for _ in range(2000)), num_samples=math.inf).controller.asked) == 10_000


def test_resources_that_need_a_config() -> None:
    """A function of the config cannot be asked without one; where it raises for a trial, that trial alone fails."""
    play = Play(resources=lambda config: Resources(cpu=config["cpus"]))
    assert only(play.suggest(0, cpus=2.0), Launch)[0].resources.cpu == 2.0
    commands = play.suggest(1, cpu=1.0)
    assert only(commands, Tell)[0].outcome.status == "failed"
    assert "KeyError('cpus')" in play.controller.trials[1].error


def test_impossible_trials_fail_and_the_rest_goes_on() -> None:
    """Found by thought: an impossible trial that had been passed over stopped all others for ever."""
    play = Play(num_samples=30, prefetch=1, nodes=({"cpu": 1.0},))
    play.suggest(0, needs=Resources(cpu=1))
    play.suggest(1, needs=Resources(cpu=5))
    number = 1
    for _ in range(200):
        asked = list(play.controller.asked)
        running = [n for n, t in play.controller.trials.items() if t.status is TrialStatus.RUNNING]
        if asked:
            number = asked[0]
            play.suggest(number)
        elif running:
            play.report(running[0], 1.0, done=True)
        else:
            break
    assert play.status(1) is TrialStatus.FAILED
    assert "5 cpu, but the nodes have only: 1 cpu" in play.controller.trials[1].reason
    assert play.controller.counts[TrialStatus.COMPLETED] == 29
    assert play.finished()


def test_misfits_count_as_failures() -> None:
    play = Play(max_failures=0, num_samples=3)
    play.suggest(0, needs=Resources(cpu=5))
    finish = play.finished()
    assert finish
    assert finish.status == "failed"


def test_a_gang_is_placed_after_at_most_patience_younger_trials() -> None:
    """Invariant 5, where small trials come and go for ever."""
    play = Play(nodes=({"cpu": 2.0},), num_samples=math.inf)
    play.suggest(0)
    play.suggest(1, needs=Resources(workers=2))
    placed = []
    for _ in range(40):
        while play.controller.asked:
            commands = play.suggest(next(iter(play.controller.asked)))
            placed += [launch.trial for launch in only(commands, Launch)]
        running = [n for n, t in play.controller.trials.items() if t.status is TrialStatus.RUNNING]
        # They end in the order in which they started: never do both places become free at once by chance.
        placed += [launch.trial for launch in only(play.report(min(running), 1.0, done=True), Launch)]
        if 1 in placed:
            break
    assert placed.index(1) == PATIENCE
    assert play.controller.trials[1].bypassed == 0


def test_paused_trials_do_not_pass_one_that_is_starved() -> None:
    trials = [Trial(n, {}, Resources(workers=2) if n == 1 else Resources()) for n in range(PATIENCE + 4)]
    ledger = Ledger([{"cpu": 2.0}])
    queue = Queue(ledger)
    ledger.lease(99, Resources())  # one place is left, and the gang needs two
    queue.add(trials[1])
    for number in (0, 3):
        trials[number].status = TrialStatus.PAUSED
        queue.add_paused(trials[number])
    queue.add(trials[2])
    for younger in range(4, PATIENCE + 4):
        assert queue.paused(3) is trials[3]
        assert [trial.number for trial in queue.waiting()] == [2]
        queue.pass_over(younger)
    assert queue.paused(3) is None
    assert list(queue.waiting()) == []
    assert queue.paused(0) is trials[0]  # an older one may
    queue.discard(trials[1])
    assert queue.paused(3) is trials[3]


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


def test_retries_are_bounded_by_cause() -> None:
    play = Play(retries={"exception": 2, "worker_died": 1})
    play.suggest(0)
    for cause in ("exception", "worker_died", "exception"):
        commands = play.fail(0, cause)
        assert [type(c) for c in commands if not isinstance(c, Ask)] == [Release, Launch]
        assert commands[0].kill  # type: ignore[union-attr]
    commands = play.fail(0)
    assert play.status(0) is TrialStatus.FAILED
    assert only(commands, Tell)[0].outcome.status == "failed"


@pytest.mark.parametrize(("cause", "fatal"), [("bad_metric", False), ("exception", True)])
def test_what_is_not_retried(cause: str, fatal: bool) -> None:
    play = Play(retries={"exception": 5})
    play.suggest(0)
    play.fail(0, cause, fatal=fatal)
    assert play.status(0) is TrialStatus.FAILED


def test_failure_budget() -> None:
    play = Play(max_failures=1)
    for number in range(3):
        play.suggest(number)
    play.fail(0)
    assert play.finished() is None
    commands = play.fail(1)
    finish = play.finished()
    assert finish is not None
    assert finish.status == "failed"
    assert "2 trials failed, more than the budget of 1" in finish.reason
    assert [command.trial for command in only(commands, Release)] == [1, 2]
    assert play.status(2) is TrialStatus.STOPPED


def test_target_ends_the_experiment() -> None:
    play = Play(target=0.5)
    play.suggest(0)
    play.suggest(1)
    play.report(0, 0.7)
    assert play.finished() is None
    play.report(0, 0.4)
    finish = play.finished()
    assert finish is not None
    assert finish.reason == "loss reached the target 0.5 in trial 0"
    assert play.status(0) is play.status(1) is TrialStatus.STOPPED


def test_time_budget() -> None:
    play = Play(time_budget=10.0)
    play.suggest(0)
    assert play.controller.deadline() == 10.0
    play.time = 4.0
    play.report(0, 1.0)
    assert play.controller.deadline() == 10.0
    play.do(Ticked(time=10.0))
    finish = play.finished()
    assert finish is not None
    assert finish.status == "finished"
    assert play.status(0) is TrialStatus.STOPPED
    assert play.controller.deadline() == math.inf


def test_time_budget_ends_what_a_person_lets_run_out() -> None:
    play = Play(time_budget=10.0)
    play.suggest(0)
    play.ask_for("stop")
    assert play.finished() is None
    play.do(Ticked(time=10.0))
    finish = play.finished()
    assert finish is not None
    assert finish.status == "stopped"


def test_time_between_drivers_is_not_spent() -> None:
    play = Play(time_budget=10.0)
    play.suggest(0)
    play.do(Resumed(time=1000.0))
    play.do(CapacityChanged(time=1000.0, nodes=({"cpu": 1.0},)))
    assert play.controller.deadline() == 1010.0
    assert play.status(0) is TrialStatus.RUNNING


def test_resumed_launches_once_the_new_capacity_is_known() -> None:
    play = Play(nodes=({"cpu": 8.0},))
    for number in range(3):
        play.suggest(number)
    assert not only(play.do(Resumed(time=1.0)), Launch)
    launches = only(play.do(CapacityChanged(time=1.0, nodes=({"cpu": 2.0},))), Launch)
    assert [(launch.trial, launch.attempt) for launch in launches] == [(0, 2), (1, 2)]


def test_resume_after_the_end_with_more() -> None:
    play = Play(num_samples=1)
    play.suggest(0)
    play.report(0, 1.0, done=True)
    assert play.finished() is not None
    play.do(Resumed(time=1.0))
    play.do(CapacityChanged(time=1.0, nodes=({"cpu": 2.0},)))
    assert play.finished() is not None
    assert only(play.ask_for("extend", trials=2), Ask) == [Ask(trial=1), Ask(trial=2)]
    assert play.finished() is None


def test_retry_failed() -> None:
    play = Play(num_samples=1)
    play.suggest(0)
    play.fail(0)
    play.do(Resumed(time=1.0, retry_failed=True))
    play.do(CapacityChanged(time=1.0, nodes=({"cpu": 2.0},)))
    assert play.status(0) is TrialStatus.RUNNING
    assert play.controller.trials[0].failures == {}


def test_step_timeout_kills() -> None:
    play = Play(step_timeout=5.0, retries={"timeout": 1})
    play.suggest(0)
    play.time = 3.0
    play.suggest(1)
    assert play.controller.deadline() == 5.0
    commands = play.do(Ticked(time=5.0))
    assert only(commands, Release) == [Release(trial=0, kill=True)]
    assert only(commands, Launch)[0].attempt == 2
    assert play.controller.deadline() == 8.0


def test_stop_condition() -> None:
    play = Play(stop={"step": 2})
    play.suggest(0)
    commands = play.report(0, 1.0, 0.9)
    assert only(commands, Decide)[0].verdict.completed
    assert play.status(0) is TrialStatus.COMPLETED


def test_a_metric_that_is_missing_at_a_milestone_holds_nobody_up() -> None:
    play = Play(Scripted(), stop={"step": 3})
    play.suggest(0)
    report = (Report(1, {"other": 1.0}, 0.0),)
    commands = play.do(Reported(time=0.0, trial=0, attempt=1, reports=report))
    assert only(commands, Advance) == [Advance(trial=0, until=2, save=False)]
    assert not only(play.report(0, math.nan), Advance)  # the worker fails it
    play.do(Reported(time=0.0, trial=0, attempt=1, reports=(Report(3, {}, 0.0),)))
    assert play.status(0) is TrialStatus.COMPLETED


def test_the_scheduler_without_an_objection() -> None:
    play = Play(Scripted())
    play.suggest(0)
    assert only(play.report(0, 1.0), Decide)[0].verdict.reason == "the scheduler has no objection"


def test_a_done_trial_is_completed_whatever_the_verdict() -> None:
    scheduler = Scripted(t0s1=Stop(reason="worst"))
    play = Play(scheduler)
    play.suggest(0)
    assert not only(play.report(0, 1.0, done=True), Decide)
    assert play.status(0) is TrialStatus.COMPLETED
    assert scheduler.ended == [(0, "completed")]


def test_pause_saves_first() -> None:
    play = Play(Scripted(t0s1=Pause(reason="rung 0")))
    play.suggest(0)
    assert only(play.report(0, 1.0), Save) == [Save(trial=0)]
    assert play.status(0) is TrialStatus.PAUSING
    assert only(play.saved(0), Release) == [Release(trial=0, warm=False)]
    assert (play.status(0), play.controller.trials[0].reason) == (TrialStatus.PAUSED, "rung 0")


class Eager(Scripted):
    """Sends trial 0 on as soon as it is paused."""

    def choose(self, candidates: Candidates) -> int | None:
        return 0 if candidates.paused(0) is not None else super().choose(candidates)


def test_the_searcher_is_told_of_each_pause_and_of_the_end() -> None:
    play = Play(Eager(t0s1=Pause(reason="rung 0"), t0s2=Pause(reason="rung 1")))
    play.suggest(0)
    told = only(play.report(0, 3.0, saved=True), Tell)
    assert told == [Tell(trial=0, outcome=Outcome("paused", 3.0, 1, (3.0,)))]
    assert only(play.report(0, 4.0, saved=True), Tell) == [Tell(trial=0, outcome=Outcome("paused", 3.0, 2, (4.0,)))]
    assert only(play.report(0, 1.0, done=True), Tell) == [Tell(trial=0, outcome=Outcome("completed", 1.0, 3, (1.0,)))]


def test_nothing_is_told_of_a_trial_that_a_person_paused_before_its_first_report() -> None:
    play = Play(nodes=({"cpu": 1.0},))
    play.suggest(0)
    play.suggest(1)
    assert not only(play.ask_for("pause", 1), Tell)
    assert play.status(1) is TrialStatus.PAUSED


def test_pause_with_a_checkpoint_at_hand() -> None:
    play = Play(Scripted(t0s1=Pause(reason="rung 0")), keep_warm=True)
    play.suggest(0)
    commands = play.report(0, 1.0, saved=True)
    assert only(commands, Release) == [Release(trial=0, warm=True)]
    assert play.status(0) is TrialStatus.PAUSED


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
    assert (play.status(0), play.controller.trials[0].reason) == (TrialStatus.PAUSED, "rung 0")


def test_a_person_pauses_and_lets_go_on() -> None:
    play = Play(num_samples=2)
    play.suggest(0)
    play.suggest(1)
    assert only(play.ask_for("pause", 0), Save)
    play.saved(0)
    play.report(1, 1.0, done=True)
    assert play.finished() is None  # it waits for the person
    launch = only(play.ask_for("unpause", 0), Launch)[0]
    assert (launch.trial, launch.attempt) == (0, 2)


def test_a_person_changes_their_mind_while_it_saves() -> None:
    play = Play(num_samples=1)
    play.suggest(0)
    play.ask_for("pause", 0)
    play.ask_for("unpause", 0)
    assert only(play.saved(0), Launch)[0].trial == 0


def test_a_held_trial_that_fails_is_not_launched() -> None:
    play = Play(retries={"exception": 3}, num_samples=1)
    play.suggest(0)
    play.ask_for("pause", 0)
    assert not only(play.fail(0), Launch)
    assert only(play.ask_for("unpause", 0), Launch)


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
    finish = play.finished()
    assert finish is not None
    assert finish.status == "stopped"


def test_a_person_stops_a_trial_in_any_state() -> None:
    play = Play(Scripted(t0s1=Pause(reason="r")))
    for number in range(3):
        play.suggest(number)
    play.report(0, 1.0, saved=True)
    for number in (0, 1, 2, 2, 77):
        play.ask_for("stop", number)
    assert [play.status(n) for n in range(3)] == [TrialStatus.STOPPED] * 3


def test_clone() -> None:
    verdict = Clone(source=1, config={"x": 9}, until=2, reason="exploit")
    play = Play(Scripted(t0s1=verdict))
    play.suggest(0, x=0)
    play.suggest(1, x=1)
    play.report(1, 0.5, saved=True)
    launch = only(play.report(0, 1.0, saved=True), Launch)[0]
    assert (launch.trial, launch.attempt, launch.config, launch.start, launch.committed) == (0, 2, {"x": 9}, 1, 1)
    assert launch.checkpoint.uri == "1/1/1"
    # The source saves anew: the old one is needed by the clone until that has saved too.
    assert not only(play.report(1, 0.4, saved=True), DropCheckpoints)
    dropped = only(play.report(0, 0.4, saved=True), DropCheckpoints)
    assert [ref.uri for command in dropped for ref in command.checkpoints] == ["1/1/1"]


def test_clone_of_one_without_a_checkpoint_goes_on() -> None:
    play = Play(Scripted(t0s1=Clone(source=1, config={}, until=2, reason="exploit")))
    play.suggest(0)
    play.suggest(1)
    decide = only(play.report(0, 1.0), Decide)[0]
    assert isinstance(decide.verdict, Continue)
    assert decide.verdict.reason == "trial 1 has no checkpoint to clone"


def test_clone_of_one_that_has_ended_goes_on() -> None:
    """Whether an ended trial is still in memory must not matter, or a resumed run would decide otherwise."""
    play = Play(Scripted(t0s1=Clone(source=1, config={}, until=2, reason="exploit")))
    play.suggest(0)
    play.suggest(1)
    play.report(1, 1.0, saved=True, done=True)
    assert isinstance(only(play.report(0, 1.0), Decide)[0].verdict, Continue)


def test_clone_of_a_trial_that_a_person_is_pausing() -> None:
    verdict = Clone(source=1, config={"x": 9}, until=2, reason="exploit")
    play = Play(Scripted(t0s1=verdict), num_samples=2)
    play.suggest(0, x=0)
    play.suggest(1, x=1)
    play.report(1, 0.5, saved=True)
    play.ask_for("pause", 0)
    assert not only(play.report(0, 1.0), Launch)
    assert play.status(0) is TrialStatus.PAUSED
    launch = only(play.ask_for("unpause", 0), Launch)[0]
    assert (launch.config, launch.checkpoint.uri) == ({"x": 9}, "1/1/1")


def test_lost_checkpoint_falls_back_to_the_one_before() -> None:
    play = Play(keep_last=2, retries={"lost_checkpoint": 2})
    play.suggest(0)
    play.report(0, 1.0, saved=True)
    play.report(0, 1.0, saved=True)
    launch = only(play.fail(0, "lost_checkpoint"), Launch)[0]
    assert (launch.start, launch.committed) == (1, 2)
    launch = only(play.fail(0, "lost_checkpoint"), Launch)[0]
    assert (launch.checkpoint, launch.start, launch.committed) == (None, 0, 2)


@pytest.mark.parametrize(
    ("last", "best", "kept"),
    [(1, None, [5]), (2, None, [4, 5]), (None, None, [1, 2, 3, 4, 5]), (0, 1, [2, 5]), (1, 2, [2, 3, 5])],
)
def test_retention(last: int | None, best: int | None, kept: list[int]) -> None:
    play = Play(keep_last=last, keep_best=best)
    play.suggest(0)
    for loss in (5.0, 1.0, 2.0, 3.0, 4.0):
        play.report(0, loss, saved=True)
    assert [entry.step for entry in play.controller.trials[0].checkpoints] == kept


def test_forgotten_trials_leave_nothing_behind() -> None:
    play = Play(num_samples=math.inf)
    for number in range(500):
        play.suggest(number)
        play.report(number, 1.0, saved=True)
        play.report(number, 1.0, done=True)
        play.controller.forget(number)
    controller = play.controller
    assert not controller.trials
    assert not controller._shelf._holders
    assert not controller._running
    assert len(controller.asked) <= 3


def test_exhausted_gives_back_the_numbers() -> None:
    play = Play(num_samples=math.inf, nodes=({"cpu": 4.0},))
    play.suggest(0)
    play.do(Exhausted(time=0.0, reason="the grid is done"))
    assert play.controller.next_number == 1
    assert not play.controller.accepts(Exhausted(time=0.0, reason="the grid is done"))
    play.report(0, 1.0, done=True)
    finish = play.finished()
    assert finish is not None
    assert finish.reason == "the grid is done"


def test_a_searcher_that_failed_lets_running_trials_finish() -> None:
    play = Play()
    play.suggest(0)
    play.do(Exhausted(time=0.0, reason="the searcher X failed", failed=True))
    assert play.finished() is None
    play.report(0, 1.0, done=True)
    finish = play.finished()
    assert finish is not None
    assert (finish.status, play.status(0)) == ("failed", TrialStatus.COMPLETED)


def test_interrupted_saves_and_launches_nothing() -> None:
    play = Play()
    play.suggest(0)
    play.suggest(1)
    assert only(play.do(Interrupted(time=1.0)), Save) == [Save(trial=0), Save(trial=1)]
    assert not only(play.report(0, 1.0, done=True), Launch)
    assert not only(play.suggest(2), Launch)


def test_a_scheduler_that_chooses_what_does_not_fit() -> None:
    class Wild(FIFO):
        def choose(self, candidates: Any) -> int | None:
            return 1

    play = Play(Wild(), prefetch=3)
    play.ask_for("pause")
    play.suggest(0)
    play.suggest(1, needs=Resources(cpu=3))
    with pytest.raises(ValueError, match="chose trial 1, which does not fit"):
        play.ask_for("unpause")


def test_the_seed_reaches_the_scheduler() -> None:
    scheduler = TinyPBT()
    Play(scheduler, seed=42)
    assert scheduler.seed == 42


def test_asha_promotes_one_that_a_person_held_in_its_turn() -> None:
    play = Play(ASHA(max=9, type="promotion"), nodes=({"cpu": 1.0},), num_samples=4)
    for number in range(3):
        play.suggest(number)
        play.report(number, float(number), saved=True)
        if number == 0:
            play.ask_for("pause", 0)
    assert play.status(0) is TrialStatus.PAUSED
    play.suggest(3)
    assert play.status(3) is TrialStatus.RUNNING
    play.ask_for("unpause", 0)
    assert only(play.report(3, 9.0, saved=True), Launch)[0].trial == 0
