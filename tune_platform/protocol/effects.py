"""Effects: what was decided on a fact. Each is written into the log beside the fact that caused it.

A resumed experiment applies them; it does not decide again. So any later release resumes any earlier log, whatever
has become of the code that decided, and the wording of reasons is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tune_platform.protocol.configs import from_json, to_json
from tune_platform.protocol.events import ref_from_list, ref_to_list, resources_to_data
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.protocol.verdicts import Clone, Continue, Pause, Resize, Stop, Verdict
from tune_platform.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The searcher is asked for the suggestions of these trials."""

    kind: ClassVar[str] = "asked"
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A trial got a place: the node of each worker. A trial that holds one already begins anew in it (a clone)."""

    kind: ClassVar[str] = "launched"
    trial: int
    attempt: int
    nodes: tuple[int, ...]
    until: float | None
    save: bool
    resources: Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A verdict on a trial, which holds from here on.

    `by`: scheduler | person | stop (a condition of the spec) | budget | engine.
    """

    kind: ClassVar[str] = "verdict"
    trial: int
    step: int
    verdict: Verdict
    by: str = "scheduler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaits:
    """A trial waits for the checkpoint that its source is writing, to go on as a clone of it.

    `lost`: it had gone on from one already, at `step`, which was lost before it was written: the source trains up to
    this step of its own again. None: it is that of the source's last milestone.
    """

    kind: ClassVar[str] = "awaits"
    trial: int
    step: int
    verdict: Clone
    lost: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Regained:
    """What a clone had gone on from at `step`, and lost, its source has saved again: it is begun from there anew."""

    kind: ClassVar[str] = "regained"
    trial: int
    step: int
    checkpoint: CheckpointRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A trial is in another state, for a reason that is no verdict: its code ended, it failed, its checkpoint is there.

    `kill`: its process ends with the lease.
    """

    kind: ClassVar[str] = "moved"
    trial: int
    status: str
    reason: str
    kill: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A trial lets go of checkpoints; those that no other trial holds are deleted."""

    kind: ClassVar[str] = "dropped"
    trial: int
    uris: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplyEnded:
    """No trial will be added any more, unless a person extends the search."""

    kind: ClassVar[str] = "supply_ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Nothing more is launched; the experiment is over once nothing runs. `status` as in `Finished`."""

    kind: ClassVar[str] = "ending"
    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The experiment is over. `status`: finished | failed | stopped."""

    kind: ClassVar[str] = "finished"
    status: str
    reason: str


Effect = Asked | Launched | Decided | Awaits | Regained | Moved | Dropped | SupplyEnded | Ending | Finished

EFFECTS: dict[str, type[Any]] = {
    cls.kind: cls for cls in (Asked, Launched, Decided, Awaits, Regained, Moved, Dropped, SupplyEnded, Ending, Finished)
}


# ------------------------------------------------------------------------------------------ records


def effect_to_record(effect: Effect) -> tuple[str, int | None, dict[str, Any]]:
    """Return `(kind, trial, data)` of an effect, as plain JSON values."""
    return effect.kind, getattr(effect, "trial", None), _TO_DATA[type(effect)](effect)


def _launched_to_data(effect: Launched) -> dict[str, Any]:
    data: dict[str, Any] = {"attempt": effect.attempt, "nodes": effect.nodes, "until": effect.until}
    if effect.save:
        data["save"] = True
    data["resources"] = resources_to_data(effect.resources)
    return data


def _decided_to_data(effect: Decided) -> dict[str, Any]:
    data = verdict_to_data(effect.verdict, effect.step)
    if effect.by != "scheduler":
        data["by"] = effect.by
    return data


def _awaits_to_data(effect: Awaits) -> dict[str, Any]:
    data = verdict_to_data(effect.verdict, effect.step)
    if effect.lost is not None:
        data["lost"] = effect.lost
    return data


def _moved_to_data(effect: Moved) -> dict[str, Any]:
    data: dict[str, Any] = {"status": effect.status, "reason": effect.reason}
    if effect.kill:
        data["kill"] = True
    return data


def _ended_to_data(effect: Ending | Finished) -> dict[str, Any]:
    return {"status": effect.status, "reason": effect.reason}


_TO_DATA: dict[type[Any], Callable[[Any], dict[str, Any]]] = {
    Asked: lambda effect: {"numbers": effect.numbers},
    Launched: _launched_to_data,
    Decided: _decided_to_data,
    Awaits: _awaits_to_data,
    Regained: lambda effect: {"step": effect.step, "checkpoint": ref_to_list(effect.checkpoint)},
    Moved: _moved_to_data,
    Dropped: lambda effect: {"uris": effect.uris},
    SupplyEnded: lambda effect: {},
    Ending: _ended_to_data,
    Finished: _ended_to_data,
}


def effect_from_record(kind: str, trial: int | None, data: Mapping[str, Any]) -> Effect:
    """Build the effect that `effect_to_record` wrote."""
    values = dict(data)
    if kind == Decided.kind:
        by = values.pop("by", "scheduler")
        return Decided(trial=trial or 0, step=values["step"], verdict=verdict_from_data(values), by=by)
    if kind == Awaits.kind:
        lost = values.pop("lost", None)
        verdict = verdict_from_data(values)
        assert isinstance(verdict, Clone)
        return Awaits(trial=trial or 0, step=values["step"], verdict=verdict, lost=lost)
    if kind == Launched.kind:
        values["nodes"] = tuple(values["nodes"])
        values["resources"] = Resources(**values["resources"])
        values.setdefault("save", False)
    elif kind == Asked.kind:
        values["numbers"] = tuple(values["numbers"])
    elif kind == Regained.kind:
        values["checkpoint"] = ref_from_list(values["checkpoint"])
    elif kind == Dropped.kind:
        values["uris"] = tuple(values["uris"])
    if trial is not None:
        values["trial"] = trial
    effect: Effect = EFFECTS[kind](**values)
    return effect


def verdict_to_data(verdict: Verdict, step: int) -> dict[str, Any]:
    """Return a verdict on a trial at report `step` as plain values; `docs/files.md` describes them."""
    data: dict[str, Any] = {"step": step, "verdict": type(verdict).__name__.lower(), "reason": verdict.reason}
    match verdict:
        case Continue():
            data["until"], data["save"] = verdict.until, verdict.save
        case Stop():
            data["completed"] = verdict.completed
        case Clone():
            data["until"], data["save"] = verdict.until, verdict.save
            data["source"], data["config"] = verdict.source, to_json(verdict.config)
        case Resize():
            data["resources"] = resources_to_data(verdict.resources)
        case Pause():
            pass
    return data


def verdict_from_data(data: Mapping[str, Any]) -> Verdict:
    """Build the verdict that `verdict_to_data` wrote; former logs have neither `save` nor `completed`."""
    reason = data["reason"]
    match data["verdict"]:
        case "continue":
            return Continue(until=data["until"], save=data.get("save", False), reason=reason)
        case "stop":
            return Stop(reason=reason, completed=data.get("completed", False))
        case "pause":
            return Pause(reason=reason)
        case "clone":
            return Clone(
                source=data["source"],
                config=from_json(data["config"]),
                until=data["until"],
                reason=reason,
                save=data.get("save", True),
            )
        case "resize":
            return Resize(resources=Resources(**data["resources"]), reason=reason)
    raise ValueError(f"the log has the verdict {data['verdict']!r}, which this release does not know")
