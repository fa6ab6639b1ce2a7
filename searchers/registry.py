"""Searchers by name: the built-in ones, and those of installed packages.

A package offers its searchers as entry points of the group `tune_platform.searchers`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, cast

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.protocol.searcher import Searcher
from tune_platform.searchers._protocol import check_searcher
from tune_platform.searchers.grid import GridSearcher
from tune_platform.searchers.random import RandomSearcher

GROUP = "tune_platform.searchers"
#: the names that stand for a sampler of Optuna
OPTUNA_SAMPLERS = ("tpe", "gp", "cmaes", "nsgaii", "qmc")


def make_searcher(search: str | Any, **kwargs: Any) -> Searcher:
    """Return a searcher: of a name with its arguments, of a searcher class, or the object itself.

    A sampler object of Optuna is wrapped. SpecError, with the nearest known word, for unknown names
    and arguments, and with what to change for a searcher of the first protocol.
    """
    return check_searcher(_make(search, kwargs), names)


def _make(search: str | Any, kwargs: dict[str, Any]) -> Any:
    if isinstance(search, str):
        return _build(_factory(search), search, kwargs)
    if isinstance(search, type):
        return _build(search, search.__name__, kwargs)
    if hasattr(search, "sample_relative") and hasattr(search, "sample_independent"):  # Optuna's BaseSampler
        from tune_platform.searchers.optuna import OptunaSearcher

        return OptunaSearcher(search, **kwargs)
    if kwargs:
        raise SpecError(f"arguments {sorted(kwargs)} cannot be given to a searcher that is built already")
    return search


def names() -> list[str]:
    """Return every name that `make_searcher` knows."""
    own = ["random", "grid", "optuna", *OPTUNA_SAMPLERS]
    return own + sorted({entry.name for entry in entry_points(group=GROUP)} - set(own))


def _factory(name: str) -> Callable[..., Any]:
    if name == "random":
        return RandomSearcher
    if name == "grid":
        return GridSearcher
    if name == "optuna" or name in OPTUNA_SAMPLERS:
        from tune_platform.searchers.optuna import OptunaSearcher

        return OptunaSearcher if name == "optuna" else lambda **kwargs: OptunaSearcher(name, **kwargs)
    for entry in entry_points(group=GROUP, name=name):
        return cast(Callable[..., Any], entry.load())
    raise SpecError(f"there is no searcher {name!r}{did_you_mean(name, names())}; there are {', '.join(names())}")


def _build(factory: Callable[..., Any], name: str, kwargs: dict[str, Any]) -> Any:
    parameters = inspect.signature(factory).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in kwargs:
        if key not in parameters and not open_ended:
            known = list(parameters)
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise SpecError(f"searcher {name!r} has no argument {key!r}{did_you_mean(key, known)}; {takes}")
    try:
        return factory(**kwargs)
    except TypeError as error:
        raise SpecError(f"searcher {name!r}: {error}") from error
