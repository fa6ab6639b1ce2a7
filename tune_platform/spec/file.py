"""The keys of a spec file: strict and versioned. JSON Schema for editors comes from these models.

`reading` builds a SearchSpec from them, `writing` gives them back; `docs/spec.md` describes every key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from tune_platform.errors import SpecError
from tune_platform.spec.blocks import Cost
from tune_platform.spec.options import OPTIONS, Duplicates, Shared
from tune_platform.spec.parts import Entrypoint, Samples, take_factor, take_retries
from tune_platform.spec.values import Above, Amount, Count, Moment, Natural, Number, Seconds, Strict


def _short(key: str, kind: type = str) -> Callable[[Any], Any]:
    """A block may be written as the text (or number) of its main key: `schedule: asha`."""
    return lambda value: {key: value} if isinstance(value, kind) else value


class Objective(Strict):
    """One metric and where it should go; the search ends once it has reached `target`."""

    metric: str = Field(min_length=1, examples=["metric: val_loss"])
    mode: Literal["min", "max"] = Field(examples=["mode: min"])
    target: Number | None = None


class Search(Strict):
    """The searcher; other keys are its options. Without a name one is chosen."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None
    seed: Natural = 0
    initial: list[dict[str, Any]] = Field(default_factory=list)
    prefetch: Natural | None = None
    duplicates: Duplicates | None = None
    replicates: Count | None = None
    warm_start: list[str] | dict[str, Any] | None = None


class Schedule(Strict):
    """The scheduler; other keys are its options. Without a name one is chosen."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None


class Limits(Strict):
    """When the search ends, and how wide it runs."""

    trials: Count | None = None
    num_samples: Samples | None = None
    time: Seconds | None = None
    deadline: Moment | None = None
    gpu_hours: Above | None = None
    cost: Cost | None = None
    failures: Natural | None = None
    concurrency: Count | None = None


class Storage(Strict):
    """A directory, or the URL of a database; one of the two."""

    path: str | None = None
    url: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Storage:
        if self.path and self.url:
            raise SpecError("path and url are both given; give one")
        return self


class BackendBlock(Strict):
    """Where trials run; other keys are the options of a backend that a package provides."""

    model_config = ConfigDict(extra="allow")

    name: str = "ray"
    address: str | None = None
    num_cpus: Amount | None = None
    num_gpus: Amount | None = None


class ResourcesBlock(Strict):
    """What one trial holds."""

    cpu: Amount = 1.0
    gpu: Amount = 0.0
    custom: dict[str, Amount] = Field(default_factory=dict)
    workers: Count = 1
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    accelerator: str = ""
    grow: bool = False


class OutOfMemory(Strict):
    """How often a trial whose memory ran out is started again, and with how much more."""

    times: Natural = 3
    memory: Annotated[str, BeforeValidator(take_factor)] = "x1"


class Retries(Strict):
    """How often a trial is started again, by what ended it."""

    exception: Natural = 0
    worker_died: Natural = 3
    timeout: Natural = 1
    bad_metric: Natural = 0
    lost_checkpoint: Natural = 1
    out_of_memory: Annotated[
        OutOfMemory | None, BeforeValidator(_short("times", int), json_schema_input_type=OutOfMemory | int | None)
    ] = None


_BLOCKS: Mapping[str, type[Strict]] = {"objective": Objective, "search": Search, "budget": Limits}


class SpecFile(Shared):
    """A spec file, version 1, in the file's own words."""

    version: Literal[1] = Field(examples=["version: 1"])
    entrypoint: Entrypoint = Field(examples=["entrypoint: my_module:train"])
    objective: Annotated[
        list[Objective],
        BeforeValidator(
            lambda value: value if isinstance(value, list) else [value],
            json_schema_input_type=Objective | list[Objective],
        ),
    ] = Field(min_length=1, examples=["objective: {metric: val_loss, mode: min}"])
    space: dict[str, Any] = Field(default_factory=dict)
    constraints: list[str] = Field(default_factory=list)
    search: Annotated[Search, BeforeValidator(_short("name"), json_schema_input_type=Search | str)] = Search()
    schedule: Annotated[Schedule, BeforeValidator(_short("name"), json_schema_input_type=Schedule | str)] = Schedule()
    budget: Limits = Limits()
    resources: ResourcesBlock = ResourcesBlock()
    retries: Annotated[
        Retries,
        BeforeValidator(
            lambda value: value if isinstance(value, Mapping) else take_retries(value),
            json_schema_input_type=Retries | int,
        ),
    ] = Retries()
    storage: Annotated[Storage, BeforeValidator(_short("path"), json_schema_input_type=Storage | str)] = Storage()
    backend: Annotated[BackendBlock, BeforeValidator(_short("name"), json_schema_input_type=BackendBlock | str)] = (
        BackendBlock()
    )

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys in the order of the table of options."""
        return list(dict.fromkeys(["version", *(option.file.split(".")[0] for option in OPTIONS)]))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a spec file, for editors and other programs."""
    schema = SpecFile.model_json_schema()
    known = schema["properties"]
    for option in OPTIONS:
        block, _, inner = option.python.rpartition(".")
        beside = schema["$defs"][_BLOCKS[block].__name__]["properties"] if block else known
        beside.setdefault(inner, _schema_at(schema, option.file))
    needed = [
        {"anyOf": [{"required": ["entrypoint"]}, {"required": ["trainable"]}]},
        {"anyOf": [{"required": ["objective"]}, {"required": ["metric", "mode"]}]},
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "required": ["version"],
        "allOf": needed,
        "title": "tune_platform spec",
    }


def _schema_at(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the schema of a key of the file; `metric` and `mode` may be lists, beside which others stand."""
    block, _, inner = key.partition(".")
    if not inner:
        return dict(schema["properties"][block])
    found = dict(schema["$defs"][_BLOCKS[block].__name__]["properties"][inner])
    return {"anyOf": [found, {"type": "array", "items": found}]} if inner in ("metric", "mode") else found
