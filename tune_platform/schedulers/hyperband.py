"""HyperBand (Li et al., JMLR 2018, Algorithm 1): successive halving with several trades of trials against resource.

With R = `max` / `min` and s_max = floor(log_eta R), bracket s = s_max, ..., 0 takes n = ceil((s_max + 1) / (s + 1) *
eta^s) trials from the first resource R * eta^-s. Its rung i keeps n_i = floor(n * eta^-i) trials to r_i = r * eta^i.
After the last bracket the first begins anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.schedulers._brackets import Brackets, Plan
from tune_platform.schedulers._rungs import Ladder, check_resource


def brackets(min: float, max: float, eta: float) -> list[Plan]:
    """Return HyperBand's brackets, the most daring first: n_i trials go to resource r_i (section 3, table 1)."""
    s_max = math.floor(math.log(max / min) / math.log(eta) + 1e-9)
    whole = float(min).is_integer() and float(max).is_integer()
    plans = []
    for s in range(s_max, -1, -1):
        n = math.ceil((s_max + 1) / (s + 1) * eta**s - 1e-9)
        sizes = [int(n * eta**-i + 1e-9) for i in range(s + 1)]
        levels = [max * eta ** (i - s) for i in range(s + 1)]
        if whole:  # the resource is taken for a count
            levels = [math.floor(level + 1e-9) for level in levels]
        plans.append(Plan(tuple(sizes), tuple(levels)))
    return plans


class HyperBand(Brackets):
    """HyperBand over any reported resource; `min` and `max` are the least and the greatest resource of a trial.

    Raises SpecError on bad values.
    """

    def __init__(self, *, max: float, min: float = 1, eta: float = 3, resource: str = "step") -> None:
        check_resource("hyperband", resource)
        ladder = Ladder("hyperband", min=min, max=max, eta=eta)
        if ladder.max is None:
            raise SpecError("hyperband: max (the resource of a trial that is done) must be a finite number")
        self.min, self.max = min, ladder.max
        super().__init__(resource=resource, eta=eta, plans=brackets(min, ladder.max, eta))

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        options = {"resource": self.resource, "min": self.min, "max": self.max, "eta": self.eta}
        return {"name": "hyperband", **options}
