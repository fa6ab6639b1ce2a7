"""`tune.run` of Ray Tune's, with the import changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune import TuneError

from tune_platform import ExperimentError, SpecError, load
from tune_platform import ray_tune as tune


def descend(config: dict[str, Any]) -> None:
    step = 0
    while True:
        step += 1
        tune.report({"loss": config["x"] + 1 / step})


class BAD:
    """Which value fails."""

    value = 2


def breaks(config: dict[str, Any]) -> dict[str, float]:
    if config["x"] == BAD.value:
        raise ValueError("two is bad")
    return {"loss": config["x"]}


def settings(tmp_path: Path, **more: Any) -> dict[str, Any]:
    where = {"name": "there", "storage_path": str(tmp_path), "verbose": 0, "backend": "inline"}
    return {**where, "config": {"x": tune.grid_search([1, 2, 3])}, "metric": "loss", "mode": "min", **more}


def test_the_analysis_has_the_best_trial_and_the_tables(tmp_path: Path) -> None:
    analysis = tune.run(descend, stop={"training_iteration": 4}, **settings(tmp_path))
    assert analysis.best_config == {"x": 1}
    assert analysis.best_result["loss"] == 1.25
    assert analysis.best_trial.path == analysis.trials[0].path
    assert analysis.best_checkpoint is None
    assert list(analysis.results_df["loss"]) == [1.25, 2.25, 3.25]
    assert [result["loss"] for result in analysis.results.values()] == [1.25, 2.25, 3.25]
    assert list(analysis.dataframe("loss", "max")["training_iteration"]) == [1, 1, 1]
    assert analysis.get_best_config("loss", "max") == {"x": 3}
    assert analysis.experiment_path == str(tmp_path / "there")


def test_a_scheduler_by_its_name_ends_an_endless_loop(tmp_path: Path) -> None:
    analysis = tune.run(descend, scheduler="async_hyperband", **settings(tmp_path))
    assert max(trial.metrics["training_iteration"] for trial in analysis.trials) == 100


def test_resources_of_each_trial_and_failures(tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=r"(?s)1 of 3 trials failed.*two is bad"):
        tune.run(breaks, resources_per_trial={"cpu": 2, "custom_resources": {"disk": 1}}, **settings(tmp_path))
    asked = load("there", storage=tmp_path).spec["resources"]
    assert (asked["cpu"], asked["custom"]) == (2.0, {"disk": 1.0})
    analysis = tune.run(breaks, raise_on_failed_trial=False, **settings(tmp_path, name="again"))
    assert analysis.grid.results.spec["resources"]["cpu"] == 1.0  # those of the run before were its own
    assert (analysis.grid.num_errors, analysis.best_config) == (1, {"x": 1})


def test_resume_goes_on_with_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExperimentError, match="no experiment to go on with"):
        tune.run(breaks, resume=True, **settings(tmp_path))
    first = tune.run(breaks, resume="AUTO", raise_on_failed_trial=False, **settings(tmp_path))
    again = tune.run(breaks, resume="AUTO", raise_on_failed_trial=False, **settings(tmp_path))
    assert again.experiment_path == first.experiment_path
    assert again.results == first.results
    monkeypatch.setattr(BAD, "value", 0)
    mended = tune.run(breaks, resume="AUTO+ERRORED", **settings(tmp_path))
    assert [trial.metrics["loss"] for trial in mended.trials] == [1, 2, 3]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"export_formats": ["onnx"]}, "export_formats.*not supported: write the model"),
        ({"checkpoint_freq": 2}, "checkpoint_frequency"),
        ({"num_sample": 2}, "no argument 'num_sample'.*num_samples"),
        ({"resume": "PROMPT"}, "resume='PROMPT'.*allowed"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        tune.run(breaks, **settings(tmp_path, **more))
