"""Thin pieces between this platform and the libraries that people train with.

Each is a module of its own, which needs its library: `from tune_platform.integrations.xgboost import XGBoostCallback`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_platform.integrations.optuna import optuna_objective

_HOME = {"optuna_objective": "optuna"}

__all__ = ["optuna_objective"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
