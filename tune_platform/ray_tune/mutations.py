"""What Ray Tune's population schedulers mutate, as mutations and as parameters of ours.

Ray Tune mutates whatever `hyperparam_mutations` names: parameters of the space, constants of it, and names that it does
not have, whose first value is then drawn from the mutation. Here only parameters are mutated, so these become some.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tune_platform.errors import SpecError
from tune_platform.space import Categorical, Domain, uniform
from tune_platform.space.ray_domains import from_ray, is_ray_domain


def mutations_of(scheduler: Any) -> dict[str, Any]:
    """Return what PBT or PB2 mutates, and how, by flat name ("optimizer/lr"); nothing for any other scheduler.

    Raises SpecError for a function that needs arguments.
    """
    kind = type(scheduler).__name__
    if kind == "PB2":
        return {name: uniform(*map(float, ends)) for name, ends in _flat(scheduler._hyperparam_bounds, "")}
    if kind == "PopulationBasedTraining":
        return {name: _mutation(name, way) for name, way in _flat(scheduler._hyperparam_mutations, "")}
    return {}


def with_mutated(space: Mapping[str, Any], mutations: Mapping[str, Any]) -> dict[str, Any]:
    """Return the space with a parameter for each mutation: what was a constant starts with that value."""
    made = dict(space)
    for name, way in mutations.items():
        *outer, last = name.split("/")
        inside = made
        for key in outer:
            inside[key] = inside = dict(inside.get(key) or {})
        if last not in inside:
            inside[last] = _first(way)
        elif not (isinstance(inside[last], (Domain, Mapping)) or is_ray_domain(inside[last])):
            inside[last] = Started(inside[last])
    return made


@dataclass(frozen=True, slots=True)
class Started(Domain):
    """A parameter whose first value is given (or drawn by `draws`), and whose later ones only a mutation knows."""

    start: Any = None
    draws: Callable[[], Any] | None = None
    kind: ClassVar[str] = "function"

    @property
    def size(self) -> int:
        """One: a searcher has no choice."""
        return 1

    def sample(self, rng: np.random.Generator) -> Any:
        """Return the first value."""
        return self.start if self.draws is None else self.draws()

    def contains(self, value: Any) -> bool:
        """Return True: a mutation may give anything."""
        return True

    def at(self, index: int) -> Any:
        """Return the first value."""
        return self.start

    def index(self, value: Any) -> int:
        """Return 0."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Return what is shown of it."""
        return {"type": self.kind, "name": f"starts at {self.start!r}, then mutated"}


class Drawn:
    """A mutation that Ray Tune writes as a function without arguments: one in four values is drawn by it anew.

    The others are the old one times 1.2 or 0.8. It draws from generators of its own, so that a resumed search draws
    other values than an uninterrupted one would have.
    """

    def __init__(self, draws: Callable[[], Any], resample: float = 0.25) -> None:
        self.draws, self._resample = draws, resample

    def __call__(self, value: Any, rng: Any) -> Any:
        """Return what a value becomes; `rng` is the scheduler's generator."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or rng.random() < self._resample:
            return self.draws()
        changed = value * (1.2 if rng.random() < 0.5 else 0.8)
        return round(changed) if isinstance(value, int) else changed


def _flat(mutations: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, way in mutations.items():
        if isinstance(way, Mapping):
            yield from _flat(way, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", way


def _mutation(name: str, way: Any) -> Any:
    if is_ray_domain(way):
        return from_ray(way)
    if not callable(way) or hasattr(way, "sample"):
        return way
    draws: Callable[[], Any] = way
    try:
        inspect.signature(draws).bind()
    except TypeError as error:
        raise SpecError(
            f"scheduler: hyperparam_mutations[{name!r}] must be a function that is called without arguments: {error}"
        ) from None
    except ValueError:  # nobody knows what it takes
        pass
    return Drawn(draws)


def _first(way: Any) -> Domain:
    """Return the parameter for a name that the space lacks: it is drawn as the mutation draws."""
    if isinstance(way, Domain):
        return way
    return Started(draws=way.draws) if isinstance(way, Drawn) else Categorical(tuple(way))
