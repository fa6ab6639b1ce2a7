"""Decisions about any trial, through the whole engine, with faults and persons."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import CheckedController, Run, Scenario
from tests.tune_platform.engine.test_invariants import QUIET, check_cut, check_end, plans
from tune_platform.backends.simulated import Faults
from tune_platform.engine.settings import Settings
from tune_platform.errors import SchedulerError
from tune_platform.protocol.effects import Decided
from tune_platform.protocol.events import CapacityChanged, Failed, Reported, Requested, Resumed, Saved, Suggested
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Decisions, Pause, Resize, Stop, Verdict
from tune_platform.resources import Resources
from tune_platform.schedulers import FIFO

KINDS = ("synchronous", "thaw", "generations")
RUNG = re.compile(r"rung (\d+\.\d+): rank (\d+)/(\d+), keep (\d+)")

rates = st.sampled_from([0.0, 0.05, 0.15])


@st.composite
def scenarios(draw: st.DrawFn, max_trials: int = 12) -> Scenario:
    trials = draw(st.integers(1, max_trials))
    return Scenario(
        scheduler=draw(st.sampled_from(KINDS)),
        trials=trials,
        nodes=draw(st.sampled_from([({"cpu": 1.0},), ({"cpu": 3.0},), ({"cpu": 2.0}, {"cpu": 4.0})])),
        mode=draw(st.sampled_from(["min", "max"])),
        seed=draw(st.integers(0, 1000)),
        faults=Faults(exception=draw(rates), worker_died=draw(rates), nan=draw(rates), hang=draw(rates)),
        choices=draw(st.sampled_from([{}, {"length": [1, 4, 9]}, {"cpu": [0.5, 1.0], "workers": [1, 2, 9]}])),
        plan=draw(plans(trials)),
        settings={
            "retries": draw(st.sampled_from([{}, {"exception": 1, "worker_died": 3, "timeout": 1}])),
            "step_timeout": 20.0,
            "max_concurrent": draw(st.sampled_from([math.inf, 2])),
            "prefetch": draw(st.sampled_from([None, 2])),
            "stop": draw(st.sampled_from([{}, {}, {"step": 5}])),
        },
        step_time=draw(st.sampled_from([None, 1.0])),
        setup_time=draw(st.sampled_from([0.0, 1.0])),
        batch=draw(st.sampled_from([1, 16])),
        checkpoint_every=draw(st.integers(0, 2)),
        limit=draw(st.sampled_from([None, None, 4])),
    )


@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(scenarios())
def test_it_ends_whatever_fails_and_whatever_persons_do(scenario: Scenario) -> None:
    run = scenario.run()
    check_end(run)
    assert run.controller.finished is not None
    first = run.controller.state.first
    expected = run.controller.finished.status != "failed" or not first.good
    assert expected, run.controller.finished.reason


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(scenarios(max_trials=6), st.data())
def test_a_cut_after_any_row_changes_nothing(scenario: Scenario, data: st.DataObject) -> None:
    whole = scenario.run()
    length = len(whole.log.rows)
    for seq in data.draw(st.lists(st.integers(0, length), min_size=1, max_size=4, unique=True), label="cuts"):
        check_cut(scenario, whole, seq)


@pytest.mark.parametrize("kind", KINDS)
def test_every_prefix_of_some_run(kind: str) -> None:
    scenario = Scenario(
        scheduler=kind,
        trials=6,
        nodes=({"cpu": 2.0},),
        faults=Faults(exception=0.05, worker_died=0.05, hang=0.03),
        plan=[(8, "pause", 1, {}), (20, "stop", 2, {}), (24, "unpause", 1, {}), (30, "extend", None, {"trials": 1})],
        settings={"retries": {"worker_died": 2, "timeout": 1}, "step_timeout": 30.0},
    )
    whole = scenario.run()
    check_end(whole)
    for seq in range(len(whole.log.rows) + 1):
        check_cut(scenario, whole, seq)


def verdicts(run: Run) -> list[Any]:
    return [row for row in run.log.rows if row.kind == "verdict"]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("seed", range(5))
def test_a_rung_that_closes_keeps_its_best(seed: int, mode: str) -> None:
    """From the log alone: the losers of a rung are stopped at once, the winners are sent on, at 1, 2, 4 steps."""
    run = Scenario(scheduler="synchronous", trials=10, nodes=({"cpu": 3.0},), seed=seed, mode=mode).run()
    sign = 1 if mode == "min" else -1
    losses = {(r.trial, r.step): sign * r.metrics["loss"] for r in run.log.reports.values()}
    closed: dict[str, list[tuple[int, tuple[float, int], int]]] = defaultdict(list)
    for row in verdicts(run):
        if found := RUNG.match(row.data["reason"]):
            rung, rank, size, keep = found[1], *map(int, found.groups()[1:])
            assert (row.data["verdict"] == "continue") == (rank <= keep)
            assert keep == max(1, size // 2)
            level = 2 ** int(rung.split(".")[1])
            closed[rung].append((rank, (losses[row.trial, level], row.trial), row.stimulus))
    assert len(closed) > 3
    for members in closed.values():
        ranked = [value for _, value, _ in sorted(members)]
        assert ranked == sorted(ranked)
        assert len({fact for _, _, fact in members}) == 1, "a rung closes at one fact"
    assert Counter(row.status for row in run.log.trials.values())["PAUSED"] == 0


def test_what_runs_is_frozen_between_milestones_and_the_best_is_thawed() -> None:
    run = Scenario(scheduler="thaw", trials=8, nodes=({"cpu": 2.0},), seed=3, batch=1).run()
    pauses = [row for row in verdicts(run) if row.data["verdict"] == "pause"]
    facts = {row.seq: row for row in run.log.rows}
    assert any(facts[row.stimulus].trial != row.trial for row in pauses), "none was frozen by another's report"
    thawed = [row for row in verdicts(run) if row.data["reason"] == "the scheduler sent it on"]
    assert thawed
    assert {row.status for row in run.log.trials.values()} == {"COMPLETED"}


def test_paused_trials_become_clones() -> None:
    run = Scenario(scheduler="generations", trials=6, nodes=({"cpu": 2.0},), seed=1).run()
    clones = [row for row in verdicts(run) if row.data["verdict"] == "clone"]
    facts = {row.seq: row for row in run.log.rows}
    assert any(facts[row.stimulus].trial != row.trial for row in clones), "none was paused when it became a clone"
    for row in clones:
        assert row.data["source"] != row.trial
        launches = [launch for launch in run.controller.launches if launch.trial == row.trial]
        launch = next(launch for launch in launches if launch.start >= row.data["step"])
        assert launch.checkpoint is not None
        assert launch.checkpoint.trial == row.data["source"]
        assert launch.config == row.data["config"]
    assert {row.status for row in run.log.trials.values()} == {"COMPLETED"}


# ------------------------------------------------------------------------------------------ one decision at a time


class Says(FIFO):
    """Answers report `step` of a trial with what `answers` has for (trial, step); milestones are every second step."""

    def __init__(self, **answers: Decisions) -> None:
        self.answers = answers

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        step = trial.last.step if trial.last else 0
        return step // 2 * 2 + 2, False

    def on_report(self, trial: TrialView, report: Report) -> Any:
        return self.answers.get(f"t{trial.number}s{report.step}")


class Table:
    """Two trials in their places, and facts by hand; every turn is told to a second controller as a log, too."""

    def __init__(self, scheduler: Any = None, *, trials: int = 2, cpu: float = 2.0, **answers: Decisions) -> None:
        scheduler, again = scheduler or Says(**answers), scheduler or Says(**answers)
        options: Any = {"metrics": ("loss",), "modes": ("min",), "num_samples": trials, "lookahead": 0}
        self.controller = CheckedController(Settings(**options), scheduler)
        self.again = CheckedController(Settings(**options), again)
        self.trials = self.controller.state.trials
        self.time = 0.0
        self.do(CapacityChanged, nodes=({"cpu": cpu},))
        for number in range(trials):
            if self.controller.finished is None:
                self.do(Suggested, trial=number, config={"x": number})

    def do(self, kind: Any, **values: Any) -> None:
        self.time += 1
        event = kind(time=self.time, **values)
        if "trial" in values and kind in (Reported, Saved):
            event = replace(event, attempt=self.trials[values["trial"]].attempt)
        self.controller.handle(event)
        self.again.replay(event, self.time, self.controller.effects)

    def report(self, number: int, *steps: int, saved: bool = False) -> None:
        reports = tuple(Report(step, {"loss": 1.0}, 0.0) for step in steps)
        ref = (CheckpointRef(number, steps[-1], f"{number}/{steps[-1]}"),) if saved else ()
        self.do(Reported, trial=number, attempt=1, reports=reports, saved=ref)

    def saved(self, number: int) -> None:
        step = self.trials[number].step
        self.do(Saved, trial=number, attempt=1, checkpoint=CheckpointRef(number, step, f"{number}/{step}"))

    def person(self, action: str, trial: int | None = None) -> None:
        self.do(Requested, request=self.controller.state.last_request + 1, action=action, trial=trial)

    def status(self, number: int) -> str:
        assert repr(self.trials[number]) == repr(self.again.state.trials[number])
        return self.trials[number].status.value


def on(trial: int, verdict: Verdict) -> list[Decision]:
    return [Decision(trial, verdict)]


GO = Continue(until=8, save=True, reason="a winner")


def test_one_that_still_pauses_goes_on_once_it_is_saved() -> None:
    table = Table(t0s2=Pause(reason="waits"), t1s1=on(0, GO))
    table.report(0, 1, 2)
    assert table.status(0) == "PAUSING"
    table.report(1, 1)
    assert table.status(0) == "PAUSING"
    table.saved(0)
    assert table.status(0) == "STARTING"
    assert (table.trials[0].until, table.trials[0].save) == (8, True)


def test_one_that_still_pauses_becomes_a_clone() -> None:
    clone = Clone(source=1, config={"x": 5}, until=6, reason="a loser")
    table = Table(t0s2=Pause(reason="waits"), t1s2=on(0, clone))
    table.report(0, 1, 2)
    table.report(1, 1, 2, saved=True)
    assert table.status(0) == "STARTING"
    kept = table.trials[0].checkpoint
    assert kept is not None
    assert (kept.ref.trial, kept.step, table.trials[0].config, table.trials[0].until) == (1, 2, {"x": 5}, 6)


@pytest.mark.parametrize(
    "verdict", [GO, Resize(resources=Resources(cpu=2.0), reason="more")], ids=["continue", "resize"]
)
def test_a_person_holds_one_that_is_sent_on_while_it_pauses(verdict: Verdict) -> None:
    table = Table(t0s2=Pause(reason="waits"), t1s1=on(0, verdict), t1s2=Stop(reason="enough"))
    table.report(0, 1, 2)
    table.person("pause", 0)
    table.report(1, 1)
    table.saved(0)
    assert (table.status(0), table.trials[0].reason) == ("PAUSED", "a person paused it")
    table.report(1, 2)
    assert table.status(0) == "PAUSED"
    table.person("unpause", 0)
    assert table.status(0) == "STARTING"
    assert table.trials[0].resources.cpu == (1.0 if verdict is GO else 2.0)


def test_a_pause_after_that_takes_it_back() -> None:
    table = Table(t0s2=Pause(reason="waits"), t1s1=[*on(0, GO), *on(0, Pause(reason="no, waits"))])
    table.report(0, 1, 2)
    table.report(1, 1)
    table.saved(0)
    assert (table.status(0), table.trials[0].reason) == ("PAUSED", "no, waits")


def test_what_a_person_holds_may_be_paused_too() -> None:
    table = Table(t1s1=on(0, Pause(reason="frozen")))
    table.report(0, 1, saved=True)
    table.person("pause", 0)
    assert table.status(0) == "PAUSED"
    table.report(1, 1)
    table.person("unpause", 0)
    assert (table.status(0), table.trials[0].reason) == ("PAUSED", "frozen")


def test_one_that_runs_goes_on_to_the_milestone_that_it_has() -> None:
    table = Table(t0s1=Continue(until=9, reason="go"), t1s1=on(0, GO))
    table.report(0, 1)
    table.report(1, 1)
    assert (table.status(0), table.trials[0].until) == ("RUNNING", 2)
    assert not [effect for effect in table.controller.effects if isinstance(effect, Decided)]


def test_a_paused_one_may_be_completed() -> None:
    table = Table(t0s1=Pause(reason="waits"), t1s1=on(0, Stop(reason="it has done enough", completed=True)))
    table.report(0, 1, saved=True)
    table.report(1, 1)
    assert table.status(0) == "COMPLETED"


def test_a_paused_one_without_a_source_goes_on_as_it_is() -> None:
    clone = Clone(source=1, config={"x": 5}, until=6, reason="a loser")
    table = Table(t0s1=Pause(reason="waits"), t1s1=on(0, clone))
    table.report(0, 1, saved=True)
    table.report(1, 1)
    assert table.status(0) == "STARTING"
    assert table.trials[0].config == {"x": 0}


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (
            on(0, Continue(until=1, reason="go")),
            "Says decided .* on trial 0: the milestone 1 is not ahead of it: its step",
        ),
        (on(7, Stop(reason="who?")), "on trial 7: there is no such trial"),
    ],
)
def test_what_cannot_be_done_is_said(decision: Any, words: str) -> None:
    table = Table(t0s1=Pause(reason="waits"), t1s1=decision)
    table.report(0, 1, saved=True)
    with pytest.raises(SchedulerError, match=words):
        table.report(1, 1)


def test_a_milestone_that_is_not_ahead_is_said() -> None:
    class Stays(FIFO):
        def until(self, trial: TrialView) -> tuple[float | None, bool]:
            return 1, False

    table = Table(Stays())
    with pytest.raises(SchedulerError, match=r"Stays answered until\(0\): the milestone 1 is not ahead"):
        table.report(0, 1)


def test_a_scheduler_that_lets_nothing_go_on_is_named() -> None:
    class Never(FIFO):
        def choose(self, candidates: Candidates) -> int | None:
            return None

    finished = Table(Never()).controller.finished
    assert finished is not None
    assert finished.status == "failed"
    assert "the scheduler Never lets none of 2 trials go on although nothing runs" in finished.reason


def test_one_that_is_tried_again_is_added_again() -> None:
    class Hears(FIFO):
        heard: list[tuple[str, int]] = []  # noqa: RUF012

        def on_add(self, trial: TrialView) -> None:
            self.heard.append(("add", trial.number))

        def on_end(self, trial: TrialView, status: str) -> None:
            self.heard.append((status, trial.number))

    table = Table(Hears(), trials=1)
    table.again = CheckedController(table.again.settings, FIFO())  # one object cannot be told twice
    attempt = table.trials[0].attempt
    table.controller.handle(Failed(time=9.0, trial=0, attempt=attempt, cause="exception", message="bang"))
    table.controller.handle(Resumed(time=10.0, retry_failed=True))
    assert Hears.heard[-3:] == [("add", 0), ("failed", 0), ("add", 0)]
