"""From a SearchSpec to its file form, as JSON values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from tune_platform.location import Location
from tune_platform.protocol.configs import reference
from tune_platform.resources import Resources
from tune_platform.space.domains import Categorical, Constant, Domain
from tune_platform.space.files import space_to_dict
from tune_platform.space.ray_domains import from_ray, is_ray_domain
from tune_platform.space.tree import When
from tune_platform.space.values import plain, unboxed
from tune_platform.spec.entrypoint import entrypoint_of
from tune_platform.spec.options import OPTIONS, VERSION

if TYPE_CHECKING:
    from tune_platform.spec.model import SearchSpec


def to_dict(spec: SearchSpec) -> dict[str, Any]:
    """Return the file form of `spec`, every key. What only Python can hold becomes {"python": name}."""
    data: dict[str, Any] = {"version": VERSION}
    for option in OPTIONS:
        value: Any = spec
        for part in option.python.split("."):
            value = getattr(value, part)
        form = _FORMS.get(option.python)
        block, _, inner = option.file.partition(".")
        if inner:
            data.setdefault(block, {})[inner] = form(spec) if form else value
        else:
            data[block] = form(spec) if form else value
    data["objective"] = _objective(data["objective"])
    return data


def _objective(block: Mapping[str, Any]) -> Any:
    """Return one objective with its target, or several: a list of metrics with their modes."""
    if len(block["metric"]) == 1:
        return {"metric": block["metric"][0], "mode": block["mode"][0], "target": block["target"]}
    return [{"metric": m, "mode": mode} for m, mode in zip(block["metric"], block["mode"], strict=True)]


def _python(value: Any) -> dict[str, str]:
    named = value if hasattr(value, "__qualname__") else type(value)
    return {"python": f"{named.__module__}:{named.__qualname__}"}


def _warm_start(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value) or None


def _entrypoint(trainable: Any) -> Any:
    return trainable if isinstance(trainable, str) else entrypoint_of(trainable) or _python(trainable)


def _space(spec: SearchSpec) -> dict[str, Any]:
    if spec.space.define_by_run:
        return _python(spec.space.param_space)
    form: dict[str, Any] = space_to_dict(_shown(spec.space.param_space))
    return form


def _shown(value: Any) -> Any:
    """Replace the objects of Python in a space, whose file form could only name them."""
    if is_ray_domain(value):
        value = from_ray(value)
    if isinstance(value, When):
        return When(_shown(value.value), value.conditions)
    if isinstance(value, Categorical):
        return type(value)(tuple(map(_shown, value.values)))
    if isinstance(value, Constant):
        return Constant(_shown(value.value))
    return value if isinstance(value, Domain) else _shown_plain(value, _shown)


def _shown_plain(value: Any, inner: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: inner(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [inner(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return unboxed(value)
    name = reference(value)  # a script's own can only be named: it runs under another name elsewhere
    if value is None or isinstance(value, (bool, int, float, str)) or (name and not name.startswith("__main__:")):
        return value
    return _python(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else _python(value)


def _named(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"name": part}
    if isinstance(part, Mapping):
        return {str(key): _plain(value) for key, value in part.items()}
    # An object of ours knows by which name and options it can be built again; a subclass of it is another thing.
    if "to_spec" in vars(type(part)):
        return dict(_plain(part.to_spec()))
    return _python(part)


def _resources(resources: Any) -> dict[str, Any]:
    if not isinstance(resources, Resources):
        return _python(resources)
    return {
        **{
            f.name: getattr(resources, f.name)
            for f in fields(resources)
            if f.name not in ("accelerator", "grow") or getattr(resources, f.name)
        },
        "custom": dict(resources.custom),
    }


def _storage(location: Location) -> dict[str, str]:
    return {"url" if location.is_url else "path": str(location)}  # a password is not written


#: What has another form in the file than in Python.
_FORMS: Mapping[str, Callable[[SearchSpec], Any]] = {
    "tags": lambda spec: list(spec.tags),
    "track": lambda spec: list(spec.track),
    "trainable": lambda spec: _entrypoint(spec.trainable),
    "metric": lambda spec: spec.metrics,
    "mode": lambda spec: spec.modes,
    "param_space": _space,
    "constraints": lambda spec: [rule if isinstance(rule, str) else _python(rule) for rule in spec.constraints],
    "searcher": lambda spec: _named(spec.searcher),
    "scheduler": lambda spec: _named(spec.scheduler),
    "start_points": lambda spec: [plain(_shown(point)) for point in spec.start_points],
    "replicates": lambda spec: spec.times if spec.times > 1 else spec.replicates,
    "warm_start": lambda spec: _warm_start(spec.warm_start),
    "resources": lambda spec: _resources(spec.resources),
    "stop": lambda spec: dict(spec.stop),
    "checkpoint": lambda spec: spec.checkpoint.model_dump(),
    "budget.cost": lambda spec: spec.budget.cost and spec.budget.cost.model_dump(),
    "retries": lambda spec: dict(spec.retries),
    "storage": lambda spec: _storage(Location(spec.storage)),
    "backend": lambda spec: _named(spec.backend),
}
