"""Small scripts of what Ray Tune's documentation teaches, under Ray Tune and here: the same facts come out of both.

The import is the only line that differs. Each function of the script returns what must not depend on who ran it, as
what each side draws at random does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

IMPORTS = {"there": "from ray import tune", "here": "from tune_platform import ray_tune as tune"}
SCRIPT = """
import csv, json, math, os, random, subprocess, sys, tempfile, time, traceback
import ray
IMPORT
from ray.tune import CLIReporter
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, PopulationBasedTraining
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import CombinedStopper, ExperimentPlateauStopper, MaximumIterationStopper, TrialPlateauStopper

HOME = sys.argv[1]

def run_config(name, **more):
    return tune.RunConfig(name=name, storage_path=HOME, verbose=0, **more)

def descend(config):
    for step in range(1, 10):
        tune.report({"loss": config["x"] + 1 / step})

def asha_on_a_function():
    # The worst come first, so that each is judged against better ones only where it should go on.
    grid = tune.Tuner(
        descend, param_space={"x": tune.grid_search([1, 2, 3])},
        tune_config=tune.TuneConfig(metric="loss", mode="min", max_concurrent_trials=1, reuse_actors=True,
                                    scheduler=ASHAScheduler(grace_period=1, max_t=9, reduction_factor=3)),
        run_config=run_config("asha"),
    ).fit()
    best = grid.get_best_result()
    return [best.config, best.metrics["training_iteration"], round(best.metrics["loss"], 6), len(grid), grid.num_errors,
            grid.num_terminated]

class Climb(tune.Trainable):
    def setup(self, config):
        self.at = 0.0
    def step(self):
        self.at += self.config["rate"]
        return {"score": self.at}
    def save_checkpoint(self, folder):
        with open(os.path.join(folder, "at.json"), "w") as file:
            json.dump(self.at, file)
    def load_checkpoint(self, folder):
        with open(os.path.join(folder, "at.json")) as file:
            self.at = json.load(file)
    def reset_config(self, config):
        self.config = config
        return True

def pbt_on_a_class_with_checkpoints():
    pbt = PopulationBasedTraining(time_attr="training_iteration", metric="score", mode="max", perturbation_interval=2,
                                  hyperparam_mutations={"rate": [0.1, 1.0, 2.0]})
    grid = tune.Tuner(
        Climb, param_space={"rate": tune.grid_search([0.1, 1.0, 2.0, 0.1])},
        tune_config=tune.TuneConfig(scheduler=pbt, reuse_actors=True),
        run_config=run_config("pbt", stop={"training_iteration": 8},
                              checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=2, checkpoint_at_end=True)),
    ).fit()
    best = grid.get_best_result("score", "max")
    with best.checkpoint.as_directory() as folder, open(os.path.join(folder, "at.json")) as file:
        kept = json.load(file)
    return [len(grid), grid.num_errors, kept == best.metrics["score"], best.metrics["score"] >= 16.0,
            sorted({result.metrics["training_iteration"] for result in grid})]

def hyperband():
    grid = tune.Tuner(
        descend, param_space={"x": tune.grid_search([1, 2, 3, 4])},
        tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=HyperBandScheduler(max_t=9),
                                    reuse_actors=True),
        run_config=run_config("hyperband"),
    ).fit()
    return [grid.get_best_result().config, len(grid), grid.num_errors]

def branch(config):
    assert ("depth" in config) == (config["kind"] == "tree"), config
    tune.report({"loss": config.get("depth", 0.5)})

def space(trial):
    if trial.suggest_categorical("kind", ["tree", "line"]) == "tree":
        trial.suggest_int("depth", 1, 3)

def conditional_space_with_optuna():
    grid = tune.Tuner(
        branch, tune_config=tune.TuneConfig(search_alg=OptunaSearch(space=space, metric="loss", mode="min", seed=1),
                                            num_samples=4, max_concurrent_trials=2, reuse_actors=True),
        run_config=run_config("optuna"),
    ).fit()
    return [len(grid), grid.num_errors, {result.config["kind"] for result in grid} <= {"tree", "line"}]

def twice(config, data):
    context = tune.get_context()
    tune.report({"loss": config["b"] + len(data), "name": context.get_experiment_name(),
                 "cpus": context.get_trial_resources().required_resources["CPU"]})

def sample_from_with_parameters_and_resources():
    grid = tune.Tuner(
        tune.with_resources(tune.with_parameters(twice, data=[1, 2, 3]), {"cpu": 0.5}),
        param_space={"a": tune.grid_search([1, 2]), "b": tune.sample_from(lambda spec: spec.config.a * 10)},
        run_config=run_config("parameters"),
    ).fit()
    return [[result.metrics[name] for name in ("loss", "name", "cpus")] for result in grid]

def grid_with_random():
    grid = tune.Tuner(
        descend, param_space={"x": tune.uniform(0, 1), "net": {"width": tune.grid_search([1, 2]), "fixed": "a"}},
        tune_config=tune.TuneConfig(num_samples=2, metric="loss", mode="min", reuse_actors=True),
        run_config=run_config("grid", stop={"training_iteration": 2}),
    ).fit()
    frame = grid.get_dataframe()
    columns = ("loss", "training_iteration", "time_total_s", "trial_id", "config/x", "config/net/width", "done")
    return [sorted(result.config["net"]["width"] for result in grid), sorted(frame["config/net/width"]),
            [name for name in columns if name not in frame], list(grid[0].metrics_dataframe["training_iteration"])]

def files_in_the_folder_of_a_trial():
    grid = tune.Tuner(
        descend, param_space={"x": tune.grid_search([1, 2]), "net": {"width": 3}},
        tune_config=tune.TuneConfig(metric="loss", mode="min", reuse_actors=True),
        run_config=run_config("files", stop={"training_iteration": 3}),
    ).fit()
    found = []
    for result in grid:
        with open(os.path.join(result.path, "params.json")) as file:
            config = json.load(file)
        with open(os.path.join(result.path, "result.json")) as file:
            lines = [json.loads(line) for line in file]
        with open(os.path.join(result.path, "progress.csv"), newline="") as file:
            rows = list(csv.DictReader(file))
        found.append([config, [[each["training_iteration"], each["loss"], each["config"]] for each in lines],
                      [[each["training_iteration"], each["loss"], "config/x" in each] for each in rows]])
    return found

def stoppers():
    found = {}
    for name, stop in {
        "number": {"training_iteration": 3}, "metric": {"loss": 0.0, "training_iteration": 5},
        "function": lambda trial_id, result: result["training_iteration"] >= 4,
        "combined": CombinedStopper(MaximumIterationStopper(6), TrialPlateauStopper("loss", std=0.001)),
        "plateau": TrialPlateauStopper("loss", std=10.0, num_results=2, grace_period=2),
    }.items():
        grid = tune.Tuner(descend, param_space={"x": 1}, run_config=run_config("stop_" + name, stop=stop)).fit()
        found[name] = [result.metrics["training_iteration"] for result in grid]
    return found

class Notes(tune.Callback):
    def __init__(self):
        self.lines = []
    def on_trial_result(self, iteration, trials, trial, result, **info):
        self.lines.append([trial.config["x"], result["training_iteration"], str(trial)])
    def on_trial_complete(self, iteration, trials, trial, **info):
        self.lines.append(["complete", trial.config["x"]])
    def on_experiment_end(self, trials, **info):
        self.lines.append(["end", len(trials)])

def callbacks_and_names():
    notes = Notes()
    grid = tune.Tuner(
        descend, param_space={"x": tune.grid_search([1, 2])},
        tune_config=tune.TuneConfig(trial_name_creator=lambda trial: f"x_{trial.config['x']}", max_concurrent_trials=1,
                                    trial_dirname_creator=lambda trial: f"dir_{trial.config['x']}"),
        run_config=run_config("notes", stop={"training_iteration": 2}, callbacks=[notes],
                              progress_reporter=CLIReporter(metric_columns=["loss"])),
    ).fit()
    return [notes.lines, sorted(name for name in os.listdir(grid.experiment_path) if name.startswith("dir_"))]

def fails(config):
    if config["x"] == 1 and not os.path.exists(HOME + "/mended"):
        raise ValueError("one is bad")
    tune.report({"loss": config["x"]})

def failures_and_restore():
    grid = tune.Tuner(fails, param_space={"x": tune.grid_search([0, 1, 2])}, run_config=run_config("fails")).fit()
    facts = [grid.num_errors, grid.num_terminated, "one is bad" in str(grid.errors[0]), grid[1].error is not None,
             [result.config for result in grid]]
    open(HOME + "/mended", "w").close()
    path = HOME + "/fails"
    again = {} if tune.__name__ == "ray.tune" else {
        "param_space": {"x": tune.grid_search([0, 1, 2])}, "run_config": run_config("fails")}
    assert tune.Tuner.can_restore(path) and not tune.Tuner.can_restore(HOME + "/nowhere")
    grid = tune.Tuner.restore(path, fails, resume_errored=True, **again).fit()
    return [*facts, grid.num_errors, sorted(result.metrics["loss"] for result in grid)]

def fail_fast():
    os.path.exists(HOME + "/mended") and os.remove(HOME + "/mended")
    grid = tune.Tuner(
        fails, param_space={"x": tune.grid_search([1, 0, 0, 0, 0, 0])},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=run_config("fast", failure_config=tune.FailureConfig(fail_fast=True)),
    ).fit()
    return [grid.num_errors, grid.num_terminated]

def flaky(config):
    start = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder, open(folder + "/step") as file:
            start = int(file.read())
    for step in range(start + 1, 5):
        with tempfile.TemporaryDirectory() as folder:
            with open(folder + "/step", "w") as file:
                file.write(str(step))
            tune.report({"step": step, "started": start}, checkpoint=tune.Checkpoint.from_directory(folder))
        if step == 2 and start == 0:
            raise RuntimeError("lost")

def retried_from_its_checkpoint():
    grid = tune.Tuner(
        flaky, param_space={"x": 1},
        run_config=run_config("flaky", failure_config=tune.FailureConfig(max_failures=1),
                              checkpoint_config=tune.CheckpointConfig(num_to_keep=1)),
    ).fit()
    with grid[0].checkpoint.as_directory() as folder, open(folder + "/step") as file:
        kept = file.read()
    best = grid[0].get_best_checkpoint("step", "max")
    return [grid.num_errors, grid[0].metrics["step"], grid[0].metrics["started"], kept, len(grid[0].best_checkpoints),
            best is not None]

def returns_and_yields():
    number = tune.Tuner(lambda config: {"loss": config["x"] * 2}, param_space={"x": 2}, run_config=run_config("one"))
    return [number.fit()[0].metrics["loss"]]

def older_run():
    analysis = tune.run(
        descend, config={"x": tune.grid_search([1, 2])}, metric="loss", mode="min", stop={"training_iteration": 3},
        storage_path=HOME, name="older", verbose=0, reuse_actors=True, resources_per_trial={"cpu": 1},
    )
    trial = analysis.best_trial
    return [analysis.best_config, round(analysis.best_result["loss"], 6), len(analysis.trials),
            sorted(round(value, 6) for value in analysis.results_df["loss"]), trial.config, trial.last_result["loss"],
            analysis.get_best_config("loss", "max"), len(analysis.dataframe()), analysis.best_checkpoint is None,
            sorted(len(frame) for frame in analysis.trial_dataframes.values()), len(analysis.best_dataframe),
            analysis.get_last_checkpoint() is None,
            sorted(analysis.get_all_configs().values(), key=str), analysis.default_metric, analysis.default_mode]

def scopes():
    grid = tune.Tuner(
        zigzag, param_space={"x": tune.grid_search([1, 2])}, run_config=run_config("scopes"),
        tune_config=tune.TuneConfig(reuse_actors=True),
    ).fit()
    return {scope: grid.get_best_result("score", "max", scope=scope).config["x"]
            for scope in ("last", "all", "avg", "last-5-avg")}

def zigzag(config):
    for value in ([0, 9, 0, 0, 0, 0, 2] if config["x"] == 1 else [5, 5, 5, 5, 5, 5, 1]):
        tune.report({"score": value})

def slow(config):
    start = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder, open(folder + "/step") as file:
            start = int(file.read())
    for step in range(start + 1, 7):
        while step == 5 and not os.path.exists(HOME + "/killed_once"):
            time.sleep(0.05)
        with tempfile.TemporaryDirectory() as folder:
            with open(folder + "/step", "w") as file:
                file.write(str(step))
            tune.report({"step": step, "started": start}, checkpoint=tune.Checkpoint.from_directory(folder))

class Heard(tune.Callback):
    def on_trial_result(self, iteration, trials, trial, result, **info):
        if result["step"] == 4:
            open(HOME + "/heard_of_" + trial.config["name"], "w").close()

def to_be_killed():
    space = {"name": tune.grid_search(["a", "b", "c"]), "x": tune.uniform(0, 1)}
    tune.Tuner(slow, param_space=space, run_config=run_config("killed", callbacks=[Heard()]),
               tune_config=tune.TuneConfig(metric="step", mode="max")).fit()

def restore_after_a_kill():
    os.makedirs(HOME, exist_ok=True)
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen([sys.executable, __file__, HOME, "to_be_killed", address])
    while not all(os.path.exists(HOME + "/heard_of_" + name) for name in "ab"):
        assert driver.poll() is None
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    open(HOME + "/killed_once", "w").close()
    assert tune.Tuner.can_restore(HOME + "/killed")
    grid = tune.Tuner.restore(HOME + "/killed", slow).fit()
    by_name = {result.config["name"]: result.metrics for result in grid}
    # Ray Tune may be killed between a report and its next note of how its trials stand.
    went_on = tune.__name__ == "ray.tune" or all(by_name[name]["started"] == 4 for name in "ab")
    return [sorted(by_name), len(grid), grid.num_errors, [each["step"] for each in by_name.values()],
            by_name["c"]["started"], went_on]

ALL = [asha_on_a_function, pbt_on_a_class_with_checkpoints, hyperband, conditional_space_with_optuna,
       sample_from_with_parameters_and_resources, grid_with_random,
       files_in_the_folder_of_a_trial, stoppers, callbacks_and_names, failures_and_restore,
       fail_fast, retried_from_its_checkpoint, returns_and_yields, older_run, scopes, restore_after_a_kill]
if __name__ == "__main__":
    if sys.argv[2:3] == ["to_be_killed"]:
        ray.init(sys.argv[3], log_to_driver=False, logging_level="ERROR")
        to_be_killed()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    for one in ALL:
        if len(sys.argv) > 2 and one.__name__ not in sys.argv[2:]:
            continue
        try:
            facts = one()
        except BaseException as error:
            traceback.print_exc()
            facts = f"{type(error).__name__}: {error}"
        print("FACTS " + json.dumps([one.__name__, facts]), flush=True)
"""


def facts(side: str, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT.replace("IMPORT\n", f"{IMPORTS[side]}\n"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": "local"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "results")],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=550,
    )  # fmt: skip
    found = dict(json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("FACTS "))
    assert found, done.stderr[-5000:]
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_same_facts_come_out_of_both(tmp_path: Path) -> None:
    there, here = facts("there", tmp_path / "there"), facts("here", tmp_path / "here")
    assert not [name for name, each in there.items() if isinstance(each, str)]  # what it raised
    assert here == there
