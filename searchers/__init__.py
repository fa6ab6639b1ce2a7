"""Searchers: what to try next. Each asks and tells over `tune_platform.space`; none knows a scheduler.

    searcher = make_searcher("tpe", n_startup_trials=20)

`OptunaSearcher` is loaded when it is first used, for Optuna takes a while to import.
"""

from typing import TYPE_CHECKING, Any

from tune_platform.protocol.searcher import PastTrial, Searcher, Suggestion
from tune_platform.protocol.seeds import rng
from tune_platform.registry import make_searcher
from tune_platform.searchers.grid import GridSearcher
from tune_platform.searchers.random import RandomSearcher

if TYPE_CHECKING:
    from tune_platform.searchers.optuna import OptunaSearcher

__all__ = [
    "GridSearcher",
    "OptunaSearcher",
    "PastTrial",
    "RandomSearcher",
    "Searcher",
    "Suggestion",
    "make_searcher",
    "rng",
]


def __getattr__(name: str) -> Any:
    if name == "OptunaSearcher":
        from tune_platform.searchers.optuna import OptunaSearcher

        return OptunaSearcher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
