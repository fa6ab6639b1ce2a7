"""Example files that Ray Tune ships, unchanged but for the import line, under the drop-in Tuner on real Ray."""

from __future__ import annotations

import os
import shutil

import pytest

from benchmarks.ray_examples import EXAMPLES, run_example

#: How many trials the `--smoke-test` of each makes.
TRIALS = {
    "async_hyperband_example": 20,
    "bayesopt_example": 10,
    "bohb_example": 32,
    "cifar10_pytorch": 1,
    "custom_checkpointing_with_callback": 3,
    "custom_func_checkpointing": 5,
    "hyperband_example": 20,
    "hyperband_function_example": 20,
    "hyperopt_conditional_search_space_example": 10,
    "lightgbm_example": 4,
    "logging_example": 5,
    "mlflow_example": 10,
    "nevergrad_example": 10,
    "optuna_define_by_run_example": 10,
    "optuna_example": 10,
    "optuna_multiobjective_example": 10,
    "pb2_example": 8,
    "pbt_example": 8,
    "pbt_function": 8,
    "tune_basic_example": 10,
    "xgboost_example": 10,
}
#: Trials that fail: `setup_mlflow` of Ray 2.60 takes the trial's id for that of an experiment.
ERRORS = {"mlflow_example": 5}
REFUSED = {
    "ax_example": "AxSearch has outcome_constraints",
    "xgboost_dynamic_resources_example": "ResourceChangingScheduler needs Ray Tune's own controller",
}
#: One of each kind, for all take ten minutes: TUNE_PLATFORM_EXAMPLES=all runs those.
SHORT = ["pbt_function", "custom_func_checkpointing", "logging_example", "xgboost_dynamic_resources_example"]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXAMPLES) if os.environ.get("TUNE_PLATFORM_EXAMPLES") == "all" else SHORT)
def test_an_example_of_ray_tunes_runs_unchanged(name: str) -> None:
    if EXAMPLES[name] and shutil.which("uv") is None:
        pytest.skip("uv brings the library")
    found = run_example(name, here=True)
    if name in REFUSED:
        assert REFUSED[name] in found["error"]
    else:
        assert {key: found.get(key) for key in ("error", "trials", "errors")} == {
            "error": None, "trials": TRIALS[name], "errors": ERRORS.get(name, 0),
        }  # fmt: skip
