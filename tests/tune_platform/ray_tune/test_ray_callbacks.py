"""Ray Tune's callbacks and loggers hear of a search by the drop-in Tuner as they would of Ray Tune's own."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ray import tune as theirs
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback

from tune_platform import ray_tune as tune


def descend(config: dict[str, Any]) -> None:
    for step in range(1, 10):
        tune.report({"mean_loss": config["lr"] + 1 / step})


def tuner(tmp_path: Path, trainable: Any = descend, *, run: Any = None, **options: Any) -> tune.Tuner:
    config = {"metric": "mean_loss", "mode": "min", **options}
    where = tune.RunConfig(storage_path=str(tmp_path), name="there", verbose=0, **(run or {}))
    space = {"lr": tune.uniform(0, 1), "net": {"width": 3}}
    return tune.Tuner(
        trainable, param_space=space, tune_config=tune.TuneConfig(**config), run_config=where, backend="inline"
    )


class Diary(theirs.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.lines: list[str] = []

    def setup(self, **info: Any) -> None:
        self.lines.append(f"setup {info['total_num_samples']}")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.lines.append(f"start {trial}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.lines.append(f"{trial.trial_id} {result['training_iteration']}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.lines.append(f"{trial.status} {trial}")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self.lines.append("end")


def test_callbacks_names_and_folders(tmp_path: Path) -> None:
    diary = Diary()
    results = tuner(
        tmp_path, num_samples=2, run={"stop": {"training_iteration": 2}, "callbacks": [diary]},
        trial_name_creator=lambda trial: f"{trial.trainable_name}-{trial.trial_id}",
        trial_dirname_creator=lambda trial: f"of_{trial.trial_id}",
    ).fit()  # fmt: skip
    begun = [f"start descend-{n}" for n in ("00000", "00001")]
    assert diary.lines[0] == "setup 2"
    assert diary.lines[1:4] == [begun[0], "00000 1", "00000 2"]
    assert diary.lines[-2:] == ["TERMINATED descend-00001", "end"]
    assert (tmp_path / "there" / "of_00001").resolve() == Path(results[1].path).resolve()


class Full(theirs.Callback):  # type: ignore[misc]
    """Notes every call, with the trial's state."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def note(*words: Any, trial: Any = None, checkpoint: Any = None, **info: Any) -> None:
            if trial is not None and checkpoint is not None:
                with checkpoint.as_directory() as folder:
                    assert Path(folder, "step").is_file()
                assert trial.checkpoint is checkpoint
            if name == "on_trial_recover":
                assert trial.get_error().strip().endswith("lost")
                assert "lost" in Path(trial.error_file).read_text()
            self.calls.append(name)

        return note


def flaky(config: dict[str, Any]) -> None:
    checkpoint = tune.get_checkpoint()
    for step in range(2 if checkpoint else 1, 3):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "step").write_text(str(step))
            tune.report({"mean_loss": 1.0}, checkpoint=tune.Checkpoint.from_directory(folder))
        if checkpoint is None:
            raise RuntimeError("lost")


def test_every_method_of_a_callback_is_called(tmp_path: Path) -> None:
    full = Full()
    run = {"callbacks": [full], "failure_config": tune.FailureConfig(max_failures=1)}
    (result,) = tuner(tmp_path, flaky, run=run).fit()
    assert result.error is None
    wanted = {name for name in dir(theirs.Callback) if name.startswith("on_")}
    assert set(full.calls) | {"on_trial_error"} == wanted
    trial = [name for name in full.calls if name.startswith("on_trial") and name != "on_trial_save"]
    assert trial == [
        "on_trial_start", "on_trial_result", "on_trial_recover", "on_trial_start", "on_trial_restore",
        "on_trial_result", "on_trial_complete",
    ]  # fmt: skip
    assert full.calls.count("on_checkpoint") == full.calls.count("on_trial_save") == 2


def fails(config: dict[str, Any]) -> None:
    raise ValueError("bad")


class Seen(theirs.Callback):  # type: ignore[misc]
    """Looks at what a trial's result and the trial have."""

    results: list[Any]
    error = ""

    def setup(self, **info: Any) -> None:
        self.results = []

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        assert 0 <= result["time_this_iter_s"] <= result["time_total_s"]
        assert trial.evaluated_params["net/width"] == result["config"]["net"]["width"] == 3
        assert {"date", "timestamp", "trial_id"} <= result.keys()
        self.results.append(result)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.error = Path(trial.error_file).read_text()


@pytest.mark.filterwarnings("error")
def test_what_a_callback_finds_in_a_result_and_a_trial(tmp_path: Path) -> None:
    seen = Seen()
    tuner(tmp_path, run={"callbacks": [seen], "stop": {"training_iteration": 2}}).fit()
    assert [result["done"] for result in seen.results] == [False, True]
    tuner(tmp_path, fails, run={"callbacks": [seen]}).fit()
    assert "ValueError: bad" in seen.error


def test_ray_tunes_own_loggers_write_their_files(tmp_path: Path) -> None:
    run = {"callbacks": [JsonLoggerCallback(), CSVLoggerCallback()], "stop": {"training_iteration": 3}}
    (result,) = tuner(tmp_path, run=run).fit()
    lines = [json.loads(line) for line in Path(result.path, "result.json").read_text().splitlines()]
    assert [line["training_iteration"] for line in lines] == [1, 2, 3]
    assert json.loads(Path(result.path, "params.json").read_text()) == result.config
    with Path(result.path, "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mean_loss"]) for row in rows] == [line["mean_loss"] for line in lines]
