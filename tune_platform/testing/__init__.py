"""Contract tests for your own parts: subclass one, say how to build the part, and run pytest.

Nothing is loaded before it is used, so that testing a scheduler does not import Optuna.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "BackendContract": "tune_platform.testing.backends",
    "SchedulerContract": "tune_platform.testing.schedulers",
    "SearcherContract": "tune_platform.testing.searchers",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
