"""The spec of a search: `SearchSpec` from Python, `load_spec` from a YAML file.

    spec = SearchSpec(
        trainable=train, param_space={"lr": loguniform(1e-5, 1e-1)}, metric="val_loss", mode="min",
        searcher="tpe", scheduler={"name": "asha", "max": 27}, budget=Budget(trials=64, time="1h"),
    )

What does not belong here: anything that runs.
"""

from tune_platform.resources import Resources
from tune_platform.spec.blocks import Budget, CheckpointPolicy, Cost
from tune_platform.spec.entrypoint import load_entrypoint
from tune_platform.spec.file import json_schema
from tune_platform.spec.model import SearchSpec
from tune_platform.spec.options import NOT_IN_FINGERPRINT, OPTIONS
from tune_platform.spec.sources import ENVIRONMENT, explain, load_spec, resolve

__all__ = [
    "ENVIRONMENT",
    "NOT_IN_FINGERPRINT",
    "OPTIONS",
    "Budget",
    "CheckpointPolicy",
    "Cost",
    "Resources",
    "SearchSpec",
    "explain",
    "json_schema",
    "load_entrypoint",
    "load_spec",
    "resolve",
]
