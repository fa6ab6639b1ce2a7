"""Ray Tune's own domain objects, turned into ours. Ray is never imported: its objects say what they are."""

from __future__ import annotations

from typing import Any

from tune_platform.errors import SpecError
from tune_platform.space import functions
from tune_platform.space.domains import Categorical, Domain, Float, Function, Grid, Normal


def is_ray_domain(value: Any) -> bool:
    """Tell whether `value` is a search domain of Ray Tune."""
    kind = type(value)
    return kind.__module__.startswith("ray.tune") and hasattr(value, "sampler") and hasattr(value, "sample")


def from_ray(value: Any) -> Domain:
    """Return our domain for one of Ray Tune's. SpecError for a sampler that Ray Tune does not ship."""
    sampler, q = value.get_sampler(), None
    if type(sampler).__name__ == "Quantized":
        sampler, q = sampler.get_sampler(), sampler.q
    shape = type(sampler).__name__.lstrip("_")
    domain = type(value).__name__
    if domain == "Function":
        return Function(value.func)
    if domain == "Categorical":
        return Grid(value.categories) if shape == "Grid" else Categorical(value.categories)
    if domain == "Float" and shape == "Normal":
        return Normal(sampler.mean, sampler.sd, q)
    if domain == "Float" and shape in ("Uniform", "LogUniform"):
        return _float(value.lower, value.upper, shape == "LogUniform", q)
    if domain == "Integer" and shape in ("Uniform", "LogUniform"):
        build = functions.qlograndint if shape == "LogUniform" else functions.qrandint
        return build(value.lower, value.upper, 1 if q is None else q)
    raise SpecError(f"Ray Tune's {domain} with the sampler {type(sampler).__name__} is not supported")


def _float(low: float, high: float, log: bool, q: float | None) -> Float:
    if q is None:
        return functions.loguniform(low, high) if log else functions.uniform(low, high)
    return functions.qloguniform(low, high, q) if log else functions.quniform(low, high, q)
