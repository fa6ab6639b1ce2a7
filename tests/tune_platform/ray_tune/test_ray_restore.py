"""`Tuner.restore` as scripts of Ray Tune's call it: a folder and a trainable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
from ray.tune.search.optuna import OptunaSearch

from tune_platform import ExperimentError, SpecError
from tune_platform import ray_tune as tune


def mended(config: dict[str, Any]) -> None:
    if config["x"] > 2 and not Path(config["home"], "mended").exists():
        raise ValueError("too much")
    for step in range(1, 4):
        tune.report({"loss": config["x"] / step})


def saves(config: dict[str, Any]) -> None:
    tune.report({"loss": 1.0}, checkpoint=tune.Checkpoint.from_directory(config["home"]))
    raise ValueError("after a checkpoint")


def begun(tmp_path: Path, trainable: Any = mended, space: Any = None, run: Any = None, **options: Any) -> str:
    space = {"x": tune.grid_search([1, 2, 3]), "home": str(tmp_path / "home"), **(space or {})}
    (tmp_path / "home").mkdir()
    where = tune.RunConfig(name="there", storage_path=str(tmp_path), verbose=0, **(run or {}))
    settings = tune.TuneConfig(metric="loss", mode="min", **options)
    return (
        tune.Tuner(trainable, param_space=space, tune_config=settings, run_config=where, backend="inline")
        .fit()
        .experiment_path
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scheduler": ASHAScheduler(max_t=3, reduction_factor=2), "search_alg": OptunaSearch(seed=1)},
        {"num_samples": 2, "space": {"y": tune.uniform(0, 1), "net": {"act": tune.choice(["a", "b"])}}},
        {"run": {"stop": {"training_iteration": 3}}},
    ],
)
def test_a_folder_and_the_trainable_are_enough(tmp_path: Path, options: Any) -> None:
    if "search_alg" in options:
        options = {**options, "space": {"x": tune.uniform(1, 4)}, "num_samples": 5}
    path = begun(tmp_path, **options)
    before = tune.Tuner.restore(path, mended).get_results()
    (tmp_path / "home" / "mended").touch()
    restored = tune.Tuner.restore(path, mended, resume_errored=True)
    after = restored.fit()
    assert (before.num_errors > 0, after.num_errors) == (True, 0)
    assert [result.config for result in after] == [result.config for result in before]
    assert after.get_best_result().metrics["loss"] == min(result.metrics["loss"] for result in after)


def test_without_failed_trials_nothing_is_done_again(tmp_path: Path) -> None:
    path = begun(tmp_path)
    again = tune.Tuner.restore(path, mended).fit()
    assert (again.num_errors, again.num_terminated) == (1, 2)


def test_what_only_python_holds_is_asked_for(tmp_path: Path) -> None:
    double = {"y": tune.sample_from(lambda spec: spec.config.x * 2)}
    path = begun(tmp_path, space=double)
    with pytest.raises(
        SpecError, match=r"space.y \(the function .*give what the first Tuner was given: param_space=...$"
    ):
        tune.Tuner.restore(path, mended)
    space = {"x": tune.grid_search([1, 2, 3]), "home": str(tmp_path / "home"), **double}
    (tmp_path / "home" / "mended").touch()
    grid = tune.Tuner.restore(path, mended, resume_errored=True, param_space=space).fit()
    assert [result.metrics["loss"] for result in grid] == [1 / 3, 2 / 3, 1]


def test_a_function_as_stop_is_asked_for(tmp_path: Path) -> None:
    path = begun(tmp_path, run={"stop": lambda trial_id, result: False})
    with pytest.raises(SpecError, match=r"schedule .*param_space=\.\.\., tune_config=\.\.\."):
        tune.Tuner.restore(path, mended)


def test_a_population_gets_its_space_and_its_mutations(tmp_path: Path) -> None:
    pbt = PopulationBasedTraining(
        time_attr="training_iteration", perturbation_interval=9, hyperparam_mutations={"lr": [0.1, 0.2]}
    )
    path = begun(tmp_path, saves, space={"lr": 0.1}, scheduler=pbt)
    space = {"x": tune.grid_search([1, 2, 3]), "home": str(tmp_path / "home"), "lr": 0.1}
    assert len(tune.Tuner.restore(path, saves, param_space=space).fit()) == 3


def test_trials_that_failed_begin_anew_where_they_have_no_checkpoint(tmp_path: Path) -> None:
    path = begun(tmp_path)
    (tmp_path / "home" / "mended").touch()
    assert tune.Tuner.restore(path, mended, restart_errored=True).fit().num_errors == 0


def test_reports_are_not_taken_back(tmp_path: Path) -> None:
    path = begun(tmp_path, saves)
    with pytest.raises(SpecError, match="restart_errored=True: trial 0 has failed and has a checkpoint"):
        tune.Tuner.restore(path, saves, restart_errored=True)


def test_another_space_is_another_search(tmp_path: Path) -> None:
    path = begun(tmp_path)
    with pytest.raises(ExperimentError, match="another space"):
        tune.Tuner.restore(path, mended, param_space={"x": tune.grid_search([7])}).fit()
    with pytest.raises(SpecError, match="storage_filesystem"):
        tune.Tuner.restore(path, mended, storage_filesystem=object())


def descend(config: dict[str, Any]) -> None:
    tune.report({"mean_loss": config["lr"]})


def test_the_settings_may_be_given_again(tmp_path: Path) -> None:
    found = tune.TuneConfig(metric="mean_loss", mode="min", num_samples=3)
    where = tune.RunConfig(name="there", storage_path=str(tmp_path), verbose=0)
    space = {"lr": tune.loguniform(1e-4, 1.0)}
    before = tune.Tuner(descend, param_space=space, tune_config=found, run_config=where, backend="inline").fit()
    path = before.experiment_path
    assert tune.Tuner.can_restore(path)
    assert not tune.Tuner.can_restore(str(tmp_path / "nowhere"))
    again = tune.Tuner.restore(
        path, descend, param_space={"lr": tune.loguniform(1e-4, 1.0)},
        tune_config=tune.TuneConfig(metric="mean_loss", mode="min", num_samples=3), backend="inline",
    )  # fmt: skip
    assert [each.config for each in again.get_results()] == [each.config for each in before]
    assert [each.config for each in again.fit()] == [each.config for each in before]
