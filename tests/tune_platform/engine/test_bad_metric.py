"""What a metric that is no finite number does to its trial: `on_bad_metric` fail, prune or ignore."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import Scenario
from tests.tune_platform.engine.play import Play, Scripted
from tests.tune_platform.engine.test_invariants import QUIET, check_cut, check_end, scenarios
from tune_platform import SearchSpec, SpecError, load_spec, report, resume, run, uniform
from tune_platform.backends.simulated import Faults
from tune_platform.engine.controller import Controller
from tune_platform.engine.trial import TrialStatus
from tune_platform.protocol.commands import Tell
from tune_platform.protocol.events import Reported
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.searcher import Outcome
from tune_platform.protocol.verdicts import Continue, Pause
from tune_platform.searchers.optuna import OptunaSearcher
from tune_platform.space import Space

NAN = math.nan


def test_prune_stops_the_trial_and_tells_the_searcher_that_it_is_the_worst() -> None:
    play = Play(on_bad_metric="prune")
    play.suggest(0, x=1)
    commands = play.report(0, 0.5, 0.1, NAN)
    assert play.verdicts() == [(0, "Stop", "bad_metric: 'loss' is nan at step 3, which is not a finite number")]
    (told,) = [command for command in commands if isinstance(command, Tell)]
    assert (told.outcome.status, told.outcome.worst, told.outcome.value) == ("stopped", True, None)
    assert (told.outcome.values, told.outcome.rungs, told.outcome.step) == ((), (), 3)
    assert play.state.best is not None
    assert play.state.best.value == 0.1, "what it had reported before is still so"


def test_prune_holds_for_the_last_report_too() -> None:
    play = Play(on_bad_metric="prune")
    play.suggest(0, x=1)
    play.report(0, NAN, done=True)
    assert play.verdicts() == [(0, "Stop", "bad_metric: 'loss' is nan at step 1, which is not a finite number")]


def test_prune_is_before_what_the_scheduler_says() -> None:
    play = Play(Scripted(t0s1=Continue(until=9, reason="go on")), on_bad_metric="prune")
    play.suggest(0, x=1)
    play.report(0, 0.5, NAN)
    assert [kind for _, kind, _ in play.verdicts()] == ["Stop"]
    again = Controller(play.state.settings, Scripted(t0s1=Continue(until=9, reason="go on")))
    for event, elapsed, effects in play.past:
        again.replay(event, elapsed, effects)
    assert not again.comparison.difference


def test_ignore_keeps_the_report_and_the_value_does_not_count() -> None:
    scheduler = Scripted()
    play = Play(scheduler, on_bad_metric="ignore")
    play.suggest(0, x=1)
    play.report(0, 0.5)
    play.report(0, NAN)
    assert play.verdicts() == [(0, "Continue", "the scheduler has no objection")]
    assert ("report 2", 0) not in scheduler.heard
    assert (play.trial(0).best, play.trial(0).step) == (0.5, 2)
    play.report(0, 0.4, done=True)
    assert play.trial(0).best == 0.4


class UpToTwo(Scripted):
    """Milestones at steps 1 and 2, and none after."""

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        step = trial.last.step if trial.last else 0
        return (step + 1 if step < 2 else None), False

    def choose(self, candidates: Candidates) -> int | None:
        return 0 if candidates.paused(0) else super().choose(candidates)


@pytest.mark.parametrize("loss", [0.4, NAN])
@pytest.mark.parametrize("answers", [{}, {"t0s2": Pause(reason="wait")}], ids=["none", "pause"])
def test_at_the_last_milestone_a_trial_ends_only_if_its_value_does_not_count(
    loss: float, answers: dict[str, Any]
) -> None:
    """One whose scheduler lets it train on without another milestone does so, from a pause too."""
    play = Play(UpToTwo(**answers), on_bad_metric="ignore")
    play.suggest(0, x=1)
    play.report(0, 0.5)
    play.report(0, loss)
    if math.isnan(loss):
        assert play.verdicts() == [(0, "Stop", "at its last milestone its value does not count")]
        assert play.status(0) is TrialStatus.COMPLETED
        return
    if answers:
        play.saved(0)
    assert play.status(0).placed
    assert play.trial(0).until is None, "it may train on"


def test_a_metric_that_is_not_in_the_last_report_may_come_with_a_later_one() -> None:
    play = Play(UpToTwo())
    play.suggest(0, x=1)
    play.report(0, 0.5)
    play.do(Reported(time=0.0, trial=0, attempt=1, reports=(Report(2, {"accuracy": 0.9}, 0.0),)))
    assert play.status(0) is TrialStatus.RUNNING
    assert play.trial(0).until is None


@settings(max_examples=80, deadline=None, suppress_health_check=QUIET)
@given(scenarios(max_trials=8), st.sampled_from(["prune", "ignore"]), st.data())
def test_it_is_the_same_wherever_the_log_is_cut(scenario: Scenario, mode: str, data: st.DataObject) -> None:
    """On the virtual clock, byte for byte; with failures and persons beside it."""
    scenario.faults = Faults(
        nan=data.draw(st.sampled_from([0.1, 0.4])), exception=data.draw(st.sampled_from([0.0, 0.1]))
    )
    scenario.settings = {**scenario.settings, "on_bad_metric": mode}
    whole = scenario.run()
    check_end(whole)
    assert not any(row.kind == "failed" and row.data.get("cause") == "bad_metric" for row in whole.log.rows)
    told = {number: outcome.worst for number, outcome in whole.searcher.told.items()}
    bad = {report.trial for report in whole.log.reports.values() if math.isnan(report.metrics["loss"])}
    ended = {number for number in bad if whole.log.trials[number].reason.startswith("bad_metric: ")}
    assert {number for number, worst in told.items() if worst} == (ended if mode == "prune" else set())
    for seq in data.draw(st.lists(st.integers(0, len(whole.log.rows)), min_size=1, max_size=3, unique=True)):
        check_cut(scenario, whole, seq)


# ------------------------------------------------------------------------------- as a user meets it


def diverging(config: dict[str, Any]) -> None:
    for step in range(1, 10):
        report({"loss": NAN if config["x"] > 0.5 and step == 3 else config["x"] / step})


def of(storage: Path, **options: Any) -> SearchSpec:
    given = {"trainable": diverging, "metric": "loss", "num_samples": 8, "backend": "inline", **options}
    return SearchSpec(param_space={"x": uniform(0, 1)}, mode="min", storage=str(storage), name="bad", **given)


@pytest.mark.parametrize("scheduler", ["fifo", {"name": "asha", "min": 3, "max": 9, "eta": 3}])
@pytest.mark.parametrize("searcher", ["random", "tpe", "gp", "cmaes", "nsgaii"])
def test_prune_through_the_store_and_a_resume(tmp_path: Path, scheduler: Any, searcher: Any) -> None:
    spec = of(tmp_path, on_bad_metric="prune", scheduler=scheduler, searcher=searcher)
    results = run(spec)
    resume("bad", storage=tmp_path, spec=spec, extend={"trials": 2})
    assert results.status == "finished"
    assert len(results) == 10
    for trial in results:
        bad = trial.config["x"] > 0.5
        if bad and trial.step >= 3:
            assert (trial.status, trial.step) == ("STOPPED", 3)
            assert trial.reason == "bad_metric: 'loss' is nan at step 3, which is not a finite number"
        else:
            assert trial.status in ("COMPLETED", "STOPPED")
    assert any(trial.config["x"] > 0.5 for trial in results)


@pytest.mark.parametrize("kind", ["stopping", "promotion"])
@pytest.mark.parametrize("bad", [{3}, {9}, {3, 9}])
def test_ignore_through_asha(tmp_path: Path, kind: str, bad: set[int]) -> None:
    """Also where the value that does not count is that of the last milestone: a trial does not go on for ever."""

    def train(config: dict[str, Any]) -> None:
        for step in range(1, 100):
            report({"loss": math.inf if step in bad else config["x"]})

    scheduler = {"name": "asha", "min": 3, "max": 9, "eta": 3, "type": kind}
    results = run(of(tmp_path, trainable=train, on_bad_metric="ignore", scheduler=scheduler))
    assert results.status == "finished"
    assert {trial.status for trial in results} <= {"COMPLETED", "STOPPED"}
    assert max(trial.step for trial in results) == 9
    assert min(trial.best for trial in results if trial.best is not None) == min(t.config["x"] for t in results)


def test_by_default_it_fails(tmp_path: Path) -> None:
    results = run(of(tmp_path))
    failed = results.trials(status="FAILED")
    assert {trial.config["x"] > 0.5 for trial in failed} == {True}
    assert failed[0].reason == "bad_metric: metric 'loss' is nan at step 3, which is not a finite number"


def test_a_second_objective_counts_too(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        report({"loss": 1.0, "size": NAN if config["x"] > 0.5 else 1.0})

    results = run(of(tmp_path, trainable=train, metric=["loss", "size"], on_bad_metric="prune", searcher="tpe"))
    assert results.status == "finished"
    assert {t.status for t in results if t.config["x"] > 0.5} == {"STOPPED"}


def test_a_pruned_trial_is_the_worst_to_tpe() -> None:
    """TPE goes where no trial was pruned, though those that were are most."""
    searcher: Any = OptunaSearcher("tpe", n_startup_trials=0)
    searcher.setup(Space({"x": uniform(0, 1)}), mode=["min"], seed=0)
    for number in range(40):
        x = searcher.ask(number).config["x"]
        worst = x > 0.3
        searcher.tell(number, Outcome("stopped", None, 1, worst=True) if worst else Outcome("completed", 1.0, 1))
    late = [searcher.ask(number).config["x"] for number in range(40, 60)]
    assert sum(x <= 0.3 for x in late) >= 10, "drawn at random it would be 6"


def test_it_is_a_word_of_files_and_of_python(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("version: 1\nentrypoint: a:b\nmetric: loss\nmode: min\non_bad_metric: prune\n")
    assert load_spec(path).on_bad_metric == "prune"
    assert of(tmp_path).on_bad_metric == "fail"
    older = of(tmp_path).to_dict()
    del older["on_bad_metric"]
    assert of(tmp_path).differences(older) == []
    with pytest.raises(SpecError, match=r"on_bad_metric: got 'pruned' .*allowed: fail, prune, ignore.*did you mean"):
        of(tmp_path, on_bad_metric="pruned")
