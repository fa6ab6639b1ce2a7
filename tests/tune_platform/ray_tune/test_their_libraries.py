"""Ray Tune's searchers around other libraries, in the drop-in Tuner: used as they are, and resumed exactly.

The libraries are brought for the test; the two that take longest only with TUNE_PLATFORM_FRAMEWORKS=all.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tune_platform import SpecError
from tune_platform import ray_tune as tune

ROOT = Path(__file__).parents[3]
#: What is installed for each, and how it is made with a seed.
LIBRARIES = {
    "hyperopt": (["hyperopt", "setuptools<70"], "hyperopt.HyperOptSearch(random_state_seed=1, n_initial_points=4)"),
    "nevergrad": (["nevergrad"], "nevergrad.NevergradSearch(optimizer=__import__('nevergrad').optimizers.OnePlusOne)"),
    "bohb": (["hpbandster", "ConfigSpace"], "bohb.TuneBOHB(seed=1)"),
    "bayesopt": (["bayesian-optimization==1.4.3"], "bayesopt.BayesOptSearch(random_state=1)"),
    "ax": (["ax-platform==0.5.0", "pandas<3"], "ax.AxSearch(random_seed=1)"),
}
SHORT = ["hyperopt", "nevergrad", "bohb"]
CODE = """
import logging, sys
logging.basicConfig()
from ray.tune.search import {name}
from tune_platform import load, ray_tune as tune, resume

def train(config):
    for step in range(1, 5):
        tune.report({{"loss": (config["x"] - 1) ** 2 + config["net"]["c"] / step}})

def tuner(folder, trials):
    return tune.Tuner(
        train, param_space={{"x": tune.uniform(-5, 5), "net": {{"c": 3.0}}}},
        tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=trials, search_alg={made},
                                    max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=folder, name="it", verbose=0), backend="inline",
    )

whole = tuner(sys.argv[1] + "/whole", 2 * {half}).fit()
assert whole.num_errors == 0, whole.errors
cut = sys.argv[1] + "/cut"
tuner(cut, {half}).fit()
again = resume("it", storage=cut, spec=tuner(cut, {half}).spec, extend={{"trials": {half}}})
configs = [result.config for result in whole]
assert len({{config["x"] for config in configs}}) == 2 * {half} and configs[0]["net"] == {{"c": 3.0}}, configs
print("SAME", [trial.config for trial in again] == configs)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LIBRARIES) if os.environ.get("TUNE_PLATFORM_FRAMEWORKS") else SHORT)
def test_a_searcher_with_its_library_brought(tmp_path: Path, name: str) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv brings the library")
    packages, made = LIBRARIES[name]
    withs = [word for package in packages for word in ("--with", package)]
    code = CODE.format(name=name, made=made, half=2 if name == "ax" else 6)  # its model is slow
    done = subprocess.run(
        ["uv", "run", "--no-sync", *withs, "python", "-c", code, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert "SAME True" in done.stdout, done.stderr[-3000:]
    assert "does not suggest again" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("hyperopt") is not None, reason="HyperOpt is installed")
def test_a_searcher_whose_library_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"search_alg='hyperopt'.*HyperOpt must be installed"):
        tune.run(lambda config: None, search_alg="hyperopt", storage_path=str(tmp_path))


PPO = """
import sys, ray
from tune_platform import ray_tune as tune
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
space = {"env": "CartPole-v1", "num_env_runners": 0, "lr": tune.grid_search([1e-3, 1e-4]), "num_epochs": 1,
         "train_batch_size_per_learner": 200, "minibatch_size": 100}
grid = tune.Tuner(
    "PPO", param_space=space,
    tune_config=tune.TuneConfig(metric="num_env_steps_sampled_lifetime", mode="max"),
    run_config=tune.RunConfig(storage_path=sys.argv[1], name="ppo", stop={"training_iteration": 2}, verbose=0),
).fit()
print("PPO", grid.num_errors, [result.metrics["training_iteration"] for result in grid])
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TUNE_PLATFORM_FRAMEWORKS"), reason="brings what RLlib needs")
def test_an_algorithm_of_rllib_by_its_name(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv brings the library")
    withs = [word for package in ("dm_tree", "lz4", "ormsgpack") for word in ("--with", package)]
    done = subprocess.run(
        ["uv", "run", "--no-sync", *withs, "python", "-c", PPO, str(tmp_path)],
        cwd=ROOT, env={**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}, capture_output=True, text=True, check=False,
        timeout=280,
    )  # fmt: skip
    assert "PPO 0 [2, 2]" in done.stdout, done.stderr[-3000:]
