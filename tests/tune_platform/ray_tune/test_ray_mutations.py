"""How Ray Tune's population schedulers say what they mutate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pb2 import PB2

from tune_platform import SpecError
from tune_platform import ray_tune as tune


class Climbs(tune.Trainable):  # type: ignore[misc]
    """Whose score depends on the trial, so that some are worse than others."""

    def setup(self, config: dict[str, Any]) -> None:
        self.at = 0.0

    def step(self) -> dict[str, float]:
        self.at += self.config["side"]
        return {"score": self.at, "lr": self.config["lr"]}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, float]:
        return {"at": self.at}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.at = checkpoint["at"]


def test_a_mutation_may_be_a_domain_of_ray_tunes(tmp_path: Path) -> None:
    scheduler = PopulationBasedTraining(
        "training_iteration", perturbation_interval=2, hyperparam_mutations={"lr": tune.uniform(0.01, 1.0)}
    )
    grid = tune.Tuner(
        Climbs,
        param_space={"lr": tune.uniform(0.01, 1.0), "side": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(
            metric="score", mode="max", num_samples=4, scheduler=scheduler, max_concurrent_trials=4
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0, stop={"training_iteration": 12}),
        backend="inline",
        seed=0,
    ).fit()
    used = [set(result.metrics_dataframe["lr"]) for result in grid]
    assert grid.num_errors == 0
    assert max(len(values) for values in used) > 1  # a clone went on with another value
    assert all(0.01 <= value <= 1.0 for values in used for value in values)


def _halved(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "lr": config["lr"] / 2, "half": True}


@pytest.mark.parametrize("mutations", [{}, {"side": tune.uniform(0.0, 1.0)}])
def test_a_custom_explore_function_is_called_last(mutations: dict[str, Any], tmp_path: Path) -> None:
    scheduler = PopulationBasedTraining(
        "training_iteration", perturbation_interval=2, hyperparam_mutations=mutations, custom_explore_fn=_halved
    )
    grid = climb(tmp_path, scheduler, {"lr": tune.uniform(0.5, 1.0), "half": tune.choice([False, True])})
    assert grid.num_errors == 0
    cloned = [result for result in grid if len(set(result.metrics_dataframe["lr"])) > 1]
    assert cloned
    assert all(result.config["half"] is True for result in cloned)
    assert all(result.metrics["lr"] == 0.5 for result in cloned), "cut off at the end of its range"


def climb(tmp_path: Path, scheduler: Any, space: Any, **more: Any) -> tune.ResultGrid:
    return tune.Tuner(
        Climbs,
        param_space={"side": tune.uniform(0.0, 1.0), **space},
        tune_config=tune.TuneConfig(
            metric="score", mode="max", num_samples=6, scheduler=scheduler, max_concurrent_trials=6
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), name="it", verbose=0, stop={"training_iteration": 40}),
        backend="inline",
        seed=0,
        **more,
    ).fit()


def test_a_constant_of_the_space_starts_with_its_value_and_is_mutated(tmp_path: Path) -> None:
    ways = {"lr": lambda: 0.5, "kind": [1, 2], "net": {"width": tune.uniform(1, 9)}}
    scheduler = PopulationBasedTraining("training_iteration", perturbation_interval=2, hyperparam_mutations=ways)
    grid = climb(tmp_path, scheduler, {"lr": 0.01, "kind": 1, "net": {"width": 2.0, "depth": 3}})
    assert grid.num_errors == 0
    assert all(result.metrics_dataframe["lr"].iloc[0] == 0.01 for result in grid)
    used = {value for result in grid for value in result.metrics_dataframe["lr"]}
    assert len(used) > 2  # 0.5, or times 1.2 and 0.8
    assert {result.config["kind"] for result in grid} <= {1, 2}
    assert {result.config["net"]["depth"] for result in grid} == {3}
    assert len({result.config["net"]["width"] for result in grid}) > 1


def test_a_mutation_that_the_space_lacks_gives_the_first_value_too(tmp_path: Path) -> None:
    ways = {"lr": tune.uniform(0.5, 0.6), "kind": [4, 5], "drawn": lambda: 7}
    scheduler = PopulationBasedTraining("training_iteration", perturbation_interval=2, hyperparam_mutations=ways)
    grid = climb(tmp_path, scheduler, {})
    assert grid.num_errors == 0
    assert all(0.5 <= result.metrics_dataframe["lr"].iloc[0] <= 0.6 for result in grid)
    assert {result.config["kind"] for result in grid} <= {4, 5}
    assert 7 in {result.config["drawn"] for result in grid}


def test_pb2_goes_from_a_constant_into_its_bounds(tmp_path: Path) -> None:
    scheduler = PB2("training_iteration", perturbation_interval=2, hyperparam_bounds={"lr": [0.1, 0.9]})
    grid = climb(tmp_path, scheduler, {"lr": 0.1})
    used = {value for result in grid for value in result.metrics_dataframe["lr"]}
    assert grid.num_errors == 0
    assert len(used) > 1
    assert all(0.1 <= value <= 0.9 for value in used)


def test_a_mutation_with_arguments_is_refused(tmp_path: Path) -> None:
    scheduler = PopulationBasedTraining(hyperparam_mutations={"lr": lambda config: 1})
    with pytest.raises(SpecError, match=r"'lr'.*without arguments"):
        climb(tmp_path, scheduler, {"lr": 1.0})
