"""Spaces written as a function of a trial, in Optuna's manner: the code that asks for a value defines it."""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.space.domains import Categorical, Domain, Float, Int
from tune_platform.space.values import unboxed

Pick = Callable[[str, Domain], Any]
#: How often a function is run to learn which names it may ask for.
_RUNS = 100


class SpaceTrial:
    """What a define-by-run function is given: `suggest_float`, `suggest_int`, `suggest_categorical`."""

    def __init__(self, pick: Pick) -> None:
        self._pick = pick
        self._domains: dict[str, Domain] = {}
        self._params: dict[str, Any] = {}

    @property
    def params(self) -> dict[str, Any]:
        """The values suggested so far."""
        return dict(self._params)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Suggest a number from `low` to `high`, both included."""
        return self._suggest(name, Float(low, high, log, step))  # type: ignore[no-any-return]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Suggest a whole number from `low` to `high`, both included."""
        return self._suggest(name, Int(low, high, log, step))  # type: ignore[no-any-return]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Suggest one of `choices`."""
        return self._suggest(name, Categorical(tuple(choices)))

    def _suggest(self, name: str, domain: Domain) -> Any:
        if name not in self._params:
            self._domains[name] = domain
            self._params[name] = self._pick(name, domain)
        elif self._domains[name] != domain:
            raise SpecError(f"{name!r} was suggested as {self._domains[name]} and again as {domain} in one trial")
        return self._params[name]


def run(function: Callable[[SpaceTrial], Any], pick: Pick) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the function once; return the config and the parameters that it asked for.

    The config is what the function returned, and the parameters that are not in there by their names, as in Ray Tune.
    Raises SpecError for an error in the function, with its last line.
    """
    trial = SpaceTrial(pick)
    name = getattr(function, "__qualname__", function)
    try:
        returned = function(trial)
    except SpecError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
        raise SpecError(f"the space function {name} failed: {said}") from error
    if returned is None:
        return trial.params, trial.params
    if not isinstance(returned, Mapping):
        if inspect.iscoroutine(returned):
            returned.close()
        raise SpecError(f"the space function {name} must return a dict or None, seen {returned!r}")
    config = unboxed(dict(returned))
    there = flatten_names(config).keys() | config.keys()
    return {**config, **{name: value for name, value in trial.params.items() if name not in there}}, trial.params


class Point(NamedTuple):
    """A start point of a function: the parameters' values by name, and the rest, which is the config's as it is."""

    values: dict[str, Any]
    constants: dict[str, Any]


def read_point(
    function: Callable[[SpaceTrial], Any], point: Mapping[str, Any], sample: Callable[[Domain], Any]
) -> Point:
    """Tell what in a (partial) config is a parameter, by running the function with other values of those left out.

    Raises SpecError for a value that no run allows, and for a name that looks like one of a parameter.
    """
    flat = flatten_names(point)
    values: dict[str, Any] = {}
    refused: dict[str, Domain] = {}
    known: set[str] = set()

    def pick(name: str, domain: Domain) -> Any:
        known.add(name)
        if name not in flat:
            return sample(domain)
        if not domain.contains(flat[name]):
            refused[name] = domain
            return sample(domain)
        values[name] = domain.cast(flat[name])
        return values[name]

    returned: set[str] = set()
    for _ in range(_RUNS):
        config, _params = run(function, pick)
        returned |= flatten_names(config).keys()
        if values.keys() == flat.keys():
            break
    for name, domain in refused.items():
        if name not in values:
            raise SpecError(f"{name}={flat[name]!r} is not in {domain}")
    constants = {name: value for name, value in flat.items() if name not in values}
    for name in constants.keys() - returned:
        if hint := did_you_mean(name, known - flat.keys()):
            raise SpecError(f"there is no parameter {name!r} in the space{hint}")
    return Point(values, constants)


def with_constants(config: dict[str, Any], constants: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with the constants of a start point, by flat name, each at the place that it has in there."""
    config = copy.deepcopy(config)
    for name, value in constants.items():
        *above, last = [name] if name in point else name.split("/")
        level = config
        for part in above:
            inner = level.get(part)
            level[part] = inner if isinstance(inner, dict) else {}
            level = level[part]
        level[last] = value
    return config


def values_of(function: Callable[[SpaceTrial], Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Find the parameters' values in a config by their names, for a start point."""

    def pick(name: str, domain: Domain) -> Any:
        if name not in flat:
            return domain.grid(1)[0]  # only to get on: it is left out of the answer
        if not domain.contains(flat[name]):
            raise SpecError(f"{name}={flat[name]!r} is not in {domain}")
        asked.add(name)
        return domain.cast(flat[name])

    flat = flatten_names(config)
    asked: set[str] = set()
    _, params = run(function, pick)
    return {name: value for name, value in params.items() if name in asked}


def flatten_names(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dict as one level, the names joined by "/"."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten_names(value, f"{name}/"))
        else:
            flat[name] = value
    return flat
