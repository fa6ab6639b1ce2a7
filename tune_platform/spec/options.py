"""The options of a spec, each once: what it is called in Python and in a file, and whether a resumption may change it.

To add one that is the same on both sides, add a field to `Shared` and a row to docs/spec.md (a test compares the two).
One that is not has a field in `SearchSpec` and in the file's models, a row in `OPTIONS`, and, where its form differs
too, a function in `reading` and in `writing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from tune_platform.protocol.milestones import OnBadMetric
from tune_platform.protocol.requests import refusal
from tune_platform.protocol.trial_log import LOG_LIMIT
from tune_platform.spec.blocks import CheckpointPolicy
from tune_platform.spec.parts import Name
from tune_platform.spec.values import Natural, Number, Seconds, Size, Strict, Text, Wait

VERSION = 1  # of the file
#: Marks an option that decides where and how fast, not what happens: a resumption may change it.
ASIDE = "aside"


#: How a search is shown while it runs.
Progress = Literal["auto", "live", "plain", "json", "off"]
#: What becomes of an experiment that has the name already.
IfExists = Literal["error", "resume", "new", "replace"]
#: Whether a config may be tried more than once; `replicate`: each is, with other seeds, and its mean counts.
Duplicates = Literal["allow", "avoid", "replicate"]
#: What a search tells other programs as it goes.
Tracker = Literal["csv", "jsonl", "mlflow", "tensorboard", "wandb"]


def _several(value: object) -> object:
    """One name is a list of one."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _tags(value: object) -> object:
    """Tags that an experiment may have; one text is a list of one."""
    several = _several(value)
    if isinstance(several, tuple) and (problem := refusal("tag", None, {"add": several})):
        raise ValueError(problem.removeprefix("tag: "))
    return several


class Shared(Strict):
    """Options that have the same name and the same form in Python and in a file."""

    name: Annotated[Name, ASIDE] = ""
    if_exists: Annotated[IfExists, ASIDE] = "error"
    description: Annotated[Text, ASIDE] = ""
    tags: Annotated[tuple[Text, ...], BeforeValidator(_tags), ASIDE] = ()
    stop: Mapping[Text, Number] = Field(default_factory=dict)
    on_bad_metric: OnBadMetric = "fail"
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    step_timeout: Seconds | None = None
    reuse_workers: Annotated[bool, ASIDE] = True
    keep_warm: Annotated[Natural, ASIDE] = 0
    own_folder: Annotated[bool, ASIDE] = False
    grace: Annotated[Wait, ASIDE] = 60.0
    store_patience: Annotated[Wait, ASIDE] = 300.0
    misfit_after: Annotated[Wait | None, ASIDE] = None
    node_patience: Annotated[Wait, ASIDE] = 3600.0
    progress: Annotated[Progress, ASIDE] = "auto"
    log_to_driver: Annotated[bool, ASIDE] = False
    log_limit: Annotated[Size, ASIDE] = LOG_LIMIT
    track: Annotated[tuple[Tracker, ...], BeforeValidator(_several), ASIDE] = ()


class Option(NamedTuple):
    """One option: its argument in Python and its key in a file, with a dot before what lies inside a block."""

    python: str
    file: str
    aside: bool = False


def _shared(*names: str) -> tuple[Option, ...]:
    return tuple(Option(name, name, ASIDE in Shared.model_fields[name].metadata) for name in names)


_FIRST = ("name", "if_exists", "description", "tags")
_MIDDLE = ("stop", "on_bad_metric", "checkpoint")
#: All options, in the order of the file. `version` is the file's own.
OPTIONS = (
    *_shared(*_FIRST),
    Option("trainable", "entrypoint"),
    Option("metric", "objective.metric"),
    Option("mode", "objective.mode"),
    Option("budget.target", "objective.target"),
    Option("param_space", "space"),
    Option("constraints", "constraints"),
    Option("searcher", "search"),
    Option("seed", "search.seed"),
    Option("start_points", "search.initial"),
    Option("prefetch", "search.prefetch"),
    Option("duplicates", "search.duplicates"),
    Option("replicates", "search.replicates"),
    Option("warm_start", "search.warm_start"),
    Option("scheduler", "schedule"),
    Option("budget.trials", "budget.trials"),
    Option("num_samples", "budget.num_samples"),
    Option("budget.time", "budget.time"),
    Option("budget.deadline", "budget.deadline"),
    Option("budget.gpu_hours", "budget.gpu_hours"),
    Option("budget.cost", "budget.cost"),
    Option("budget.failures", "budget.failures"),
    Option("max_concurrent", "budget.concurrency"),
    Option("resources", "resources"),
    *_shared(*_MIDDLE),
    Option("retries", "retries"),
    Option("storage", "storage", aside=True),
    Option("backend", "backend", aside=True),
    *_shared(*(name for name in Shared.model_fields if name not in _FIRST + _MIDDLE)),
)
#: Keys of the file that may differ between a run and its resumption.
NOT_IN_FINGERPRINT = ("version", *(option.file for option in OPTIONS if option.aside))
