"""The log holds what was decided: code that has changed since goes on from it, and is told what happened."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import support
from tests.support import MemoryLog, Run, Scenario, plain
from tests.tune_platform.engine.test_invariants import QUIET, scenarios
from tune_platform.engine import queue as queue_module
from tune_platform.engine.log import groups
from tune_platform.engine.recovery import recover
from tune_platform.protocol.effects import EFFECTS
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, Scheduler, TrialView
from tune_platform.resources import Resources
from tune_platform.schedulers import ASHA, FIFO


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(scenarios())
def test_each_effect_names_its_fact_and_each_fact_counts_its_effects(scenario: Scenario) -> None:
    rows = scenario.run().log.rows
    fact = 0
    effects: Counter[int] = Counter()
    for row in rows:
        if row.kind in EFFECTS:
            assert row.stimulus == fact
            effects[fact] += 1
        else:
            assert row.stimulus is None
            fact = row.seq
        assert (row.time, row.elapsed) == (rows[fact - 1].time, rows[fact - 1].elapsed)
    for row in rows:
        if row.kind not in EFFECTS:
            assert row.data.get("effects", 0) == effects[row.seq]


def test_groups_of_a_log() -> None:
    log = Scenario(trials=2).run().log
    found = list(groups(log.cut().read_log()))
    assert [group.seq for group in found] == [row.seq for row in log.rows if row.kind not in EFFECTS]
    assert all(group.complete for group in found)
    assert found[-1].last == len(log.rows)
    torn = next(group for group in found if len(group.effects) > 1)
    last = list(groups(log.cut(torn.last - 1).read_log()))[-1]
    assert (last.seq, last.complete, len(last.effects)) == (torn.seq, False, len(torn.effects) - 1)


# ------------------------------------------------------------------------------- code that has changed since


def whole_and_cut(scenario: Scenario, share: float = 0.6) -> tuple[Run, MemoryLog]:
    """A run, and its log up to one of its transactions."""
    whole = scenario.run()
    commits = whole.log.commits
    return whole, whole.log.cut(commits[int(share * (len(commits) - 1))])


def go_on(scenario: Scenario, log: MemoryLog, scheduler: Scheduler | None = None) -> Run:
    """A new driver that goes on from the log to an end; all that the log had is still there."""
    before = plain([row._replace(data=dict(row.data)) for row in log.rows])
    run = scenario.build(log, scheduler=scheduler)
    run.controller.changed = True
    recover(run.runner)
    run.drive()
    assert plain([row._replace(data=dict(row.data)) for row in run.log.rows[: len(before)]]) == before
    for number, row in run.log.trials.items():
        assert sorted(step for n, step in run.log.reports if n == number) == list(range(1, row.step + 1))
    return run


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("kind", ["stopping", "promotion"])
def test_the_wording_of_reasons_is_free(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Wordy(ASHA):
        def on_report(self, trial: TrialView, report: Report) -> Any:
            verdict = super().on_report(trial, report)
            return verdict if verdict is None else type(verdict)(**{**fields_of(verdict), "reason": "other words"})

    def fields_of(verdict: Any) -> Mapping[str, Any]:
        return {name: getattr(verdict, name) for name in verdict.__slots__}

    scenario = Scenario(scheduler=kind, trials=12)
    whole, log = whole_and_cut(scenario)
    run = go_on(scenario, log, Wordy(min=1, max=8, eta=2, type=kind))
    assert warnings(caplog) == []
    assert scenario.table(run.log).count("other words") >= 1
    # But for the words it is the same search.
    assert [row[:4] for row in run.log.rows] == [row[:4] for row in whole.log.rows]


@pytest.mark.parametrize("patience", [1, 3])
def test_another_patience_strands_no_log(patience: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {"workers": [1, 2]}
    for seed in range(12):
        scenario = Scenario(trials=14, seed=seed, choices=choices, nodes=({"cpu": 2.0},), lookahead=None)
        whole, log = whole_and_cut(scenario)
        with monkeypatch.context() as patched:
            patched.setattr(queue_module, "PATIENCE", patience)
            run = go_on(scenario, log)
            assert run.controller.finished is not None
            assert len(run.log.trials) == len(whole.log.trials) == 14


def test_another_function_of_resources_strands_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trial holds was worked out once, and is in the log."""
    scenario = Scenario(trials=10, nodes=({"cpu": 4.0},), lookahead=None)
    _, log = whole_and_cut(scenario, 0.3)
    old = {row.trial for row in log.rows if row.kind == "suggested"}
    monkeypatch.setattr(support, "resources_of", lambda config: Resources(cpu=4.0))
    run = go_on(scenario, log)
    held = {row.trial: row.data["resources"]["cpu"] for row in run.log.rows if row.kind == "launched"}
    assert held == {number: 1.0 if number in old else 4.0 for number in range(10)}
    assert 0 < len(old) < 10


def test_a_function_of_resources_that_raises_now_strands_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(trials=10, nodes=({"cpu": 4.0},))
    _, log = whole_and_cut(scenario)
    old = {row.trial for row in log.rows if row.kind == "suggested"}

    def broken(config: Any) -> Resources:
        raise KeyError("gpus")

    monkeypatch.setattr(support, "resources_of", broken)
    run = go_on(scenario, log)
    assert {row.trial: row.status for row in run.log.trials.values()} == {
        number: "COMPLETED" if number in old else "FAILED" for number in range(10)
    }


@pytest.mark.parametrize(
    ("kind", "scheduler", "difference"),
    [
        ("stopping", ASHA(min=1, max=8, eta=4), "it would decide Continue(until=4"),
        ("stopping", FIFO(), "it would decide nothing where the log has Continue("),
        ("promotion", ASHA(min=1, max=8, eta=2), "it would decide Continue("),
        ("fifo", ASHA(min=1, max=8, eta=2, type="promotion"), "it would decide Pause("),
    ],
)
def test_a_rule_that_has_changed_is_one_warning(
    kind: str, scheduler: Scheduler, difference: str, caplog: pytest.LogCaptureFixture
) -> None:
    scenario = Scenario(scheduler=kind, trials=12, batch=1)
    _, log = whole_and_cut(scenario)
    go_on(scenario, log, scheduler)
    (warning,) = warnings(caplog)
    name = type(scheduler).__name__
    assert warning.startswith(f"the scheduler {name} has changed since the log was written (row ")
    assert difference in warning
    assert warning.endswith("; what the log has holds")


def test_the_first_difference_is_told_with_its_row(caplog: pytest.LogCaptureFixture) -> None:
    scenario = Scenario(scheduler="stopping", trials=12, batch=1)
    _, log = whole_and_cut(scenario)
    first = next(row for row in log.rows if row.kind == "verdict" and row.data["verdict"] == "stop")
    go_on(scenario, log, Lenient(min=1, max=8, eta=2))
    (warning,) = warnings(caplog)
    assert f"(row {first.stimulus}: it would decide nothing where the log has Stop(" in warning
    assert f" on trial {first.trial})" in warning


class Lenient(ASHA):
    """Stops nobody."""

    def on_report(self, trial: TrialView, report: Report) -> Any:
        verdict = super().on_report(trial, report)
        return verdict if hasattr(verdict, "until") else None


def test_another_choice_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Youngest(FIFO):
        def choose(self, candidates: Candidates) -> int | None:
            numbers = [trial.number for trial in candidates.waiting()]
            return max(numbers, default=None)

    scenario = Scenario(trials=8, nodes=({"cpu": 2.0},), settings={"prefetch": 3})
    _, log = whole_and_cut(scenario)
    go_on(scenario, log, Youngest())
    (warning,) = warnings(caplog)
    assert "it would choose trial " in warning
    assert " where the log has trial " in warning


def test_no_choice_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Careful(FIFO):
        """Runs one at a time."""

        running = 0

        def on_start(self, trial: TrialView) -> None:
            self.running += 1

        def on_end(self, trial: TrialView, status: str) -> None:
            self.running -= 1

        def choose(self, candidates: Candidates) -> int | None:
            return super().choose(candidates) if not self.running else None

    scenario = Scenario(trials=6, nodes=({"cpu": 2.0},))
    _, log = whole_and_cut(scenario)
    go_on(scenario, log, Careful())
    assert "it would choose none where the log has trial " in warnings(caplog)[0]


def test_a_changed_scheduler_knows_what_happened() -> None:
    """It was told of all reports and ends, so that its rungs hold all that the log has, by its own new levels."""
    scenario = Scenario(scheduler="stopping", trials=12, batch=1)
    _, log = whole_and_cut(scenario)
    scheduler = ASHA(min=1, max=8, eta=4)
    run = scenario.build(log, scheduler=scheduler)
    run.controller.changed = True
    recover(run.runner)
    steps = Counter(step for _, step in log.reports)
    rungs = scheduler.describe()["rungs"]
    assert [(rung["level"], rung["arrived"]) for rung in rungs] == [(level, steps[level]) for level in (1, 4, 8)]
    best = min(report.metrics["loss"] for (_, step), report in log.reports.items() if step == 1)
    assert rungs[0]["best"] == best


@settings(max_examples=120, deadline=None, suppress_health_check=QUIET)
@given(scenarios(max_trials=6), st.sampled_from(["fifo", "stopping", "promotion", "epochs", "pbt"]), st.data())
def test_any_scheduler_goes_on_from_any_log(scenario: Scenario, other: str, data: st.DataObject) -> None:
    """The log's decisions hold whoever drives, and nobody is stranded."""
    # On a virtual clock the work in flight is found again, which needs the same milestones.
    scenario.real, scenario.faults = True, None
    whole = scenario.run()
    seq = data.draw(st.integers(0, len(whole.log.rows)), label="cut")
    log = whole.log.cut(seq)
    scenario.scheduler = other
    run = go_on(scenario, log)
    assert run.controller.finished is not None
