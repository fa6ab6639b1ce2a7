"""The parts of a spec that are more than values: taken as users write them, checked by building them once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator

from tune_platform.cluster.address import check_address, check_options
from tune_platform.errors import SpecError
from tune_platform.registry import BACKENDS, SCHEDULERS, SEARCHERS, Registry
from tune_platform.resources import Resources
from tune_platform.spec.entrypoint import ENTRYPOINT
from tune_platform.spec.trainables import check_trainable
from tune_platform.spec.values import check_keys, describe, hint, number, whole

if TYPE_CHECKING:
    from tune_platform.protocol.backend import Backend
    from tune_platform.protocol.scheduler import Scheduler
    from tune_platform.protocol.searcher import Searcher
    from tune_platform.space import Space

#: How often a trial is started again, by what ended it. Mistakes of the user's code are not repeated.
DEFAULT_RETRIES: Mapping[str, int] = {
    "exception": 0,
    "worker_died": 3,
    "timeout": 1,
    "bad_metric": 0,
    "lost_checkpoint": 1,
}
OUT_OF_MEMORY = "out_of_memory"
_FACTOR = re.compile(r"x(\d+(?:\.\d+)?)")
_RAY_NAMES = {"CPU": "cpu", "GPU": "gpu"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> str:
    """Return the name of an experiment, which is also a folder's. Raises SpecError."""
    if name and not _NAME.fullmatch(name):
        raise SpecError(
            f"got {name!r}; up to 100 letters, digits, '.', '_' and '-' are allowed, a letter or digit first"
        )
    return name


def check_samples(value: int) -> int:
    """Return how often the space is sampled; -1 is no limit. Raises SpecError."""
    if value != -1 and value < 1:
        raise SpecError(f"got {value}; must be at least 1, or -1 for no limit")
    return value


def take_trainable(value: Any) -> Any:
    """Return a trainable, or an entrypoint that looks like one. Raises SpecError."""
    if not isinstance(value, str):
        return check_trainable(value)
    if not ENTRYPOINT.fullmatch(value):
        raise SpecError(f'got {value!r}; an entrypoint is "module:name", such as "my_module:train"')
    return value


Name = Annotated[str, AfterValidator(check_name)]
Entrypoint = Annotated[str, AfterValidator(take_trainable)]
Samples = Annotated[int, BeforeValidator(whole), AfterValidator(check_samples)]


def build_space(param_space: Any, constraints: Sequence[Any] = ()) -> Space:
    """Build the space from a dict, a function of a trial, or a Space. Raises SpecError."""
    from tune_platform.space import Space

    if not (isinstance(param_space, (Mapping, Space)) or callable(param_space)):
        raise SpecError(f"got {describe(param_space)}; a dict of parameters or a function of a trial is wanted")
    try:
        return Space(param_space, constraints)
    except RecursionError:
        raise SpecError("is nested too deep, or holds itself") from None


def check_start_points(space: Space, points: Sequence[Any]) -> None:
    """Raise SpecError for the first start point that is not in the space."""
    for index, point in enumerate(points):
        if not isinstance(point, Mapping):
            raise SpecError(f"[{index}]: got {describe(point)}; a (partial) config is wanted, such as {{lr: 0.01}}")
        try:
            space.check_point(point)
        except SpecError as error:
            raise SpecError(f"[{index}]: {error}") from None


def named(value: Any, what: str) -> tuple[Any, dict[str, Any]]:
    """Return a part's name (or the object itself) and its options, from a name, a dict or an object."""
    if not isinstance(value, Mapping):
        return value, {}
    options = dict(value)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise SpecError(f"the {what} has no name; write for example {{name: {_EXAMPLES[what]}}}")
    return name, options


_EXAMPLES = {"searcher": "tpe, seed: 7", "scheduler": "asha, max: 27", "backend": "ray, num_cpus: 4"}


def build_searcher(value: Any) -> Searcher:
    """Build a searcher from a name, {"name": ..., options}, a class or an object. Raises SpecError."""
    return cast("Searcher", _built(SEARCHERS, value))


def build_scheduler(value: Any) -> Scheduler:
    """Build a scheduler from a name, {"name": ..., options}, a class or an object. Raises SpecError."""
    return cast("Scheduler", _built(SCHEDULERS, value))


def build_backend(value: Any) -> Backend:
    """Build a backend from a name, {"name": ..., options}, a class or an object. Raises SpecError."""
    return cast("Backend", _built(BACKENDS, value))


def _built(registry: Registry, value: Any) -> Any:
    name, options = named(value, registry.what)
    try:
        return registry.build(name, **options)
    except SpecError:
        raise
    except (TypeError, ValueError) as error:  # what the part itself did not foresee, such as text for a number
        shown = ", ".join(f"{key}: {option!r}" for key, option in options.items())
        raise SpecError(f"{registry.what} {name!r} cannot be built with {shown or 'no options'}: {error}") from error


def take_resources(value: Any) -> Resources | Callable[[Mapping[str, Any]], Any]:
    """Take Resources, a dict of its fields (Ray's CPU and GPU too), or a function. Raises SpecError."""
    if type(value).__name__ == "PlacementGroupFactory":
        raise SpecError(f"got Ray Tune's {value!r}; write {_of_bundles(value)}")
    if isinstance(value, Resources) or (callable(value) and not isinstance(value, type)):
        return value
    if not isinstance(value, Mapping):
        raise SpecError(f"got {describe(value)}; keys and values are wanted, such as {{cpu: 2, gpu: 0.5}}")
    known = [field.name for field in fields(Resources)]
    given = {_RAY_NAMES.get(key, str(key)): amount for key, amount in value.items()}
    for key in given:
        if key not in known:
            own = f"a resource of your own is written custom: {{{key}: {given[key]!r}}}"
            raise SpecError(f"unknown key {key!r}{hint(key, known)}; known: {', '.join(known)}; {own}")
    taken: dict[str, Any] = {**given}
    for key in ("cpu", "gpu"):
        if key in given:
            taken[key] = _prefixed(key, number, given[key])
    if "workers" in given:
        taken["workers"] = _prefixed("workers", whole, given["workers"])
    if "custom" in given:
        if not isinstance(given["custom"], Mapping):
            raise SpecError(f"custom: got {describe(given['custom'])}; names and amounts are wanted")
        taken["custom"] = {str(k): _prefixed(f"custom.{k}", number, v) for k, v in given["custom"].items()}
    return Resources(**taken)


def _of_bundles(factory: Any) -> str:
    """Return what to write for Ray Tune's bundles: the first is the trial's own, each other one a worker's."""
    bundles = [dict(bundle) for bundle in getattr(factory, "bundles", ())]
    bundle = bundles[-1] if bundles else {}
    parts = [f"{_RAY_NAMES[key]}={bundle[key]:g}" for key in _RAY_NAMES if key in bundle]
    custom = {key: amount for key, amount in bundle.items() if key not in _RAY_NAMES}
    parts += [f"custom={custom}"] if custom else []
    workers = len(bundles) - (len(bundles) > 1 and bundles[0] != bundle)
    parts += [f"workers={workers}, strategy={factory.strategy!r}"] if workers > 1 else []
    return f"Resources({', '.join(parts)})"


def take_retries(value: Any) -> dict[str, Any]:
    """Take one number for all causes, or numbers by cause beside the defaults. Raises SpecError.

    That of `out_of_memory` is that of `worker_died` where it is missing, and may be {times, memory}.
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(DEFAULT_RETRIES, _not_negative(value))
    check_keys(value, [*DEFAULT_RETRIES, OUT_OF_MEMORY])
    takes = {OUT_OF_MEMORY: _more_memory}
    return {
        **DEFAULT_RETRIES,
        **{cause: _prefixed(cause, takes.get(cause, _not_negative), times) for cause, times in value.items()},
    }


def times_of(retries: Mapping[str, Any]) -> dict[str, int]:
    """Return how often a trial is tried again, by cause."""
    return {cause: times["times"] if isinstance(times, Mapping) else times for cause, times in retries.items()}


def memory_factor(retries: Mapping[str, Any]) -> float:
    """Return what a trial's memory is multiplied by each time it has run out."""
    told = retries.get(OUT_OF_MEMORY)
    return float(told["memory"].removeprefix("x")) if isinstance(told, Mapping) else 1.0


def _more_memory(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        value = {"times": value}
    check_keys(value, ["times", "memory"])
    times = _prefixed("times", _not_negative, value.get("times", DEFAULT_RETRIES["worker_died"]))
    return {"times": times, "memory": _prefixed("memory", take_factor, value.get("memory", "x1"))}


def take_factor(value: Any) -> str:
    """Take what the memory of a trial is multiplied by, such as "x1.5". Raises SpecError."""
    found = _FACTOR.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 1 <= float(found[1]) <= 100:
        raise SpecError(f'got {describe(value)}; a factor from x1 to x100 is wanted, such as "x1.5"')
    return str(value)


def take_backend(value: Any) -> Any:
    """Take a backend's name, {"name": ..., options}, or an object. Nothing is started. Raises SpecError."""
    name, options = named(value, "backend")
    if isinstance(name, str):
        BACKENDS.check_options(name, options)
        if options.get("address") is not None:
            check_address(options["address"])
        for key in ("num_cpus", "num_gpus"):
            if options.get(key) is not None and _prefixed(key, number, options[key]) < 0:
                raise SpecError(f"{key}: got {options[key]!r}; must not be negative")
        if name == "ray":
            check_options(options)
    elif not isinstance(name, type):
        BACKENDS.check(name, BACKENDS.names())
    return value


def _not_negative(value: Any) -> int:
    taken = whole(value)
    if taken < 0:
        raise SpecError(f"got {taken}; must be at least 0")
    return taken


def _prefixed(key: str, take: Callable[[Any], Any], value: Any) -> Any:
    try:
        return take(value)
    except SpecError as error:
        raise SpecError(f"{key}: {error}") from None
