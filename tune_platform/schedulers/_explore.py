"""How a population changes a config: perturb, draw anew, or a function of one's own, inside the search space.

`mutations` say which parameters change, each by one of
    None          the parameter's own domain in the search space
    a domain      another range (`uniform(...)`, in a file `{type: float, low: 0, high: 1}`), cut off at the space's
    a list        its values, in this order: a perturbed one moves to a neighbour
    a function    value -> value, or (value, generator) -> value: called instead of all of this
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.protocol.reports import Config
from tune_platform.space import Space
from tune_platform.space.domains import Categorical, Constant, Domain, Float, Function, Int, Normal
from tune_platform.space.encoding import from_unit, to_unit
from tune_platform.space.files import domain_from_dict

#: Draws until a changed config meets the constraints; then the config stays as it was.
_TRIES = 100


class Explorer:
    """Changes configs. `factors` multiply a number (PBT's are 1.2 and 0.8); `resample` is the chance of a new draw.

    Raises SpecError for a mutation that has no meaning; `bind` raises it for a parameter that the space does not have.
    """

    def __init__(
        self,
        name: str,
        mutations: Mapping[str, Any] | None,
        *,
        resample: float,
        factors: Sequence[float],
        whole: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        if mutations is not None and not isinstance(mutations, Mapping):
            raise SpecError(f"{name}: mutations must map parameters to how they change, got {mutations!r}")
        if isinstance(resample, bool) or not isinstance(resample, (int, float)) or not 0 <= resample <= 1:
            raise SpecError(f"{name}: resample (the chance of a new draw) must be from 0 to 1, got {resample!r}")
        if (
            not isinstance(factors, (list, tuple))
            or not factors
            or not all(isinstance(f, (int, float)) and not isinstance(f, bool) and 0 < f < math.inf for f in factors)
        ):
            raise SpecError(f"{name}: factors must be numbers above 0, such as [1.2, 0.8], got {factors!r}")
        if whole is not None and not callable(whole):
            raise SpecError(f"{name}: explore must be a function, config -> config, got {whole!r}")
        self._whole = whole
        self._name, self.given, self.resample, self.factors = name, mutations, resample, tuple(factors)
        self._ways: dict[str, Domain | Callable[..., Any]] = {
            key: _way(f"{name}: mutations.{key}", way) for key, way in (mutations or {}).items() if way is not None
        }
        self._space: Space | None = None
        self._own: dict[str, Domain] = {}  # the domains of the search space
        self._names: list[str] | None = None if mutations is None else list(mutations)

    def bind(self, space: Space) -> None:
        """Take the search space: mutations default to its own parameters, and its constraints hold."""
        self._space = space
        if space.define_by_run:
            return  # its parameters are known only by running it
        self._own = domains = {parameter.name: parameter.domain for parameter in space.parameters()}
        if self.given is None:
            self._names = [key for key, domain in domains.items() if not isinstance(domain, (Constant, Function))]
        for key in self.given or ():
            if key not in domains:
                raise SpecError(
                    f"{self._name}: mutations name {key!r}, which is no parameter of the space"
                    f"{did_you_mean(key, list(domains))}; it has {', '.join(domains) or 'none'}"
                )
            if key in self._ways and _apart(self._ways[key], domains[key]):
                raise SpecError(
                    f"{self._name}: mutations.{key} {self._ways[key]!r} has no value of the space's own, "
                    f"{domains[key]!r}: a config outside of it is never tried"
                )

    def has_continuous(self) -> bool:
        """Whether some parameter of the space may change and is a number of a range."""
        return any(isinstance(self._domain(key), (Float, Int)) for key in self._names or ())

    def continuous(self, config: Config) -> list[str]:
        """Return the parameters of a config that may change and are numbers of a range, by flat name."""
        values = self._values(config)
        names = self._names if self._names is not None else list(values)
        return [key for key in names if key in values and isinstance(self._domain(key), (Float, Int))]

    def unit(self, config: Config) -> list[float]:
        """Return where the continuous parameters of a config lie in their ranges, from 0 to 1 on their own scale."""
        values = self._values(config)
        found = []
        for key in self.continuous(config):
            domain: Any = self._domain(key)  # a mutation's own range may be narrower than where the value lies
            found.append(to_unit(domain, _fit(domain, None, values[key])))
        return found

    def explore(
        self, config: Config, rng: np.random.Generator, *, unit: Mapping[str, float] | None = None
    ) -> tuple[Config, list[str]]:
        """Return a changed config, and what was changed in words; the config itself where no change is allowed.

        `unit`: where parameters that somebody else has chosen lie in their ranges. Raises SpecError where a function
        of one's own for the whole config gives none of the search space.
        """
        changed, said = self._each(config, rng, unit)
        if self._whole is None:
            return changed, said
        before = self._values(changed)
        found = self._whole(copy.deepcopy(dict(changed)))
        if not isinstance(found, Mapping):
            raise SpecError(f"{self._name}: explore must return a config, got {found!r}")
        try:
            values = self._values(self._cut_off(found))
            changed = self._config(found, values, rng)
        except SpecError as error:
            raise SpecError(f"{self._name}: explore gave a config that is not in the search space: {error}") from error
        said += [
            f"{key} {_text(before.get(key))} -> {_text(value)} (by explore)"
            for key, value in values.items()
            if key not in before or before[key] != value
        ]
        return changed, said

    def _cut_off(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a config whose numbers are within their ranges."""
        cut: dict[str, Any] = copy.deepcopy(dict(config))
        for key, domain in self._own.items():
            *outer, last = key.split("/")
            inner: Any = cut
            for name in outer:
                inner = inner.get(name) if isinstance(inner, Mapping) else None
            if isinstance(inner, dict) and last in inner:
                inner[last] = _inside(domain, inner[last])
        return cut

    def _each(
        self, config: Config, rng: np.random.Generator, unit: Mapping[str, float] | None
    ) -> tuple[Config, list[str]]:
        """Change each parameter for itself."""
        values = self._values(config)
        for _ in range(_TRIES):
            changed, said = dict(values), []
            for key in self._names if self._names is not None else list(values):
                if key in values:
                    if unit is not None and key in unit:
                        changed[key], how = self._placed(key, unit[key]), "chosen by the model"
                    else:
                        changed[key], how = self._mutate(key, values[key], rng)
                    if how and changed[key] != values[key]:  # it may be at its end already, or be drawn again
                        said.append(f"{key} {_text(values[key])} -> {_text(changed[key])} ({how})")
            if all(self._contains(key, value) for key, value in changed.items()):
                with suppress(SpecError):  # a constraint
                    return self._config(config, changed, rng), said
        return config, []

    def _values(self, config: Config) -> dict[str, Any]:
        """The parameters' values in a config, by flat name."""
        if self._space is not None:
            return self._space.flatten(config)
        return {key: config[key] for key in self._ways if key in config}

    def _config(self, config: Config, values: Mapping[str, Any], rng: np.random.Generator) -> Config:
        if self._space is None:
            return {**config, **values}
        # What belongs to a branch that is not taken any more is left out, and what the new one needs is drawn.
        return self._space.sample(rng, fixed=values)

    def _domain(self, key: str) -> Domain | Callable[..., Any] | None:
        if key in self._ways:
            return self._ways[key]
        return self._own.get(key)

    def _placed(self, key: str, place: float) -> Any:
        domain: Any = self._domain(key)
        return from_unit(domain, place)

    def _contains(self, key: str, value: Any) -> bool:
        domain = self._own.get(key)
        return domain is None or domain.contains(value)

    def _mutate(self, key: str, value: Any, rng: np.random.Generator) -> tuple[Any, str]:
        """Return another value, cut off at the ends of the search space, and how it was made."""
        changed, how = self._made(key, value, rng)
        return _inside(self._own.get(key), changed), how

    def _made(self, key: str, value: Any, rng: np.random.Generator) -> tuple[Any, str]:
        way = self._domain(key)
        if way is None:  # of a space that is a function: what it is drawn from is not known
            number = isinstance(value, float)
            factor = self.factors[int(rng.integers(len(self.factors)))]
            return (value * factor, f"perturbed x{factor:g}") if number else (value, "")
        if not isinstance(way, Domain):
            return _called(way, value, rng), "by its own function"
        if rng.random() < self.resample:
            return way.sample(rng), "drawn anew"
        if isinstance(way, Categorical):
            return self._neighbour(way, value, rng)
        factor = self.factors[int(rng.integers(len(self.factors)))]
        if isinstance(way, (Float, Int)):
            return _fit(way, value, value * factor), f"perturbed x{factor:g}"
        if isinstance(way, Normal):
            return way.fit(value * factor), f"perturbed x{factor:g}"
        return value, ""

    @staticmethod
    def _neighbour(way: Categorical, value: Any, rng: np.random.Generator) -> tuple[Any, str]:
        """Move by one where the values have an order (all are numbers); else it stays unless it is drawn anew."""
        size = way.size
        ordered = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in way.values)
        if not ordered or size is None or size < 2 or not way.contains(value):
            return value, ""
        at = way.index(value)
        to = min(max(at + (1 if rng.random() < 0.5 else -1), 0), size - 1)
        return (way.at(to), "its neighbour") if to != at else (value, "")


def _inside(domain: Domain | None, value: Any) -> Any:
    """Cut a number off at the ends of a range."""
    if isinstance(domain, (Float, Int)) and isinstance(value, (int, float)) and not domain.contains(value):
        return _fit(domain, None, value)
    return value


def _apart(way: Domain | Callable[..., Any], own: Domain) -> bool:
    """Whether a mutation has not one value that the parameter may take."""
    if isinstance(way, Categorical) and isinstance(own, (Float, Int, Categorical)):
        return not any(own.contains(value) for value in way.values)
    if isinstance(way, (Float, Int)) and isinstance(own, (Float, Int)):
        return way.high < own.low or way.low > own.high
    return False


def _way(where: str, way: Any) -> Domain | Callable[..., Any]:
    if isinstance(way, Domain) or (callable(way) and not isinstance(way, type)):
        return way
    if isinstance(way, (list, tuple)) and way:
        return Categorical(tuple(way))
    if isinstance(way, Mapping):
        return domain_from_dict(way, where)
    raise SpecError(f"{where}: got {way!r}; a domain, a list of values, a function of the value, or null is wanted")


def _called(function: Callable[..., Any], value: Any, rng: np.random.Generator) -> Any:
    try:
        takes = len(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        takes = 1
    return function(value, rng) if takes >= 2 else function(value)


def _fit(domain: Float | Int, before: Any, value: float) -> Any:
    """The value of the domain that is nearest; of counts another than before, unless that is the last."""
    inside = min(max(value, domain.low), domain.high)
    if isinstance(domain, Int):
        steps = round((inside - domain.low) / domain.step)
        if domain.at(min(steps, domain.size - 1)) == before:
            steps += 1 if value > before else -1
        return domain.at(min(max(steps, 0), domain.size - 1))
    if domain.step is None:
        return float(inside)
    return domain.at(round((inside - domain.low) / domain.step))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
