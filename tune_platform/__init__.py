"""A tuning platform on Ray: say what to try, how to judge it and with how much; the rest is done.

    from tune_platform import SearchSpec, loguniform, run

Names are loaded on first use, so that `import tune_platform` needs neither torch nor ray nor optuna.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_platform.api import load, resume, run
    from tune_platform.callbacks import Callback
    from tune_platform.errors import (
        CheckpointError,
        ExperimentError,
        SearcherError,
        SpecError,
        TunePlatformError,
    )
    from tune_platform.resources import Resources
    from tune_platform.results import Checkpoint, Results, TrialResult
    from tune_platform.schedulers import (
        ASHA,
        FIFO,
        MFPBT,
        MOASHA,
        PASHA,
        PB2,
        PBT,
        AsyncHyperBand,
        FreezeThaw,
        HyperBand,
        MedianStopping,
        Replay,
        SuccessiveHalving,
    )
    from tune_platform.simulation import simulate
    from tune_platform.space import (
        Space,
        choice,
        constant,
        grid_search,
        lograndint,
        loguniform,
        normal,
        qlograndint,
        qloguniform,
        qrandint,
        quniform,
        randint,
        sample_from,
        uniform,
        when,
    )
    from tune_platform.spec import Budget, CheckpointPolicy, SearchSpec, load_spec
    from tune_platform.trainable import Trainable, get_checkpoint, get_context, report

__version__ = "0.1.0"

_HOME = {
    "api": ("load", "resume", "run"),
    "callbacks": ("Callback",),
    "errors": ("CheckpointError", "ExperimentError", "SearcherError", "SpecError", "TunePlatformError"),
    "resources": ("Resources",),
    "simulation": ("simulate",),
    "results": ("Checkpoint", "Results", "TrialResult"),
    "schedulers": (
        "ASHA",
        "FIFO",
        "MFPBT",
        "MOASHA",
        "PASHA",
        "PB2",
        "PBT",
        "AsyncHyperBand",
        "FreezeThaw",
        "HyperBand",
        "MedianStopping",
        "Replay",
        "SuccessiveHalving",
    ),
    "space": (
        "Space",
        "choice",
        "constant",
        "grid_search",
        "lograndint",
        "loguniform",
        "normal",
        "qlograndint",
        "qloguniform",
        "qrandint",
        "quniform",
        "randint",
        "sample_from",
        "uniform",
        "when",
    ),
    "spec": ("Budget", "CheckpointPolicy", "SearchSpec", "load_spec"),
    "trainable": ("Trainable", "get_checkpoint", "get_context", "report"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ASHA",
    "FIFO",
    "MFPBT",
    "MOASHA",
    "PASHA",
    "PB2",
    "PBT",
    "AsyncHyperBand",
    "Budget",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "CheckpointPolicy",
    "ExperimentError",
    "FreezeThaw",
    "HyperBand",
    "MedianStopping",
    "Replay",
    "Resources",
    "Results",
    "SearchSpec",
    "SearcherError",
    "Space",
    "SpecError",
    "SuccessiveHalving",
    "Trainable",
    "TrialResult",
    "TunePlatformError",
    "choice",
    "constant",
    "get_checkpoint",
    "get_context",
    "grid_search",
    "load",
    "load_spec",
    "lograndint",
    "loguniform",
    "normal",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "quniform",
    "randint",
    "report",
    "resume",
    "run",
    "sample_from",
    "simulate",
    "uniform",
    "when",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE])
