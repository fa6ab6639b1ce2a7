"""The functions that build domains, spelled as in Ray Tune."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.space.domains import Categorical, Constant, Float, Function, Grid, Int, Normal
from tune_platform.space.values import check_bounds, divides, finite, list_of, whole


def uniform(low: float, high: float) -> Float:
    """Return the real numbers from `low` to `high`, uniformly."""
    check_bounds("uniform", low, high)
    return Float(low, high)


def loguniform(low: float, high: float) -> Float:
    """Return the real numbers from `low` (above 0) to `high`, uniformly in the logarithm."""
    check_bounds("loguniform", low, high, log=True)
    return Float(low, high, log=True)


def quniform(low: float, high: float, q: float) -> Float:
    """Return the multiples of `q` from `low` to `high`; both bounds must be multiples of `q`."""
    _check_multiples("quniform", low, high, q)
    return Float(low, high, step=q)


def qloguniform(low: float, high: float, q: float) -> Float:
    """Return the multiples of `q` from `low` (above 0) to `high`: a log-uniform draw, rounded."""
    _check_multiples("qloguniform", low, high, q, log=True)
    return Float(low, high, log=True, step=q)


def randint(low: int, high: int) -> Int:
    """Return the whole numbers from `low` to `high - 1`, uniformly: as in Ray Tune, `high` is excluded."""
    return _int("randint", low, high, 1)


def lograndint(low: int, high: int) -> Int:
    """Return the whole numbers from `low` (above 0) to `high - 1`, log-uniformly."""
    return _int("lograndint", low, high, 1, log=True)


def qrandint(low: int, high: int, q: int = 1) -> Int:
    """Return the multiples of `q` between the bounds; `high` is included unless `q` is 1 (as in Ray Tune)."""
    return _int("qrandint", low, high, q)


def qlograndint(low: int, high: int, q: int = 1) -> Int:
    """Return the multiples of `q` between the bounds, log-uniformly; `high` as in `qrandint`."""
    return _int("qlograndint", low, high, q, log=True)


def normal(mean: float = 0.0, sd: float = 1.0) -> Normal:
    """Return a normal distribution; searchers with a model see its quantile, a number from 0 to 1."""
    return Normal(mean, sd)


def qrandn(mean: float, sd: float, q: float) -> Normal:
    """Return a normal distribution rounded to multiples of `q`."""
    return Normal(mean, sd, q)


randn = normal


def choice(values: Iterable[Any]) -> Categorical:
    """Return one of `values`. Values that contain domains are branches: theirs exist only if chosen."""
    return Categorical(list_of("choice", values))


def grid_search(values: Iterable[Any]) -> Grid:
    """Return values that are all to be tried, as a factor of the cross product of all such parameters."""
    return Grid(list_of("grid_search", values))


def constant(value: Any) -> Constant:
    """Return `value` itself, whatever it is."""
    return Constant(value)


def sample_from(func: Callable[..., Any]) -> Function:
    """Return a value computed by `func(config)` from the rest of the config."""
    return Function(func)


def _check_multiples(where: str, low: Any, high: Any, q: Any, log: bool = False) -> None:
    check_bounds(where, low, high, log)
    if finite(where, "q", q) <= 0:
        raise SpecError(f"{where}(q={q!r}): q must be above 0")
    for what, bound in (("low", low), ("high", high)):
        if not divides(q, bound):
            raise SpecError(f"{where}({what}={bound!r}, q={q!r}): {what} must be a multiple of q")


def _int(where: str, low: Any, high: Any, q: Any, log: bool = False) -> Int:
    low, high, q = whole(where, "low", low), whole(where, "high", high), whole(where, "q", q)
    check_bounds(where, low, high, log)
    if q < 1:
        raise SpecError(f"{where}(q={q!r}): q must be 1 or more")
    if q == 1:
        return Int(low, high - 1, log)
    first, last = -(-low // q) * q, high // q * q  # snapped inwards, as in Ray Tune
    if first > last:
        raise SpecError(f"{where}(low={low}, high={high}, q={q}): no multiple of q lies between low and high")
    return Int(first, last, log, q)
