"""Ray Tune's interface on this platform: change the import, keep the script.

    from tune_platform import ray_tune as tune   # was: from ray import tune

`Tuner`, its settings, `ResultGrid` and `run` are ours; every other name (`report`, `uniform`, `Trainable`, ...) is Ray
Tune's own, imported when it is first used. The other way, `as_searcher`, `as_scheduler` and `as_trainable` make parts
of ours that work in Ray Tune's own `Tuner`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_platform.ray_tune.configs import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
    from tune_platform.ray_tune.our_scheduler import as_scheduler
    from tune_platform.ray_tune.our_searcher import as_searcher
    from tune_platform.ray_tune.our_trainable import as_trainable
    from tune_platform.ray_tune.recorder import Recorder
    from tune_platform.ray_tune.result_grid import Result, ResultGrid
    from tune_platform.ray_tune.running import ExperimentAnalysis, run
    from tune_platform.ray_tune.tuner import Tuner

_HOME = {
    "CheckpointConfig": "configs",
    "ExperimentAnalysis": "running",
    "FailureConfig": "configs",
    "Result": "result_grid",
    "Recorder": "recorder",
    "ResultGrid": "result_grid",
    "RunConfig": "configs",
    "TuneConfig": "configs",
    "Tuner": "tuner",
    "as_scheduler": "our_scheduler",
    "as_searcher": "our_searcher",
    "as_trainable": "our_trainable",
    "run": "running",
}
#: What Ray Tune would do itself, in its own way: refused here, by name.
_REFUSED = {
    "run_experiments": "make a Tuner of each experiment",
}

__all__ = [
    "CheckpointConfig",
    "ExperimentAnalysis",
    "FailureConfig",
    "Recorder",
    "Result",
    "ResultGrid",
    "RunConfig",
    "TuneConfig",
    "Tuner",
    "as_scheduler",
    "as_searcher",
    "as_trainable",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _REFUSED:
        raise AttributeError(f"Ray Tune's {name} is not supported here: {_REFUSED[name]}")
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(importlib.import_module("ray.tune"), name)
