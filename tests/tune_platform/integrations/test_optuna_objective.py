"""Objectives written for `study.optimize`, run as they are."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from tune_platform import ASHA, Results, SearchSpec, SpecError, loguniform, resume, run
from tune_platform.integrations import optuna_objective


def quadratic(trial: Any) -> float:
    x = trial.suggest_float("x", -10, 10)
    kind = trial.suggest_categorical("kind", ["near", "far"])
    shift = trial.suggest_int("shift", 1, 3) if kind == "far" else 0
    trial.set_user_attr("shifted", shift)
    return float((x - 2) ** 2 + shift)


def pruned(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    for step in range(9):
        trial.report(lr + 1 / (step + 1), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return lr


def gives_up(trial: optuna.Trial) -> float:
    if trial.number == 1:
        trial.report(5.0, 0)
    if trial.number < 2:
        raise optuna.TrialPruned
    return 1.0


def two(trial: optuna.Trial) -> tuple[float, float]:
    x = trial.suggest_float("x", 0, 1)
    return x, 1 - x


def search(tmp_path: Path, trainable: Any, **options: Any) -> Results:
    spec = {"metric": "value", "mode": "min", "backend": "inline", "storage": tmp_path, "progress": "off"}
    return run(SearchSpec(trainable=trainable, **{**spec, **options}))


def test_an_objective_draws_what_the_config_lacks_and_the_same_again(tmp_path: Path) -> None:
    trials = search(tmp_path, optuna_objective(quadratic), num_samples=20).trials()
    assert {trial.status for trial in trials} == {"COMPLETED"}
    for trial in trials:
        shift = trial.last.get("params/shift", 0)
        assert trial.last["value"] == (trial.last["params/x"] - 2) ** 2 + shift
        assert trial.last["user_attrs/shifted"] == shift
    assert {trial.last["params/kind"] for trial in trials} == {"near", "far"}
    again = search(tmp_path, optuna_objective(quadratic), num_samples=20).trials()
    assert [dict(trial.last) for trial in again] == [dict(trial.last) for trial in trials]


def test_the_searcher_learns_what_param_space_names(tmp_path: Path) -> None:
    space = {"lr": loguniform(1e-4, 1.0)}
    results = search(tmp_path, optuna_objective(pruned), param_space=space, searcher="tpe", num_samples=6)
    assert [trial.last["params/lr"] for trial in results.trials()] == [trial.config["lr"] for trial in results.trials()]


def test_a_scheduler_prunes_in_report(tmp_path: Path) -> None:
    space = {"lr": loguniform(1e-4, 1.0)}
    asha = ASHA(min=1, max=10, eta=3)
    trials = search(tmp_path, optuna_objective(pruned), param_space=space, scheduler=asha, num_samples=9).trials()
    assert {trial.status for trial in trials} == {"COMPLETED", "STOPPED"}
    stopped = [trial for trial in trials if trial.status == "STOPPED"]
    assert all(trial.step < 10 and trial.last["trial_step"] == trial.step - 1 for trial in stopped)


def test_trial_pruned_is_no_failure(tmp_path: Path) -> None:
    trials = search(tmp_path, optuna_objective(gives_up), num_samples=3, on_bad_metric="prune").trials()
    assert [trial.status for trial in trials] == ["STOPPED", "COMPLETED", "COMPLETED"]
    assert math.isnan(trials[0].last["value"])
    assert [trial.last["value"] for trial in trials[1:]] == [5.0, 1.0]


def test_several_objectives(tmp_path: Path) -> None:
    trainable = optuna_objective(two, metrics=["a", "b"])
    results = search(tmp_path, trainable, metric=["a", "b"], mode=["min", "max"], num_samples=3)
    assert all(trial.last["a"] + trial.last["b"] == pytest.approx(1) for trial in results.trials())


def test_enqueued_trials_are_start_points(tmp_path: Path) -> None:
    space = {"lr": loguniform(1e-4, 1.0)}
    results = search(tmp_path, optuna_objective(pruned), param_space=space, num_samples=3, start_points=[{"lr": 0.5}])
    assert results[0].last["params/lr"] == 0.5


def breaks(trial: Any) -> float:
    if trial.number == 1:
        raise ValueError("one is bad")
    return float(trial.suggest_float("x", 0, 1))


def test_what_catch_catches_is_a_failed_trial_here(tmp_path: Path) -> None:
    results = search(tmp_path, optuna_objective(breaks), num_samples=4, budget={"failures": 4})
    assert results.counts == {"COMPLETED": 3, "FAILED": 1}
    assert "one is bad" in results[1].message


def test_a_study_that_is_loaded_again_is_resumed(tmp_path: Path) -> None:
    spec = SearchSpec(
        name="kept", trainable=optuna_objective(quadratic), metric="value", mode="min", num_samples=3,
        backend="inline", storage=str(tmp_path), progress="off",
    )  # fmt: skip
    first = [trial.config for trial in run(spec)]
    again = resume("kept", storage=tmp_path, spec=spec, extend={"trials": 2})
    assert len(again.trials()) == 5
    assert [trial.config for trial in again][:3] == first


def test_timeout_and_n_jobs_are_a_budget_and_trials_at_a_time(tmp_path: Path) -> None:
    results = search(tmp_path, optuna_objective(endless), num_samples=500, budget={"time": 1.0}, max_concurrent=4)
    assert results.finish.status == "finished"
    assert "time" in results.finish.reason
    assert len(results.trials()) < 500


def endless(trial: Any) -> float:
    x = float(trial.suggest_float("x", 0, 1))
    time.sleep(0.05)
    return x


def test_best_params_best_value_and_the_table(tmp_path: Path) -> None:
    space = {"lr": loguniform(1e-4, 1.0)}
    results = search(tmp_path, optuna_objective(pruned), param_space=space, num_samples=4)
    values = [trial.last["value"] for trial in results]
    assert results.best().best == min(values)
    assert results.best().config == {"lr": min(trial.config["lr"] for trial in results)}
    assert len(results.dataframe()) == 4


def test_a_space_that_is_a_function_of_a_trial(tmp_path: Path) -> None:
    def space(trial: Any) -> None:
        if trial.suggest_categorical("kind", ["near", "far"]) == "far":
            trial.suggest_int("shift", 1, 3)
        trial.suggest_float("x", -10, 10)

    results = search(tmp_path, optuna_objective(quadratic), param_space=space, searcher="tpe", num_samples=8)
    assert all(trial.last["params/x"] == trial.config["x"] for trial in results)
    assert results.counts == {"COMPLETED": 8}


def test_an_objective_as_it_is_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"quadratic\(trial\) is an Optuna objective.*optuna_objective\(quadratic\)"):
        search(tmp_path, quadratic)
