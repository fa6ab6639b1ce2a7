"""Spaces written as a function of a trial, in Optuna's manner: the code that asks for a value defines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.space.domains import Categorical, Domain, Float, Int

Pick = Callable[[str, Domain], Any]


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

    The config is what the function returned, or the parameters when it returned None.
    """
    trial = SpaceTrial(pick)
    returned = function(trial)
    if returned is None:
        return trial.params, trial.params
    if not isinstance(returned, Mapping):
        name = getattr(function, "__qualname__", function)
        raise SpecError(f"the space function {name} must return a dict or None, seen {returned!r}")
    return dict(returned), trial.params


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
