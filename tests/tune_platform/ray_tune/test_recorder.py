"""Ray Tune's runs are recorded as they go, and are not harmed where that fails."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune_platform import ExperimentError, load
from tune_platform.api import check_up
from tune_platform.ray_tune import Recorder
from tune_platform.ray_tune import recorder as recorder_module

SCRIPT = """
import os, signal, time
from pathlib import Path
from ray import tune
import ray
from ray.tune.schedulers import ASHAScheduler

def train(config):
    for step in range(1, 5):
        if config["x"] == 3 and step == 2:
            raise ValueError("three is bad")
        tune.report({"loss": config["x"] / step})

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
tune.Tuner(
    train, param_space={"x": tune.grid_search([1, 2, 3])},
    tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=ASHAScheduler(max_t=4, reduction_factor=2)),
    run_config=tune.RunConfig(name="theirs", storage_path=str(Path("ray_results").absolute()), verbose=0),
).fit()

def go_on(config):
    for step in range(100):
        time.sleep(0.05)
        if config["x"] == 2:
            raise ValueError("two is bad")
        tune.report({"loss": config["x"] / (step + 1)})

class Breaks(tune.Callback):
    def on_trial_result(self, iteration, trials, trial, result, **info):
        raise OSError("no disk")

class Interrupts(tune.Callback):
    def on_trial_result(self, iteration, trials, trial, result, **info):
        os.kill(os.getpid(), signal.SIGINT)

for name, callbacks, values, fail_fast in (
    ("breaks", [Breaks()], [1], False), ("interrupted", [Interrupts()], [1], False), ("fast", [], [1, 2], True),
):
    try:
        tune.Tuner(
            go_on, param_space={"x": tune.grid_search(values)},
            tune_config=tune.TuneConfig(metric="loss", mode="min"),
            run_config=tune.RunConfig(name=name, storage_path=str(Path("ray_results").absolute()), verbose=0,
                                      failure_config=tune.FailureConfig(fail_fast=fail_fast), callbacks=callbacks),
        ).fit()
    except BaseException as error:
        print("RAISED", name, type(error).__name__)
print("THEIR END")
"""


def trial(key: str, **more: Any) -> Any:
    storage = SimpleNamespace(experiment_dir_name="theirs")
    given = {"trial_id": key, "config": {"x": 1}, "stopping_criterion": {}, "last_result": {}, "storage": storage}
    return SimpleNamespace(get_error=lambda: "Traceback\nValueError: bad", **{**given, **more})


def tell(recorder: Recorder, name: str, one: Any, **more: Any) -> None:
    getattr(recorder, name)(iteration=0, trials=[], trial=one, **more)


def test_what_the_callbacks_tell_is_what_the_store_has(tmp_path: Path) -> None:
    recorder = Recorder("loss", "min", str(tmp_path))
    ends, stopped, met, fails = (
        trial("a"),
        trial("b"),
        trial("c", stopping_criterion={"training_iteration": 1}),
        trial("d"),
    )
    recorder.setup(stop=None)
    for one in (ends, stopped, met, fails):
        tell(recorder, "on_trial_start", one)
        one.last_result = {"loss": 2.0, "training_iteration": 1, "done": one in (stopped, met), "pid": 7}
        tell(recorder, "on_trial_result", one, result=one.last_result)
    deadline = time.monotonic() + 60
    trials = 0
    while trials < 4:  # it is written live
        assert time.monotonic() < deadline
        time.sleep(0.05)
        with contextlib.suppress(ExperimentError):  # it is being made
            trials = len(load("theirs", storage=tmp_path))
    assert load("theirs", storage=tmp_path).status == "running"
    tell(recorder, "on_trial_recover", fails)
    tell(recorder, "on_trial_start", fails)
    tell(recorder, "on_trial_result", fails, result={"loss": 2.0, "training_iteration": 1, "done": False})
    for one in (ends, stopped, met):
        tell(recorder, "on_trial_complete", one)
    tell(recorder, "on_trial_error", fails)
    recorder.on_experiment_end(trials=[])
    found = load("theirs", storage=tmp_path)
    assert check_up("theirs", storage=tmp_path) == []
    assert (found.status, found.metric, found.mode) == ("finished", "loss", "min")
    assert [each.status for each in found] == ["COMPLETED", "STOPPED", "COMPLETED", "FAILED"]
    assert [(each.step, each.attempt) for each in found] == [(1, 1), (1, 1), (1, 1), (1, 2)]
    assert found[2].reason == "training_iteration 1 reached the stop condition 1"
    assert found[3].message == "ValueError: bad"
    assert found[0].last == {"loss": 2.0, "training_iteration": 1}


def test_a_fault_of_ours_is_told_once_and_harms_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("no folder")
    recorder, one = Recorder("loss", "min", str(tmp_path / "taken")), trial("a")
    tell(recorder, "on_trial_start", one)
    assert recorder._thread is not None
    recorder._thread.join(60)
    tell(recorder, "on_trial_result", one, result={"loss": 1.0})
    tell(recorder, "on_trial_complete", trial("unknown"))
    recorder.on_experiment_end(trials=[])
    assert [record.message for record in caplog.records].count(
        "the Recorder failed and records no more; the run itself goes on"
    ) == 1


def test_ray_tune_keeps_it_with_its_experiment() -> None:
    assert pickle.loads(pickle.dumps(Recorder("loss", "min")))._metric == "loss"


@pytest.mark.slow
def test_an_unmodified_script_and_runs_that_crash(tmp_path: Path) -> None:
    set_ = {"RAY_TUNE_CALLBACKS": "tune_platform.ray_tune.Recorder", "TUNE_PLATFORM_STORAGE": str(tmp_path / "ours")}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | set_
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert "THEIR END" in done.stdout, done.stderr
    found = load("theirs", storage=tmp_path / "ours")
    assert check_up("theirs", storage=tmp_path / "ours") == []
    assert (found.status, found.metric, found.mode) == ("finished", "loss", "min")
    by_x = {each.config["x"]: each for each in found}
    assert (by_x[1].step, by_x[1].best) == (4, 0.25)
    assert by_x[3].status in ("FAILED", "STOPPED")
    assert sorted(by_x) == [1, 2, 3]
    ends = {name: load(name, storage=tmp_path / "ours").finish for name in ("breaks", "interrupted", "fast")}
    assert {name: end.status for name, end in ends.items()} == {
        "breaks": "failed", "interrupted": "stopped", "fast": "failed",
    }  # fmt: skip
    assert "OSError: no disk" in ends["breaks"].reason


def test_the_end_of_their_run_waits_for_no_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "_PERIOD", 1000.0)
    recorder = Recorder("loss", "min", str(tmp_path))
    one = trial("a")
    tell(recorder, "on_trial_start", one)
    tell(recorder, "on_trial_complete", one)
    recorder.on_experiment_end([])
    assert load("theirs", storage=tmp_path).status == "finished"


#: Ray Tune's own `run` as far as the Recorder looks at it: it tells callbacks of the end while it handles an error.
RUN = """
def run(recorder, trials, error=None, fail_fast=False, interrupted=False):
    experiment_interrupted_event = threading.Event()
    if interrupted:
        experiment_interrupted_event.set()
    try:
        if error is not None:
            raise error
    except Exception:
        recorder.on_experiment_end(trials=trials)
        raise
    recorder.on_experiment_end(trials=trials)
"""


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ({}, "finished", "Ray Tune's run has ended"),
        ({"error": OSError("no disk")}, "failed", "Ray Tune's run has failed: OSError: no disk"),
        ({"interrupted": True}, "stopped", "Ray Tune's run was interrupted by a signal"),
        ({"fail_fast": True}, "failed", "a trial has failed, at which Ray Tune was to end (fail_fast)"),
    ],
)
def test_how_their_run_ends_is_what_the_store_says(
    tmp_path: Path, how: dict[str, Any], status: str, reason: str
) -> None:
    run: dict[str, Any] = {"__name__": "ray.tune.tune", "threading": threading}
    exec(RUN, run)
    recorder, one = Recorder("loss", "min", str(tmp_path)), trial("a", status="ERROR")
    tell(recorder, "on_trial_start", one)
    try:
        raise KeyError("an error of somebody else's, who starts this run while handling it")
    except KeyError:
        with contextlib.suppress(OSError):
            run["run"](recorder, [one], **how)
    found = load("theirs", storage=tmp_path)
    assert (found.finish.status, found.finish.reason) == (status, reason)
    assert check_up("theirs", storage=tmp_path) == []


LEFT = """
import sys
from types import SimpleNamespace
from tune_platform.ray_tune import Recorder
recorder = Recorder("loss", "min", sys.argv[1])
one = SimpleNamespace(trial_id="a", config={"x": 1}, storage=SimpleNamespace(experiment_dir_name="theirs"))
recorder.on_trial_start(iteration=0, trials=[], trial=one)
recorder.on_trial_result(iteration=0, trials=[], trial=one, result={"loss": 2.0})
sys.exit(3)
"""


def test_a_process_that_leaves_its_run_has_written_all_and_did_not_finish(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LEFT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    found = load("theirs", storage=tmp_path)
    assert (found.status, found[0].status, found[0].step) == ("crashed", "RUNNING", 1)
