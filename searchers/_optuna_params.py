"""Our domains as Optuna's distributions, and values across that border.

| domain                          | Optuna sees                                                       |
|---------------------------------|-------------------------------------------------------------------|
| Float                           | a float, logarithmic or not                                       |
| Float with a step               | the number of the step, an int: exact, where 0 + 3 * 0.1 is not   |
| Float with a step, logarithmic  | a logarithmic float, rounded on the way out                       |
| Int, logarithmic with step 1    | an int                                                            |
| Int, logarithmic with a step    | a logarithmic float, rounded on the way out                       |
| Normal                          | its quantile, a float between 0 and 1: the prior is then uniform  |
| Categorical, Grid               | the values, if plain and distinct; else their numbers             |
"""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from tune_platform.errors import SearcherError
from tune_platform.space import Categorical, Domain, Float, Int, Normal

#: quantiles this close to 0 and 1 (six standard deviations) are the farthest that are suggested
_TAIL = 1e-9


def distribution_of(domain: Domain) -> BaseDistribution:
    """Return the distribution that Optuna is shown for a domain."""
    match domain:
        case Float(step=None):
            return FloatDistribution(domain.low, domain.high, log=domain.log)
        case Float(log=False):
            return IntDistribution(0, (domain.size or 1) - 1)
        case Float():
            return FloatDistribution(domain.low, domain.high, log=True)
        case Int(log=True, step=step) if step > 1:
            return FloatDistribution(domain.low, domain.high, log=True)
        case Int():
            return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
        case Normal():
            return FloatDistribution(_TAIL, 1 - _TAIL)
        case Categorical():
            return CategoricalDistribution(domain.values if _plain(domain) else tuple(range(domain.size)))
    raise SearcherError(f"Optuna cannot suggest {domain}")


def suggest(trial: Trial, name: str, domain: Domain) -> Any:
    """Have Optuna suggest a value of the domain."""
    distribution = distribution_of(domain)
    match distribution:
        case FloatDistribution():
            raw: Any = trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
        case IntDistribution():
            raw = trial.suggest_int(
                name, distribution.low, distribution.high, log=distribution.log, step=distribution.step
            )
        case CategoricalDistribution():
            raw = trial.suggest_categorical(name, distribution.choices)
    return from_raw(domain, raw)


def from_raw(domain: Domain, raw: Any) -> Any:
    """Return the domain's value for what Optuna suggested."""
    match domain:
        case Float(step=None):
            return float(raw)
        case Float(log=False):
            return domain.at(int(raw))
        case Float():
            return domain.cast(raw)
        case Int():
            return domain.at(min(max(round((raw - domain.low) / domain.step), 0), domain.size - 1))
        case Normal():
            return domain.at_quantile(float(raw))
        case Categorical():
            return domain.cast(raw) if _plain(domain) else domain.at(int(raw))
    raise SearcherError(f"Optuna cannot suggest {domain}")


def to_raw(domain: Domain, value: Any) -> Any:
    """Return what Optuna would have suggested for a value of the domain."""
    match domain:
        case Float(step=None):
            return float(value)
        case Float(log=False):
            return domain.index(value)
        case Float():
            return float(value)
        case Int(log=True, step=step) if step > 1:
            return float(value)
        case Normal():
            return min(max(domain.quantile_of(float(value)), _TAIL), 1 - _TAIL)
        case Categorical():
            return domain.cast(value) if _plain(domain) else domain.index(value)
    return domain.cast(value)


def is_numbered(domain: Domain) -> bool:
    """Tell whether Optuna is shown the numbers of the values in place of the values."""
    return isinstance(domain, Categorical) and not _plain(domain)


def _plain(domain: Categorical) -> bool:
    """Tell whether Optuna can hold the values and tell them apart (to it, 1, 1.0 and True are one)."""
    return len(set(map(_key, domain.values))) == len(domain.values) and all(
        value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
        for value in domain.values
    )


def _key(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value
