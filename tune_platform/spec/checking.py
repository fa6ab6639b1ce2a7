"""What can be known of a whole spec before a start: what is wrong, and what was perhaps meant otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tune_platform.errors import SpecError
from tune_platform.location import Location, unsafe_for_sqlite, unwritable
from tune_platform.resources import Resources
from tune_platform.space.files import perhaps_parameters
from tune_platform.spec.blocks import check_driver
from tune_platform.spec.trainables import check_growth, check_saves, check_workers, saves_nothing
from tune_platform.spec.values import Problem, spec_error
from tune_platform.tracking import check_trackers

if TYPE_CHECKING:
    from tune_platform.spec.model import SearchSpec

#: Configs that are looked at for what holds of some only.
_SAMPLES = 100


def check(spec: SearchSpec) -> list[str]:
    """Import the trainable, sample the space; return warnings. Raises SpecError with everything that is wrong."""
    problems: list[Problem] = []

    def attempt(key: str, step: Callable[[], object]) -> None:
        try:
            step()
        except SpecError as error:
            problems.append(Problem((key,), str(error)))

    attempt("trainable", spec.load_trainable)
    attempt("storage", lambda: _check_store(Location(spec.storage)))
    attempt("space", lambda: spec.space.check(spec.seed))
    attempt("track", lambda: check_trackers(spec.track))
    attempt("checkpoint.storage", lambda: _check_place(spec.checkpoint.storage))
    if not problems:
        trainable, resources = spec.load_trainable(), spec.resources
        attempt("schedule", lambda: check_saves(trainable, spec.make_scheduler()))
        if isinstance(resources, Resources):
            attempt("resources", lambda: check_workers(trainable, resources.workers))
            attempt("resources", lambda: check_growth(trainable, resources, _samples(spec)))
        else:
            attempt("resources", lambda: _ask_resources(spec))
        searcher = spec.make_searcher()
        attempt("search", lambda: searcher.setup(spec.space, mode=spec.modes, seed=spec.seed))
    if problems:
        raise spec_error(problems, spec.name or "spec")
    return _warnings(spec)


def _samples(spec: SearchSpec) -> Iterator[Mapping[str, Any]]:
    """Return configs that may come: enough that each of a few choices is among them."""
    return (spec.space.example(spec.seed + each) for each in range(_SAMPLES))


def _ask_resources(spec: SearchSpec) -> None:
    """Ask the function that gives the resources of a config for those of one that may come."""
    config = spec.space.example(spec.seed)
    try:
        spec.resources_for(config)
    except SpecError as error:
        raise SpecError(f"of the function, for {config}: {str(error).removeprefix('resources: ')}") from error
    except Exception as error:
        raise SpecError(f"the function raised {error!r} for {config}") from error


def _check_store(storage: Location) -> None:
    if not storage.is_url and (said := unsafe_for_sqlite(storage)):
        raise SpecError(said)
    _check_folder(storage)


def _check_folder(storage: Location) -> None:
    if not storage.is_url and (said := unwritable(storage)):
        raise SpecError(said)


def _check_place(checkpoints: str | None) -> None:
    """Refuse where no checkpoint can be written. The folder is made by the driver, so it must be able to."""
    check_driver(checkpoints)
    if checkpoints:
        _check_folder(Location(checkpoints.removeprefix("file://").removeprefix("local://")))


def _warnings(spec: SearchSpec) -> list[str]:
    found = []
    if isinstance(spec.param_space, Mapping) and not spec.space.parameters():
        found.append("space: has no parameters, so all trials have the same config")
    for name, form in perhaps_parameters(spec.param_space):
        found.append(f"space: {name} is a fixed dict, the same in all trials; for a parameter write {name}: {form}")
    asked = type(getattr(spec.trainable, "_resources", None)).__name__ == "PlacementGroupFactory"
    if asked and "resources" not in spec.model_fields_set:
        found.append("resources: those that Ray Tune's with_resources gave the trainable are not read; give them here")
    kept = spec.checkpoint
    if (kept.every or kept.at_end or kept.keep_best) and saves_nothing(spec.load_trainable()):
        found.append(
            "checkpoint: none is written, for the trainable has no save_checkpoint(directory) and no get_state()"
        )
    scheduler = spec.make_scheduler()
    last = getattr(scheduler, "max", None)
    limit = spec.stop.get(scheduler.resource)
    if last is not None and limit is not None and limit < last:
        found.append(f"stop: {scheduler.resource} {limit:g} ends trials before the scheduler's max {last:g}")
    if spec.trials is not None and spec.trials < len(spec.start_points):
        found.append(f"start_points: {len(spec.start_points)} are given, only {spec.trials} trials will run")
    return found
