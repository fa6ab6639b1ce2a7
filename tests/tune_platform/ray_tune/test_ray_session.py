"""Trainables written for Ray Tune under a plain `run`: nothing that they report is lost."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune

from tune_platform import PBT, CheckpointPolicy, Results, SearchSpec, run, uniform


def search(tmp_path: Path, trainable: Any, space: Any = None, **options: Any) -> Results:
    spec = {"metric": "loss", "mode": "min", "backend": "inline", "storage": tmp_path, "progress": "off"}
    return run(SearchSpec(trainable=trainable, param_space=space or {}, **{**spec, **options}))


def endless(config: dict[str, Any]) -> None:
    step = 0
    while True:
        step += 1
        tune.report({"loss": config["lr"] / step})


def counting(config: dict[str, Any]) -> None:
    saved = tune.get_checkpoint()
    first = 0
    if saved:
        with saved.as_directory() as directory:
            first = json.loads(Path(directory, "at.json").read_text())
    for at in range(first + 1, 5):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "at.json").write_text(json.dumps(at))
            tune.report({"loss": 1.0 / at, "at": at}, checkpoint=tune.Checkpoint.from_directory(folder))
        if at == 2 and not saved:
            raise RuntimeError("once")


def telling(config: dict[str, Any]) -> None:
    context = tune.get_context()
    folder = Path(context.get_trial_dir())
    cpus = context.get_trial_resources().bundles[0]["CPU"]
    tune.report({"loss": 1.0, "id": context.get_trial_id(), "there": folder.is_dir(), "cpus": cpus})


class Count(tune.Trainable):  # type: ignore[misc]
    def setup(self, config: dict[str, Any]) -> None:
        self.at = 0

    def step(self) -> dict[str, Any]:
        self.at += 1
        return {"loss": self.config["lr"] / self.at, "at": self.at, "done": self.at == 4}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"at": self.at}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.at = checkpoint["at"]


def test_an_endless_loop_that_reports_to_ray_tune_is_heard_and_stopped(tmp_path: Path) -> None:
    (trial,) = search(tmp_path, endless, {"lr": 6.0}, stop={"step": 3}).trials()
    assert (trial.step, trial.best) == (3, 2.0)


def test_training_iteration_is_a_condition_to_stop(tmp_path: Path) -> None:
    (trial,) = search(tmp_path, endless, {"lr": 6.0}, stop={"training_iteration": 2}).trials()
    assert trial.step == 2


def test_a_function_goes_on_from_ray_tunes_checkpoint(tmp_path: Path) -> None:
    (trial,) = search(tmp_path, counting, retries={"exception": 1}).trials()
    assert (trial.status, trial.step, trial.last["at"], trial.attempt) == ("COMPLETED", 4, 4, 2)


def test_the_context_tells_of_the_trial(tmp_path: Path) -> None:
    trials = search(tmp_path, telling, num_samples=2).trials()
    assert [trial.last["id"] for trial in trials] == ["00000", "00001"]
    assert all(trial.last["there"] and trial.last["cpus"] == 1.0 for trial in trials)


def test_a_subclass_of_ray_tunes_trainable_runs_saves_and_is_loaded(tmp_path: Path) -> None:
    results = search(tmp_path, Count, {"lr": 8.0}, checkpoint=CheckpointPolicy(every=2))
    (trial,) = results.trials()
    assert (trial.status, trial.step, trial.best) == ("COMPLETED", 4, 2.0)
    assert trial.checkpoint is not None
    assert trial.checkpoint.load(Count).inner.at == 4


def test_a_population_of_ray_tunes_trainables_clones_its_checkpoints(tmp_path: Path) -> None:
    population = PBT(interval=1, max=4, synchronous=True)
    results = search(tmp_path, Count, {"lr": uniform(1, 100)}, scheduler=population, num_samples=4)
    assert len(results.lineage()) > 0
    assert {trial.last["at"] for trial in results.trials()} == {4}  # a clone goes on from where its source was


def test_ray_tunes_session_is_left_alone_afterwards(tmp_path: Path) -> None:
    search(tmp_path, endless, {"lr": 1.0}, stop={"step": 1})
    with pytest.warns(UserWarning, match="meant to only be called inside"):
        tune.report({"loss": 1.0})


def arrays(config: dict[str, Any]) -> None:
    tune.report({"loss": np.float32(0.5), "confusion": np.eye(2, dtype=int), "net": {"norms": np.array([1.0, 2.0])}})


class Arrays(tune.Trainable):  # type: ignore[misc]
    def step(self) -> dict[str, Any]:
        return {"loss": 0.5, "confusion": np.eye(2, dtype=int), "net": {"norms": np.array([1.0, 2.0])}, "done": True}


@pytest.mark.parametrize("trainable", [arrays, Arrays])
def test_arrays_are_kept_as_lists(tmp_path: Path, trainable: Any) -> None:
    last = search(tmp_path, trainable)[0].last
    assert (last["loss"], last["confusion"], last["net/norms"]) == (0.5, [[1, 0], [0, 1]], [1.0, 2.0])
