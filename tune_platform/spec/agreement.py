"""Where the parts of a spec, each right alone, do not go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tune_platform.spec.parts import memory_factor
from tune_platform.spec.values import Problem

if TYPE_CHECKING:
    from tune_platform.protocol.scheduler import Scheduler


def contradictions(
    metrics: Sequence[str],
    modes: Sequence[str],
    scheduler: Scheduler,
    *,
    target: float | None,
    stop: Mapping[str, float],
) -> list[Problem]:
    """Return where parts that are right alone do not go together."""
    found = []
    if len(modes) != len(metrics):
        found.append(
            Problem(
                ("objective",),
                f"{len(metrics)} metrics and {len(modes)} modes; give one mode, or one for each",
            )
        )
    if len(set(metrics)) < len(metrics):
        found.append(Problem(("objective",), f"metrics are given twice: {', '.join(metrics)}"))
    kind = type(scheduler).__name__
    if len(metrics) > 1 and not getattr(scheduler, "several_objectives", kind == "FIFO"):
        found.append(
            Problem(
                ("schedule",),
                f"{kind} ranks trials by one number; there are {len(metrics)} ({', '.join(metrics)}): "
                "use the scheduler mo_asha or fifo, or judge one metric",
            )
        )
    if len(metrics) > 1 and target is not None:
        found.append(Problem(("objective",), "a target needs a single metric"))
    for metric, mode in zip(metrics, modes, strict=False):
        if mode == "min" and metric in stop:
            found.append(
                Problem(
                    ("stop", metric),
                    f"ends a trial once {metric} is at least {stop[metric]:g}, but it is to be minimised: "
                    "trials would end at their first report. To end the search at a value, give a target",
                )
            )
    return found


def repeated(
    duplicates: str | None, replicates: int | None, metrics: Sequence[str], scheduler: Scheduler
) -> list[Problem]:
    """Return why configs cannot be repeated and ranked by their mean, if they are to be."""
    found = []
    if replicates is not None and duplicates != "replicate":
        found.append(
            Problem(
                ("search", "replicates"), f"got {replicates}, and configs are not repeated; add duplicates: replicate"
            )
        )
    if duplicates != "replicate":
        return found
    kind = type(scheduler).__name__
    if replicates == 1:
        found.append(Problem(("search", "replicates"), "got 1; at least 2 is wanted, or duplicates: avoid"))
    if len(metrics) > 1:
        text = f"replicate ranks configs by the mean of one metric; there are {len(metrics)} ({', '.join(metrics)})"
        found.append(Problem(("search", "duplicates"), text))
    if hasattr(scheduler, "prepare") and getattr(scheduler, "needs_checkpoints", False):
        text = f"replicate repeats configs, and {kind} changes those of running trials; use avoid or allow"
        found.append(Problem(("search", "duplicates"), text))
    return found


def memory_to_grow(retries: Mapping[str, Any], held: Mapping[str, float]) -> list[Problem]:
    """Return the problem of trials that are to get more memory, and hold none of it."""
    if memory_factor(retries) == 1 or held.get("memory"):
        return []
    text = "the trials hold no memory that could grow; say how many bytes: resources: {custom: {memory: 4000000000}}"
    return [Problem(("retries", "out_of_memory", "memory"), text)]
