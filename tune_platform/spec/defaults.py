"""Which searcher and which scheduler a search has that names none.

`random` and `fifo` where little can be learned or all is wanted: few trials, a grid, several objectives. Else a model,
and ASHA in the stopping form, which needs no checkpoints. Where it is not known that trials report more than once, its
first rung lies at the second report, so that trials that report once are never stopped by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tune_platform.spec.model import SearchSpec

#: Fewer trials than this, or fewer than two for each place, tell too little of each other to learn or to stop by.
FEW = 20
RANDOM, SCREEN, FIFO = "random", "screen", "fifo"


class Chosen(NamedTuple):
    """A part, and in words why it was chosen."""

    part: Any
    why: str


def default_searcher(spec: SearchSpec) -> Chosen:
    """Choose what says what to try."""
    if plain := _nothing_to_learn(spec):
        return Chosen(RANDOM, plain)
    if spec.space.define_by_run:
        return Chosen(RANDOM, "the space is a function")
    if getattr(spec.make_scheduler(), "needs_checkpoints", False):
        return Chosen(RANDOM, "the scheduler changes configs itself")
    if not spec.space.parameters():
        return Chosen(RANDOM, "the space has no parameters")
    return Chosen(SCREEN, "one objective, and enough trials for a model")


def default_scheduler(spec: SearchSpec, *, steps: float | None = None) -> Chosen:
    """Choose who goes on; `steps` are those of a trial to its end, where they are known."""
    if plain := _nothing_to_learn(spec):
        return Chosen(FIFO, plain)
    if spec.searcher == "grid" or (isinstance(spec.searcher, dict) and spec.searcher.get("name") == "grid"):
        return Chosen(FIFO, "a grid is wanted whole")
    steps = spec.stop.get("step") if steps is None else steps
    if steps is None:
        return Chosen(
            {"name": "asha", "min": 2}, "trials may report more than once; one that reports once is not stopped"
        )
    if steps < 2:
        return Chosen(FIFO, "trials report once")
    return Chosen({"name": "asha", "max": steps}, f"trials report up to {steps:g} times")


def _nothing_to_learn(spec: SearchSpec) -> str:
    if len(spec.metrics) > 1:
        return "there are several objectives"
    if not spec.space.define_by_run and spec.space.grid_points().total > 1:
        return "a grid is wanted whole"
    few = max(FEW, 2 * (spec.max_concurrent or 0))
    if spec.trials is not None and spec.trials < few:
        return f"{spec.trials} trials are too few to learn from"
    return ""
