"""How Ray Tune's population schedulers say what they mutate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.schedulers import PopulationBasedTraining

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
