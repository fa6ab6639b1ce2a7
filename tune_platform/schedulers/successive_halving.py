"""Synchronous successive halving (Jamieson & Talwalkar, AISTATS 2016, figure 3; Li et al., JMLR 2018, Algorithm 1).

A bracket of n trials trains to resource r; the best n / eta of them go on to r * eta, and so on until R. When the
bracket is full the next begins, so that no place stays free while a rung waits for its last member.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.schedulers._brackets import Brackets, Plan
from tune_platform.schedulers._rungs import Ladder, check_numbers, check_resource


class SuccessiveHalving(Brackets):
    """Synchronous successive halving over any reported resource.

    `n` trials make a bracket (None: as many as leave one trial for the last rung), `min` is the resource of the first
    rung, `max` that of the last, `eta` the reduction factor. Raises SpecError on bad values.
    """

    def __init__(
        self, *, max: float, min: float = 1, eta: float = 3, n: int | None = None, resource: str = "step"
    ) -> None:
        check_resource("successive_halving", resource)
        check_numbers("successive_halving", {"n": n}, optional=("n",))
        ladder = Ladder("successive_halving", min=min, max=max, eta=eta)
        if ladder.max is None:
            raise SpecError("successive_halving: max (the resource of a trial that is done) must be a finite number")
        levels = ladder.levels()
        least = math.ceil(eta ** (len(levels) - 1) - 1e-9)
        if n is None:
            if least < 2:
                raise SpecError(
                    f"successive_halving: max must be above min ({min:g}), got {max!r}: with a single rung there is "
                    "nothing to halve; give max or, if that is meant, n (trials of a bracket)"
                )
            n = least
        if not isinstance(n, int) or n < 2:
            raise SpecError(f"successive_halving: n (trials of a bracket) must be a whole number from 2 on, got {n!r}")
        self.min, self.max, self.n = min, ladder.max, n
        sizes = [int(n * eta**-rung + 1e-9) or 1 for rung in range(len(levels))]
        super().__init__(resource=resource, eta=eta, plans=[Plan(tuple(sizes), tuple(levels))])

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        return {
            "name": "successive_halving",
            "resource": self.resource,
            "min": self.min,
            "max": self.max,
            "eta": self.eta,
            "n": self.n,
        }
