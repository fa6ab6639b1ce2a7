"""Facts: what the runner learns of. Each is appended to the log before it is acted on.

`to_record` writes an event as a `(kind, trial, data)` record of plain JSON values, `from_record` reads it back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from tune_platform.protocol.configs import from_json, to_json
from tune_platform.protocol.reports import CheckpointRef, Config, Report
from tune_platform.protocol.text import plain
from tune_platform.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact, with the time (seconds) at which the runner learned of it."""

    kind: ClassVar[str] = "event"
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityChanged(Event):
    """The backend can lease these resources: one mapping of resource name to amount per node.

    `fixed`: there will never be more, so that what does not fit now need not be waited for. `reclaim`: why what is
    leased beyond that is to be given back soon, by trials that save and go on elsewhere or later; empty where it is to
    be given back as trials end. `shared`: these are parts of nodes, of which others have the rest.
    """

    kind: ClassVar[str] = "capacity"
    nodes: tuple[Mapping[str, float], ...]
    fixed: bool = False
    reclaim: str = ""
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggested(Event):
    """A new trial exists. `memo` is the searcher's own note (JSON), handed back to it on resume.

    `resources` are those of its config, worked out once (None: those of the spec's default); `problem` says why they
    could not be, which fails the trial. `cost`: seconds that the searcher took.
    """

    kind: ClassVar[str] = "suggested"
    trial: int
    config: Config
    origin: str = "searcher"  # searcher | start | user
    memo: Mapping[str, Any] | None = None
    resources: Resources | None = None
    problem: str = ""
    cost: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted(Event):
    """The searcher has nothing more to suggest (a grid that is done, or a searcher that failed)."""

    kind: ClassVar[str] = "exhausted"
    reason: str
    failed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", plain(self.reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The process of an attempt is up, and the trial's own code begins.

    A first Reported says so too: one of a trial that reports soon after its launch comes alone.
    """

    kind: ClassVar[str] = "started"
    trial: int
    attempt: int
    worker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported(Event):
    """A batch of consecutive reports of one attempt; the last may have reached the milestone.

    `saved` are the checkpoints that the worker finished writing since its last batch: of these steps or of earlier
    ones, for they are written behind the training; `saving`: one is being written. `held` are in the worker's memory,
    from which others can take them over before they are written. `done`: the training code came to its own end with the
    last of these reports (of which there may be none).
    """

    kind: ClassVar[str] = "reported"
    trial: int
    attempt: int
    reports: tuple[Report, ...]
    saved: tuple[CheckpointRef, ...] = ()
    done: bool = False
    worker: str = ""
    saving: bool = False
    held: tuple[CheckpointRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved(Event):
    """The answer to a Save command: the checkpoint, or None where the trainable has nothing (new) to save.

    All reports up to the checkpoint's step come before it. It also brings a checkpoint that was finished only after
    its trial's place had been given back.
    """

    kind: ClassVar[str] = "saved"
    trial: int
    attempt: int
    checkpoint: CheckpointRef | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """An attempt ended badly.

    `cause`: exception | worker_died | out_of_memory | node_lost | preempted | bad_metric | timeout | lost_checkpoint |
    bad_report | disk_full | storage_away.
    `fatal` failures are never retried (a mistake in the spec, such as a metric that is never reported).
    """

    kind: ClassVar[str] = "failed"
    trial: int
    attempt: int
    cause: str
    message: str
    traceback: str = ""
    fatal: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", plain(self.message))
        object.__setattr__(self, "traceback", plain(self.traceback))


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested(Event):
    """Something a person asked for while the experiment runs, from the CLI, the page or Python.

    `action`: stop | cancel | pause | unpause | enqueue | extend | tag; with `trial` it concerns that trial alone.
    `request` is the number of the row in the store's inbox, so that none is carried out twice.
    """

    kind: ClassVar[str] = "requested"
    request: int
    action: str
    trial: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""  # why nothing follows from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted(Event):
    """The driver is to end: nothing more is launched, and running trials write a checkpoint to go on from later."""

    kind: ClassVar[str] = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """A new driver took over and the work in flight was lost: running trials start again.

    `choices`: values that choices of the space have from now on, beside those that they had, in the file's form.
    """

    kind: ClassVar[str] = "resumed"
    retry_failed: bool = False
    choices: Mapping[str, Sequence[Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked(Event):
    """Nothing happened but time: sent when a deadline of the controller has passed."""

    kind: ClassVar[str] = "ticked"


EVENTS: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        CapacityChanged, Suggested, Exhausted, Started, Reported, Saved, Failed, Requested, Interrupted, Resumed,
        Ticked,
    )
}  # fmt: skip


# ------------------------------------------------------------------------------------------ records


#: Of each kind: the fields that are written as they are, with their defaults, which are left out.
_PLAIN = {
    cls: tuple(
        (spec.name, None if spec.name == "data" else spec.default)
        for spec in fields(cls)
        if spec.name not in ("time", "trial", "reports", "saved", "held", "checkpoint", "nodes", "resources")
    )
    for cls in EVENTS.values()
}


def to_record(event: Event) -> tuple[str, int | None, dict[str, Any]]:
    """Return `(kind, trial, data)` of an event, without what has its default; reports are left to their own table."""
    kind = type(event)
    data: dict[str, Any] = {}
    for name, default in _PLAIN[kind]:
        value = getattr(event, name)
        if value != default:
            data[name] = value
    if kind in _TO_DATA:
        _TO_DATA[kind](event, data)
    return event.kind, getattr(event, "trial", None), data


def _reported_to_data(event: Reported, data: dict[str, Any]) -> None:
    if event.saved:
        data["saved"] = [ref_to_list(ref) for ref in event.saved]
    if event.held:
        data["held"] = [ref_to_list(ref) for ref in event.held]
    if event.reports:
        data["first"], data["last"] = event.reports[0].step, event.reports[-1].step


def _saved_to_data(event: Saved, data: dict[str, Any]) -> None:
    data["checkpoint"] = ref_to_list(event.checkpoint) if event.checkpoint else None


def _capacity_to_data(event: CapacityChanged, data: dict[str, Any]) -> None:
    data["nodes"] = [dict(node) for node in event.nodes]


def _suggested_to_data(event: Suggested, data: dict[str, Any]) -> None:
    data["config"] = to_json(event.config)
    if event.resources is not None:
        data["resources"] = resources_to_data(event.resources)


_TO_DATA: dict[type[Event], Callable[[Any, dict[str, Any]], None]] = {
    Reported: _reported_to_data,
    Saved: _saved_to_data,
    CapacityChanged: _capacity_to_data,
    Suggested: _suggested_to_data,
}


def from_record(
    time: float, kind: str, trial: int | None, data: Mapping[str, Any], reports: tuple[Report, ...] = ()
) -> Event:
    """Build the event that `to_record` wrote; `reports` are the batch's rows of the reports table."""
    values = dict(data)
    if kind == Reported.kind:
        values.pop("first", None), values.pop("last", None)
        values["saved"] = tuple(ref_from_list(ref) for ref in values.get("saved", ()))
        values["held"] = tuple(ref_from_list(ref) for ref in values.get("held", ()))
        values["reports"] = reports
    elif kind == Saved.kind:
        values["checkpoint"] = ref_from_list(values["checkpoint"]) if values["checkpoint"] else None
    elif kind == CapacityChanged.kind:
        values["nodes"] = tuple(values["nodes"])
    elif kind == Suggested.kind:
        values["config"] = from_json(values["config"])
        if values.get("resources"):
            values["resources"] = Resources(**values["resources"])
    if trial is not None or kind == Requested.kind:
        values["trial"] = trial
    return EVENTS[kind](time=time, **values)


@functools.lru_cache(maxsize=1024)
def resources_to_data(resources: Resources) -> Mapping[str, Any]:
    """Return the fields that differ from the defaults, and the CPUs: most trials ask for nothing else."""
    return {
        spec.name: getattr(resources, spec.name)
        for spec in fields(Resources)
        if spec.name == "cpu" or getattr(resources, spec.name) not in (spec.default, {})
    }


def ref_to_list(ref: CheckpointRef) -> list[Any]:
    """Return a checkpoint's reference as plain values."""
    return [ref.trial, ref.step, ref.uri, ref.bytes]


def ref_from_list(values: Sequence[Any]) -> CheckpointRef:
    """Build the reference that `ref_to_list` wrote."""
    return CheckpointRef(*values)
