"""Which checkpoints of a trial may go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from tune_platform.errors import SpecError


def retention(
    checkpoints: Sequence[tuple[int, float | None]],
    keep_last: int | None,
    keep_best: int | None,
    mode: Literal["min", "max"],
) -> list[int]:
    """Return the steps to drop, in rising order, of `checkpoints` given as (step, value of the metric).

    Kept are the `keep_last` newest and the `keep_best` best by value (of equal ones the newer); with both
    None all of them. The newest is never dropped, for the trial may have to go on from it. None and NaN are
    never best. Raises SpecError for a negative number or an unknown mode. Costs O(n log n).
    """
    if mode not in ("min", "max"):
        raise SpecError(f"mode must be 'min' or 'max', not {mode!r}.")
    for name, count in (("keep_last", keep_last), ("keep_best", keep_best)):
        if count is not None and count < 0:
            raise SpecError(f"{name} must be None (no limit by it) or at least 0, not {count}.")
    values = dict(sorted(checkpoints, key=lambda checkpoint: checkpoint[0]))
    if (keep_last is None and keep_best is None) or not values:
        return []
    newest_first = list(reversed(values))
    keep = {*newest_first[: max(1, keep_last or 0)]}
    sign = 1.0 if mode == "min" else -1.0
    ranked = [(sign * value, -step) for step, value in values.items() if value is not None and not math.isnan(value)]
    keep.update(-step for _, step in sorted(ranked)[: keep_best or 0])
    return [step for step in values if step not in keep]
