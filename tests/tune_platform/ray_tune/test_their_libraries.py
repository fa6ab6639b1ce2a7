"""Ray Tune's searchers around other libraries, in the drop-in Tuner: used as they are, and resumed exactly.

The libraries are brought for the tests: all in one environment, which is that of the examples that need them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.ray_examples import EXAMPLES
from tune_platform import SpecError
from tune_platform import ray_tune as tune

ROOT = Path(__file__).parents[3]
#: How the searcher of each library is made with a seed, and half of its trials: the model of Ax is slow.
LIBRARIES = {
    "hyperopt": ("hyperopt.HyperOptSearch(random_state_seed=1, n_initial_points=4)", 6),
    "nevergrad": ("nevergrad.NevergradSearch(optimizer=__import__('nevergrad').optimizers.OnePlusOne)", 6),
    "bohb": ("bohb.TuneBOHB(seed=1)", 6),
    "bayesopt": ("bayesopt.BayesOptSearch(random_state=1)", 6),
    "ax": ("ax.AxSearch(random_seed=1)", 2),
}


def brought(packages: Iterable[str]) -> list[str]:
    return ["uv", "run", "--no-sync", *(word for package in packages for word in ("--with", package)), "python", "-c"]


#: As `run_together` names them, so that uv makes the environment once.
LIBRARIES_OF_EXAMPLES = dict.fromkeys(package for needed in EXAMPLES.values() for package in needed)
CODE = """
import importlib, logging, sys, traceback
logging.basicConfig()
from tune_platform import ray_tune as tune, resume

def train(config):
    for step in range(1, 5):
        tune.report({"loss": (config["x"] - 1) ** 2 + config["net"]["c"] / step})

def tuner(folder, trials, search):
    return tune.Tuner(
        train, param_space={"x": tune.uniform(-5, 5), "net": {"c": 3.0}},
        tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=trials, search_alg=search(),
                                    max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=folder, name="it", verbose=0), backend="inline",
    )

def check(name, made, half):
    module = importlib.import_module("ray.tune.search." + name)
    search = lambda: eval(made, {name: module})
    whole = tuner(sys.argv[1] + "/whole_" + name, 2 * half, search).fit()
    assert whole.num_errors == 0, whole.errors
    cut = sys.argv[1] + "/cut_" + name
    tuner(cut, half, search).fit()
    again = resume("it", storage=cut, spec=tuner(cut, half, search).spec, extend={"trials": half})
    configs = [result.config for result in whole]
    assert len({config["x"] for config in configs}) == 2 * half and configs[0]["net"] == {"c": 3.0}, configs
    assert [trial.config for trial in again] == configs

for name, (made, half) in LIBRARIES.items():
    try:
        check(name, made, half)
        print("SAME", name, flush=True)
    except Exception:
        traceback.print_exc()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_searcher_with_its_library_brought(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv brings the libraries")
    done = subprocess.run(
        [*brought(LIBRARIES_OF_EXAMPLES), f"LIBRARIES = {LIBRARIES!r}{CODE}", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=550,
    )  # fmt: skip
    same = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("SAME")]
    assert same == list(LIBRARIES), done.stderr[-6000:]
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
@pytest.mark.timeout(400)
def test_an_algorithm_of_rllib_by_its_name(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv brings the library")
    done = subprocess.run(
        [*brought(("dm_tree", "lz4", "ormsgpack")), PPO, str(tmp_path)],
        cwd=ROOT, env={**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}, capture_output=True, text=True, check=False,
        timeout=380,
    )  # fmt: skip
    assert "PPO 0 [2, 2]" in done.stdout, done.stderr[-3000:]
