"""A space of ours as one of Ray Tune's, for its searchers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.space import Categorical, Constant, Domain, Float, Int, Normal, Space
from tune_platform.space.ray_domains import from_ray, is_ray_domain
from tune_platform.space.values import unboxed


def space_for_ray(space: Space, *, domains: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the ranges of a space as Ray Tune's, and its constants, both nested as the space is.

    Raises SpecError for what Ray Tune's searchers cannot express: conditions, functions, grids, constraints. With
    `domains` False, any range is refused: the searcher has a space of its own.
    """
    if space.define_by_run or space.conditional:
        raise SpecError("Ray Tune's searchers take no conditional space; give it to the searcher itself")
    if space.constraints:
        raise SpecError("Ray Tune's searchers know nothing of constraints; use one of ours")
    given = space.param_space
    return _parts(given if isinstance(given, Mapping) else {}, "", domains)


def merged(fixed: Mapping[str, Any], suggested: Mapping[str, Any]) -> dict[str, Any]:
    """Return a suggestion with the constants beside it, with Python's own numbers."""
    config = dict(fixed)
    for name, value in suggested.items():
        below = config.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            config[name] = merged(below, value)
        else:
            config[name] = unboxed(value)
    return config


def _parts(given: Mapping[str, Any], where: str, domains: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    ranges: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            below, constants = _parts(value, f"{where}{name}/", domains)
            ranges.update({name: below} if below else {})
            fixed.update({name: constants} if constants or not below else {})
        elif isinstance(value, Constant):
            fixed[name] = value.value
        elif isinstance(value, Domain) or is_ray_domain(value):
            if not domains:
                raise SpecError(f"it has a space of its own; {where}{name} cannot be searched beside it")
            ranges[name] = _range(f"{where}{name}", from_ray(value) if is_ray_domain(value) else value)
        else:
            fixed[name] = value
    return ranges, fixed


def _range(name: str, domain: Domain) -> Any:
    from ray import tune

    if isinstance(domain, Float):
        if domain.step is None:
            return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)
        return (tune.qloguniform if domain.log else tune.quniform)(domain.low, domain.high, domain.step)
    if isinstance(domain, Int):
        if domain.step != 1:
            return (tune.qlograndint if domain.log else tune.qrandint)(domain.low, domain.high, domain.step)
        return (tune.lograndint if domain.log else tune.randint)(domain.low, domain.high + 1)
    if isinstance(domain, Normal):
        ends = (domain.mean, domain.sd)
        return tune.randn(*ends) if domain.step is None else tune.qrandn(*ends, domain.step)
    if isinstance(domain, Categorical) and not any(isinstance(value, (Domain, Mapping)) for value in domain.values):
        return tune.choice(list(domain.values))
    raise SpecError(f"{name}: Ray Tune's searchers cannot search {domain}; use one of ours")
