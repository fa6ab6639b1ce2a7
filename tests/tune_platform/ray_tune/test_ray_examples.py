"""Example files that Ray Tune ships, unchanged but for the import line, under the drop-in Tuner on real Ray."""

from __future__ import annotations

import os
import shutil

import pytest

from benchmarks.ray_examples import EXAMPLES, run_example, run_together

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
WHOLE = os.environ.get("TUNE_PLATFORM_EXAMPLES") == "all"
#: Those that run as the project is installed, and those that libraries are brought for.
GROUPS = {"installed": [name for name in EXAMPLES if not EXAMPLES[name]],
          "brought": [name for name in EXAMPLES if EXAMPLES[name]]}  # fmt: skip
#: How many trials the short form makes where it is not two: grids, two searches, one sample.
FEW = {"cifar10_pytorch": 1, "lightgbm_example": 4, "mlflow_example": 4, "tune_basic_example": 4}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("group", GROUPS)
def test_every_example_runs_in_a_short_form(group: str, here: bool) -> None:
    if group == "brought" and shutil.which("uv") is None:
        pytest.skip("uv brings the libraries")
    found = run_together(GROUPS[group], here=here, seconds=850)
    assert list(found) == GROUPS[group]
    for name, one in found.items():
        if here and name in REFUSED:
            assert REFUSED[name] in one["error"]
        elif here or name not in REFUSED:
            assert (name, one["error"], one["trials"]) == (name, None, FEW.get(name, 2))
            assert one["errors"] <= (2 if name in ERRORS else 0), name


@pytest.mark.slow
@pytest.mark.skipif(not WHOLE, reason="all of them take ten minutes")
@pytest.mark.parametrize("name", list(EXAMPLES))
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
