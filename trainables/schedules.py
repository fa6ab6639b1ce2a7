"""How a learning rate goes over the steps of a training: by the same names wherever a step is an optimiser's."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: What `schedule` may be in a config.
SCHEDULES = ("constant", "cosine", "step", "one_cycle")


def rate_factor(schedule: str, step: int, steps: int, warmup: float = 0.0, drops: Sequence[float] = ()) -> float:
    """Return what the rate is multiplied by at `step` (from 0 on) of `steps`.

    It rises in the share `warmup` of the steps, and falls to a tenth at each share of `drops`. "cosine" goes down to
    zero after the warm-up; "step" drops after a half and three quarters, where `drops` does not say; "one_cycle" rises
    from 1/25 in `warmup` (0.3 where that is 0) and goes down to zero.
    """
    lowest = 0.0
    if schedule == "step" and not drops:
        drops = (0.5, 0.75)
    if schedule == "one_cycle":
        warmup, lowest = warmup or 0.3, 1 / 25
    rise = min(1.0, (step + 1) / (warmup * steps)) if warmup > 0 else 1.0
    rise = lowest + (1 - lowest) * rise
    share = min(1.0, max(0.0, step / steps - warmup) / max(1 - warmup, 1 / steps))
    fall = (1 + math.cos(math.pi * share)) / 2 if schedule in ("cosine", "one_cycle") else 1.0
    return rise * fall * math.prod(0.1 for drop in drops if step >= drop * steps)
