"""Searchers, schedulers and trainables of ours in Ray Tune's own Tuner."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune_platform.errors import SpecError
from tune_platform.ray_tune import as_scheduler, as_searcher, as_trainable
from tune_platform.space import choice, uniform

SPACE = {"x": uniform(0, 1), "kind": choice(["a", "b"])}


# ------------------------------------------------------------------------------------------ a searcher


def searched(searcher: Any, first: int, last: int) -> list[dict[str, Any]]:
    """Have it suggest trials, each of which reports twice."""
    configs = []
    for number in range(first, last):
        config = searcher.suggest(f"t{number}")
        configs.append(config)
        for step in (1, 2):
            searcher.on_trial_result(f"t{number}", {"loss": config["x"] / step, "training_iteration": step})
        searcher.on_trial_complete(f"t{number}", {"loss": config["x"] / 2, "training_iteration": 2})
    return configs


@pytest.mark.parametrize("name", ["random", "tpe", "bohb"])
def test_a_saved_searcher_goes_on_as_if_it_had_not_been_ended(name: str, tmp_path: Path) -> None:
    whole = searched(as_searcher(name, SPACE, metric="loss", mode="min", seed=3), 0, 30)
    first = as_searcher(name, SPACE, metric="loss", mode="min", seed=3)
    assert searched(first, 0, 20) == whole[:20]
    first.save(str(tmp_path / "state"))
    second = as_searcher(name)
    second.restore(str(tmp_path / "state"))
    assert searched(second, 20, 30) == whole[20:]


def test_a_searcher_is_told_what_its_trials_came_to() -> None:
    told: list[Any] = []

    class Listening:
        synchronous, lookahead = True, None

        def setup(self, space: Any, *, mode: Any, seed: int) -> None: ...

        def ask(self, number: int) -> Any:
            from tune_platform.protocol.searcher import Suggestion

            return Suggestion({"x": 0.5}) if number < 2 else None

        def observe(self, number: int, config: Any) -> None: ...

        def tell(self, number: int, outcome: Any) -> None:
            told.append((number, outcome))

        def restore(self, past: Any) -> None: ...

    searcher = as_searcher(Listening())
    assert searcher.set_search_properties("loss", "max", SPACE)
    assert searcher.suggest("a") == searcher.suggest("b") == {"x": 0.5}
    assert searcher.suggest("c") == "FINISHED"
    for step in range(1, 6):
        searcher.on_trial_result("a", {"loss": 5 - step, "training_iteration": step})
    searcher.on_trial_complete("a", {"loss": 0.0, "training_iteration": 5})
    searcher.on_trial_complete("b", error=True)
    (_, first), (_, second) = told
    assert (first.status, first.value, first.resource) == ("completed", 4, 5)
    assert first.rungs == ((1, 4), (3, 2), (5, 0))
    assert (second.status, second.value, second.rungs) == ("failed", None, ())


def test_a_searcher_without_a_metric_says_what_is_missing() -> None:
    with pytest.raises(SpecError, match="give both to TuneConfig"):
        as_searcher("random").set_search_properties(None, None, SPACE)
    with pytest.raises(SpecError, match="did you mean"):
        as_searcher("bohbb")


# ------------------------------------------------------------------------------------------ a scheduler


class Controller:
    """What a scheduler sees of Ray Tune's controller."""

    def __init__(self, trials: int, *, over: bool = True) -> None:
        self.trials = [
            SimpleNamespace(trial_id=f"t{n}", status="PENDING", config={}, last_result={}) for n in range(trials)
        ]
        self.search_alg = SimpleNamespace(is_finished=lambda: over)
        self.ended: list[str] = []

    def get_trials(self) -> list[Any]:
        return self.trials

    def stop_trial(self, trial: Any) -> None:
        self.ended.append(trial.trial_id)
        trial.status = "TERMINATED"
        self.scheduler.on_trial_remove(self, trial)

    def take(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        scheduler.set_search_properties("loss", "min")
        for trial in self.trials:
            scheduler.on_trial_add(self, trial)

    def drive(self, losses: Any, places: int = 2) -> dict[str, int]:
        """Run all trials as Ray Tune would; return the last step of each."""
        steps = dict.fromkeys((trial.trial_id for trial in self.trials), 0)
        for _ in range(10_000):
            running = [trial for trial in self.trials if trial.status == "RUNNING"]
            while len(running) < places and (chosen := self.scheduler.choose_trial_to_run(self)) is not None:
                chosen.status = "RUNNING"
                running.append(chosen)
            if not running:
                return steps
            trial = running[0]
            self.trials.remove(trial)
            self.trials.append(trial)
            steps[trial.trial_id] += 1
            step = steps[trial.trial_id]
            result = {"loss": losses(trial.trial_id, step), "training_iteration": step}
            said = self.scheduler.on_trial_result(self, trial, result)
            if said == "PAUSE":
                trial.status = "PAUSED"
            elif said == "STOP" or step == 9:
                trial.status = "TERMINATED"
                self.scheduler.on_trial_complete(self, trial, result)
        raise AssertionError("it never ends")


def loss(trial: str, step: int) -> float:
    return int(trial[1:]) + 1 / step


@pytest.mark.parametrize(
    ("scheduler", "finals"),
    [
        ({"name": "asha", "max": 9}, None),
        ({"name": "asha", "max": 9, "type": "promotion"}, None),
        ({"name": "successive_halving", "max": 9, "n": 9}, [9, 3, 3, 1, 1, 1, 1, 1, 1]),
        ("fifo", [9] * 9),
    ],
)
def test_a_scheduler_decides_as_it_would_here(scheduler: Any, finals: list[int] | None) -> None:
    controller = Controller(9)
    controller.take(as_scheduler(scheduler))
    steps = controller.drive(loss)
    assert steps["t0"] == 9, "the best trial is trained to the end"
    assert all(trial.status == "TERMINATED" for trial in controller.trials)
    if finals is not None:
        assert [steps[f"t{n}"] for n in range(9)] == finals
    else:
        assert 9 < sum(steps.values()) < 81


def test_a_report_that_is_done_again_is_not_told_again() -> None:
    controller = Controller(1)
    controller.take(as_scheduler({"name": "asha", "max": 9}))
    (trial,) = controller.trials
    for step in (1, 2, 1, 2, 3):
        said = controller.scheduler.on_trial_result(controller, trial, {"loss": 1.0, "training_iteration": step})
        assert said == "CONTINUE"


def test_what_a_scheduler_of_ray_tune_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"PBT has trials go on from each other's checkpoints.*tune_platform.run"):
        as_scheduler({"name": "pbt", "interval": 2})
    with pytest.raises(SpecError, match="give both to TuneConfig"):
        as_scheduler("fifo").set_search_properties(None, None)


# ------------------------------------------------------------------------------------------ a trainable


def count(config: dict[str, Any]) -> None:
    from tune_platform import get_checkpoint, report

    saved = get_checkpoint()
    for step in range(saved.load() + 1 if saved else 1, 4):
        report({"loss": config["x"] / step, "at": {"step": step}}, checkpoint=step)


def test_a_function_is_driven_step_by_step_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    made = as_trainable(count, {"cpu": 2, "workers": 3})
    assert made.__name__ == "count"
    bundles = made.default_resource_request({}).bundles  # type: ignore[attr-defined]
    assert bundles == [{"CPU": 6.0}]
    made = as_trainable(count)
    trial = made({"x": 6.0})
    results = [trial.train() for _ in range(2)]
    assert [(result["loss"], result["at/step"], result["training_iteration"]) for result in results] == [
        (6.0, 1, 1), (3.0, 2, 2),
    ]  # fmt: skip
    saved = tmp_path / "saved"
    saved.mkdir()
    trial.save_checkpoint(str(saved))
    trial.stop()
    again = made({"x": 6.0})
    again.load_checkpoint(str(saved))
    assert again.train()["loss"] == 2.0
    assert again.train()["done"]
    again.stop()


def test_what_is_no_trainable_is_refused() -> None:
    with pytest.raises(SpecError, match="a Trainable's class, a function of the config"):
        as_trainable(3)


# ------------------------------------------------------------------------------------------ all of them, for real

SCRIPT = """
    import os, sys
    import ray
    from ray import tune
    from tune_platform import get_checkpoint, get_context, report
    from tune_platform.ray_tune import as_scheduler, as_searcher, as_trainable

    MENDED = sys.argv[1] + "/mended"

    def train(config):
        saved = get_checkpoint()
        for step in range(saved.load() + 1 if saved else 1, 10):
            if step == 2 and config["x"] > 0.3 and not os.path.exists(MENDED):
                raise RuntimeError("as planned")
            report({"loss": config["x"] + 1 / step}, checkpoint=step)

    def gang(config):
        report({"loss": config["x"], "workers": get_context().gang.group().size})

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    kept = dict(name="ours", storage_path=sys.argv[1], verbose=0)
    made = as_trainable(train)
    if sys.argv[2] == "fail":
        tuner = tune.Tuner(
            made, param_space={"x": tune.uniform(0, 1)}, run_config=tune.RunConfig(**kept),
            tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=8, search_alg=as_searcher("bohb"),
                                        scheduler=as_scheduler({"name": "asha", "max": 9, "min": 3})),
        )
    else:
        open(MENDED, "w").close()
        tuner = tune.Tuner.restore(sys.argv[1] + "/ours", trainable=made, resume_errored=True)
    grid = tuner.fit()
    if sys.argv[2] == "again":
        made = as_trainable(gang, {"cpu": 1, "workers": 2})
        gangs = tune.Tuner(made, param_space={"x": tune.uniform(0, 1)},
                           run_config=tune.RunConfig(**kept | {"name": "gang"}),
                           tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=1)).fit()
        print("GANG", gangs.num_errors, gangs[0].metrics["workers"])
    print("GRID", len(grid), grid.num_errors, sorted(result.metrics["training_iteration"] for result in grid)[-1])
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_of_ours_in_a_tuner_of_ray_tune_that_is_restored(tmp_path: Path) -> None:
    assert int(printed(tmp_path, "fail")[0][2]) > 0
    assert printed(tmp_path, "again") == [["GANG", "0", "2"], ["GRID", "8", "0", "9"]]


def printed(folder: Path, what: str) -> list[list[str]]:
    """Run the script and return the words of the lines that it prints itself."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder), what]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith(("GANG", "GRID"))]
    assert lines, done.stderr[-3000:]
    return lines
