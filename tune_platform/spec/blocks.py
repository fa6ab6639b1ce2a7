"""Blocks of a spec that are the same in Python and in a file."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from tune_platform.errors import SpecError
from tune_platform.spec.values import Count, Natural, Number, Seconds, Strict


class Budget(Strict):
    """When the search ends, whichever comes first; None is no limit.

    `trials`: started at all; `time`: seconds, a timedelta, or text such as "6h"; `target`: a value of the metric;
    `failures`: more failed trials than this end the search as failed. None: so does the same error in all of the
    first trials (3, or as many as run at a time).
    """

    trials: Count | None = None
    time: Seconds | None = None
    target: Number | None = None
    failures: Natural | None = None

    if TYPE_CHECKING:  # a duration may be text, which the field never is

        def __init__(
            self,
            *,
            trials: int | None = None,
            time: float | str | timedelta | None = None,
            target: float | None = None,
            failures: int | None = None,
        ) -> None: ...


def _keep_last(value: Any) -> Any:
    if value == 0 and not isinstance(value, bool):
        raise SpecError(
            "got 0; must be at least 1, for a trial goes on from its newest checkpoint (null or None keeps all). "
            "To save none, leave `every` at 0; to keep the best ones, set `keep_best`"
        )
    return value


class CheckpointPolicy(Strict):
    """When a trial's state is saved and which of its checkpoints are kept.

    `every`: steps between two (0: only where the scheduler asks, the train function brings one, or `keep_best` wants
    one); `at_end`: once more when the trial ends; `keep_last`: the newest (None: all); `keep_best`: the best ones
    (None: no more), which without `every` are saved whenever the trial reports a new best; `storage`: any fsspec path
    (None: beside the results).
    """

    every: Natural = 0
    at_end: bool = False
    keep_last: Annotated[Count | None, BeforeValidator(_keep_last)] = 1
    keep_best: Count | None = None
    storage: str | None = None
