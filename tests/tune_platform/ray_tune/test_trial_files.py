"""The drop-in Tuner leaves the files in trials' folders that code which evaluates Ray Tune's experiments reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from ray import tune as theirs
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.schedulers import PopulationBasedTraining

from tune_platform import ray_tune as tune
from tune_platform.ray_tune.trial_files import TrialFiles

FILES = {"params.json", "result.json", "progress.csv"}


def descend(config: dict[str, Any]) -> None:
    for step in range(1, 4):
        tune.report({"loss": config["x"] / step, "net": {"depth": step}, **({"late": 1} if step == 3 else {})})
        if config["x"] == 2 and step == 2:
            raise ValueError("two is bad")


def fit(tmp_path: Path, trainable: Any = descend, *, run: Any = None, **options: Any) -> tune.ResultGrid:
    space = options.pop("param_space", {"x": tune.grid_search([1.0, 2.0]), "net": {"width": 3}, "kind": descend})
    config = tune.TuneConfig(metric="loss", mode="min", **options)
    where = tune.RunConfig(storage_path=str(tmp_path), name="there", verbose=0, **(run or {}))
    return tune.Tuner(trainable, param_space=space, tune_config=config, run_config=where, backend="inline").fit()


def rows(path: str) -> list[dict[str, str]]:
    with Path(path, "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path, "result.json").read_text().splitlines()]


def test_each_trial_has_its_config_and_its_reports(tmp_path: Path) -> None:
    first, second = (result.path for result in fit(tmp_path))
    config = {"x": 1.0, "net": {"width": 3}, "kind": f"{__name__}:descend"}
    assert json.loads(Path(first, "params.json").read_text()) == config
    assert [(each["training_iteration"], each["loss"], each["trial_id"]) for each in lines(first)] == [
        (1, 1.0, "00000"), (2, 0.5, "00000"), (3, 1 / 3, "00000"),
    ]  # fmt: skip
    assert [each["config"] for each in lines(first)] == [config] * 3
    assert [(each["loss"], each["net/depth"]) for each in rows(first)] == [
        ("1.0", "1"),
        ("0.5", "2"),
        (str(1 / 3), "3"),
    ]
    assert "late" not in rows(first)[0]  # columns are those of the first report, as in Ray Tune
    assert lines(first)[2]["late"] == 1
    assert [each["loss"] for each in lines(second)] == [2.0, 1.0]  # what was reported before it failed


def test_a_resumed_trial_goes_on_in_its_files(tmp_path: Path) -> None:
    def halves(config: dict[str, Any]) -> None:
        for step in range(1, 3):
            tune.report({"loss": config["x"] / step})
        if not (tmp_path / "mended").exists():
            raise ValueError("not yet")
        tune.report({"loss": 0.0})

    grid = fit(tmp_path, halves, param_space={"x": 1.0})
    (tmp_path / "mended").touch()
    again = tune.Tuner.restore(grid.experiment_path, halves, resume_errored=True)
    again.fit()
    found = lines(grid[0].path)
    assert [each["training_iteration"] for each in found] == list(range(1, len(found) + 1))
    assert [row["loss"] for row in rows(grid[0].path)] == [str(each["loss"]) for each in found]
    assert found[-1]["loss"] == 0.0


def test_a_loggers_own_file_is_left_to_it(tmp_path: Path) -> None:
    grid = fit(tmp_path, run={"callbacks": [JsonLoggerCallback(), CSVLoggerCallback()]})
    path = grid[0].path
    assert [each["loss"] for each in lines(path)] == [1.0, 0.5, 1 / 3]
    assert [float(each["loss"]) for each in rows(path)] == [1.0, 0.5, 1 / 3]


def test_ray_tunes_own_variable_turns_them_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {each.name for each in Path(fit(tmp_path / "on")[0].path).iterdir()} >= FILES
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    assert not FILES & {each.name for each in Path(fit(tmp_path / "off")[0].path).iterdir()}


class Steps(theirs.Trainable):  # type: ignore[misc]
    def setup(self, config: dict[str, Any]) -> None:
        self.at = 0

    def step(self) -> dict[str, Any]:
        self.at += 1
        return {"loss": self.config["rate"], "done": self.at == 6}

    def save_checkpoint(self, folder: str) -> None:
        Path(folder, "at").write_text(str(self.at))

    def load_checkpoint(self, folder: str) -> None:
        self.at = int(Path(folder, "at").read_text())


def test_what_pbt_changed_is_in_the_lines_that_follow(tmp_path: Path) -> None:
    pbt = PopulationBasedTraining(
        time_attr="training_iteration", perturbation_interval=2, hyperparam_mutations={"rate": [0.1, 0.5, 1.0]}
    )
    grid = fit(tmp_path, Steps, param_space={"rate": tune.grid_search([0.1, 0.5, 1.0, 1.0])}, scheduler=pbt)
    changed = 0
    for result in grid:
        found = lines(result.path)
        assert [each["loss"] for each in found] == [each["config"]["rate"] for each in found]
        changed += len({each["loss"] for each in found}) > 1
        assert json.loads(Path(result.path, "params.json").read_text()) == found[-1]["config"]
    assert changed


def test_callbacks_that_the_environment_names_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TUNE_CALLBACKS", "ray.tune.logger.JsonLoggerCallback,tune_platform.ray_tune.Recorder")
    spec = tune.Tuner(descend, run_config=tune.RunConfig(storage_path=str(tmp_path))).spec
    theirs_, files = spec.callbacks
    assert isinstance(files, TrialFiles)
    assert files._files == {"progress.csv"}
    assert [type(each).__name__ for each in getattr(theirs_, "_callbacks")] == ["JsonLoggerCallback"]  # noqa: B009


def test_a_database_has_no_folders_of_trials() -> None:
    assert not tune.Tuner(descend, run_config=tune.RunConfig(storage_path="sqlite:///there.db")).spec.callbacks
