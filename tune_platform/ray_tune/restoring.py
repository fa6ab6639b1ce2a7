"""`Tuner.restore` as Ray Tune has it, from a folder alone: the spec that an experiment was begun with as kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.location import Location
from tune_platform.ray_tune.mutations import with_mutated
from tune_platform.space.files import space_from_dict
from tune_platform.spec import SearchSpec
from tune_platform.spec.parts import build_scheduler
from tune_platform.spec.reading import arguments_of, document_of
from tune_platform.spec.values import live_objects
from tune_platform.store.sql import open_store

#: What stands for the trainable while the rest is read.
_TRAINABLE = "restored:trainable"


def stored_spec(
    name: str, storage: str, trainable: Any, param_space: Any, resources: Callable[[Any], Any]
) -> SearchSpec:
    """Return the spec of the experiment `name`, with this trainable and, where it is given, this space.

    `resources` tells what a trainable asks for, where that is a function. Raises SpecError where the spec held objects
    that only Python can hold, which are not kept, and ExperimentError where there is no experiment.
    """
    with open_store(Location(storage)) as store, store.open(name, readonly=True) as experiment:
        data = {**experiment.spec, "entrypoint": _TRAINABLE}
    given: dict[str, Any] = {"trainable": trainable, "storage": storage}
    if "python" in (data.get("resources") or {}):
        data["resources"], given["resources"] = {}, resources(trainable)
    if param_space is not None:
        data["space"] = {}
    if live := live_objects(data):
        raise SpecError(
            f"Tuner.restore: {', '.join(live)} cannot be kept on disk; give what the first Tuner was given: "
            + (
                "param_space=..."
                if all(each.startswith("space") for each in live)
                else "param_space=..., tune_config=..., run_config=..."
            )
        )
    if param_space is not None:
        # Read without its space, which the scheduler's mutations may need.
        schedule = data.pop("schedule", None) or {"name": "fifo"}
        ways = schedule.get("mutations", {})
        mutations = {name: space_from_dict(way) if isinstance(way, Mapping) else way for name, way in ways.items()}
        given |= {"param_space": with_mutated(param_space, mutations), "scheduler": build_scheduler(schedule)}
    return SearchSpec(**{**arguments_of(*document_of(data)), **given})
