from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tune_platform.cli.conftest import SPEC, START, fill
from tune_platform import CheckpointError, ExperimentError, Results, SpecError
from tune_platform.protocol.commands import Finish
from tune_platform.results import NoResultError, flatten, locate
from tune_platform.store.records import ReportRow, TrialRow
from tune_platform.store.sql import SqlExperiment, open_store

Write = Callable[[SqlExperiment], None]


def make(place: Path, write: Write = fill, spec: Mapping[str, Any] = SPEC, finish: Finish | None = None) -> Results:
    with open_store(place) as store, store.create("digits", spec, created=START) as experiment:
        write(experiment)
    return Results("digits", storage=place, finish=finish)


def two_objectives(experiment: SqlExperiment) -> None:
    points = [(1.0, 1.0), (2.0, 3.0), (2.0, 2.0), (1.0, 1.0), (3.0, 3.0), (math.nan, 9.0), (0.5, 0.1)]
    trials = [
        TrialRow(trial=n, status="COMPLETED", config={}, step=1, metrics={"cost": cost, "score": score})
        for n, (cost, score) in enumerate(points)
    ]
    experiment.append([], (), trials)


def test_the_whole(tmp_path: Path) -> None:
    results = make(tmp_path)
    assert (results.metric, results.mode, results.status) == ("accuracy", "max", "interrupted")
    assert results.counts == {"COMPLETED": 1, "FAILED": 1, "RUNNING": 1, "STOPPED": 1}
    assert len(results) == 4
    assert [trial.number for trial in results] == [0, 1, 2, 3]
    assert repr(results) == (
        "<Results 'digits' interrupted; trials: 1 completed, 1 failed, 1 running, 1 stopped; "
        "best accuracy 0.93125 in trial 0>"
    )
    assert results.finish == Finish(status="interrupted", reason="created but not started")
    finish = Finish(status="finished", reason="all 4 trials are done")
    assert Results("dig", storage=tmp_path, finish=finish).finish is finish


def test_a_trial(tmp_path: Path) -> None:
    results = make(tmp_path)
    trial = results[0]
    assert (trial.status, trial.best, trial.best_step, trial.step, trial.duration) == ("COMPLETED", 0.93125, 2, 3, 30.0)
    assert trial.config["model"] == {"width": 64}
    assert trial.checkpoint is not None
    assert trial.checkpoint.uri == "/ckpt/trial-00000/step-00000002-a1", "of the best step"
    assert results[2].message == "ValueError: the loss exploded"
    assert results[3].duration is None
    with pytest.raises(ExperimentError, match="no trial 4"):
        results.trial(4)


def test_best_by_the_best_value_or_the_last(tmp_path: Path) -> None:
    results = make(tmp_path)
    assert (results.best().number, results.best().best, results.best().best_step) == (0, 0.93125, 2)
    last = results.best("last")
    assert (last.number, last.best, last.best_step) == (0, 0.92, 3)
    assert results.metrics_at(0, 2) == {"accuracy": 0.93125, "loss": 1 - 0.93125, "epoch": 2}
    assert results.metrics_at(0, 9) == results.metrics_at(2, None) == {}


def test_best_by_another_metric(tmp_path: Path) -> None:
    results = make(tmp_path)
    assert results.best(metric="loss", mode="min").best == pytest.approx(0.06875)
    assert results.best(metric="accuracy", mode="min").number == 1
    with pytest.raises(SpecError, match=r"not optimised here.*say with mode"):
        results.best(metric="loss")
    with pytest.raises(SpecError, match=r"no metric 'acuracy' was reported .did you mean 'accuracy'"):
        results.best(metric="acuracy")
    with pytest.raises(SpecError, match="mode"):
        results.best(metric="loss", mode="down")
    with pytest.raises(SpecError, match="scope"):
        results.best("first")  # type: ignore[arg-type]


def test_no_value_at_all_names_the_causes(tmp_path: Path) -> None:
    def all_failed(experiment: SqlExperiment) -> None:
        errors = ["Traceback\nValueError: a", "Traceback\nValueError: a", "KeyError: 'b'"]
        rows = [TrialRow(trial=n, status="FAILED", config={}, error=error) for n, error in enumerate(errors)]
        experiment.append([], (), rows)

    with pytest.raises(NoResultError) as caught:
        make(tmp_path, all_failed).best()
    assert str(caught.value) == (
        "no trial of 'digits' has a value of 'accuracy': 3 failed\n  2 x ValueError: a\n  1 x KeyError: 'b'"
    )


def test_a_metric_that_had_no_value_is_not_said_to_be_misspelt(tmp_path: Path) -> None:
    def nan(experiment: SqlExperiment) -> None:
        metrics = {"accuracy": math.nan}
        experiment.append([], (), [TrialRow(trial=0, status="COMPLETED", config={}, metrics=metrics)])

    with pytest.raises(NoResultError) as caught:
        make(tmp_path, nan).best()
    assert str(caught.value).endswith("1 completed\n  reported were: accuracy")


def test_pareto(tmp_path: Path) -> None:
    objective = [{"metric": "cost", "mode": "min"}, {"metric": "score", "mode": "max"}]
    results = make(tmp_path, two_objectives, {**SPEC, "objective": objective})
    assert results.metrics == ("cost", "score")
    # 0 and 3 are the same point; 2 and 4 are beaten by 1; 5 has no cost.
    assert [trial.number for trial in results.pareto()] == [0, 1, 3, 6]


def test_curves_keep_what_is_not_finite(tmp_path: Path) -> None:
    curves = make(tmp_path).curves()
    assert curves[0] == [(1, 0.5), (2, 0.93125), (3, 0.92)]
    assert math.isnan(curves[3][1][1])
    assert list(curves) == [0, 1, 3]
    assert make(tmp_path / "b").curves("loss")[1] == [(1, 0.875)]


def test_errors_and_history(tmp_path: Path) -> None:
    results = make(tmp_path)
    assert list(results.errors()) == [2]
    assert results.errors()[2].endswith("ValueError: the loss exploded\n")
    history = results.why(1)
    assert [(line.verdict, line.step) for line in history] == [("suggested", 0), ("stop", 1), ("ended", 1)]
    assert history[1].reason == "rung 1: rank 2 of 2, keep 1"
    with pytest.raises(ExperimentError):
        results.why(7)


def test_checkpoints(tmp_path: Path) -> None:
    results = make(tmp_path)
    assert (results.checkpoint(0).step, results.checkpoint(0, step=3).step) == (2, 3)
    assert results.checkpoint(0, step=2).uri.endswith("step-00000002-a1")
    with pytest.raises(CheckpointError, match="no checkpoint of step 1; kept: 2, 3"):
        results.checkpoint(0, step=1)
    with pytest.raises(CheckpointError, match="no checkpoint; kept: none"):
        results.checkpoint(1)


def test_dataframe(tmp_path: Path) -> None:
    results = make(tmp_path)
    trials = results.dataframe()
    assert trials["trial"].to_list() == [0, 1, 2, 3]
    assert trials["config/lr"].to_list() == [0.01, 0.5, 1e-4, 0.1]
    names = list(trials.columns)
    assert names.index("config/momentum") < names.index("metrics/accuracy")
    reports = results.dataframe(reports=True)
    assert len(reports) == 6
    assert reports.query("trial == 0")["metrics/accuracy"].to_list() == [0.5, 0.93125, 0.92]
    empty = make(tmp_path / "b", lambda experiment: None)
    assert len(empty.dataframe()) == len(empty.dataframe(reports=True)) == 0
    assert "status" in empty.dataframe()


def test_results_follow_a_live_experiment(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, store.create("digits", SPEC, created=START) as experiment:
        results = Results("digits", storage=tmp_path)
        assert len(results) == 0
        row = TrialRow(trial=0, status="RUNNING", config={}, best=1.0, best_step=1)
        experiment.append([], [ReportRow(0, 1, 1, START, {"accuracy": 1.0})], [row])
        assert results.best().number == 0


def test_locate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNE_PLATFORM_STORAGE", "/elsewhere")
    here = ("digits", str(tmp_path))
    for path in ("digits", "./digits", "digits/", tmp_path / "digits", tmp_path / "digits" / "experiment.db"):
        assert locate(path) == here
    assert locate("digits", "/other") == ("digits", "/other")
    assert locate("digi") == ("digi", "/elsewhere")


def test_flatten() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {}}, "e": [3]}, "config") == {
        "config/a": 1, "config/b/c": 2, "config/e": [3],
    }  # fmt: skip


def test_unknown(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ExperimentError, match="did you mean 'digits'"):
        Results("digitz", storage=tmp_path)
