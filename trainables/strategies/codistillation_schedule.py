"""When and how much codistillation does what: the weight of its term, its exchanges, and the weight decay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune_platform.distributed.strategy import option_flag, option_number, option_period
from tune_platform.errors import SpecError

#: The share of a training that is a period by default (Sodhani et al. 2020, section 4.1) ...
SHARE = 0.01
#: ... but at least so many time constants of the momentum: models that are exchanged before they have settled ring.
TIME_CONSTANTS = 5


class Schedule:
    """The schedule that a strategy's options ask for, by inner steps; `fit` it to the length of the training first.

    Options (see `codistillation`): `alpha`, `burn_in`, `ramp`, `period`, `stagger`, `weight_decay_factors`,
    `weight_decay_milestones`. Raises SpecError where one makes no sense. Without a `period` it is the larger of
    `SHARE` of the training and `TIME_CONSTANTS` of the optimizer's momentum, 1 / (1 - momentum) steps each.
    """

    def __init__(self, strategy: str, options: Mapping[str, Any]) -> None:
        self._strategy, self._options = strategy, options
        #: The weight of the term when it is there in full.
        self.peak = option_number(strategy, options, "alpha", 0)
        #: What the weight decay is multiplied by from each milestone on.
        self.factors = self._numbers("weight_decay_factors", options["weight_decay_factors"])
        self.milestones: list[float] = []
        self._stagger = option_flag(strategy, options, "stagger")
        self._spans(1, 0.0)

    def fit(self, total: int, drops: Sequence[float], momentum: float) -> None:
        """Take the inner steps of the training, the shares at which the rate drops, and the optimizer's momentum."""
        given = self._options["weight_decay_milestones"]
        found = self._numbers("weight_decay_milestones", drops if given is None else given) if self.factors else []
        if len(found) != len(self.factors) or sorted(found) != found:
            where = "the config's drops" if given is None else "weight_decay_milestones"
            raise SpecError(
                f"strategy {self._strategy!r}: each of the {len(self.factors)} weight_decay_factors needs a milestone, "
                f"a share of the training, in rising order; {where} are {found}"
            )
        self.milestones = [share * total for share in found]
        self._spans(total, momentum)

    def alpha(self, step: int) -> float:
        """Return the weight of the term at this step."""
        if step < self._burn_in:
            return 0.0
        return self.peak * min(1.0, (step - self._burn_in + 1) / self._ramp) if self._ramp else self.peak

    def due(self, model: int, models: int, step: int) -> bool:
        """Return whether the model's copies are exchanged before this step (beside the first time)."""
        offset = model * self.period // models if self._stagger else 0
        return (step - self._burn_in) % self.period == offset

    def weight_decay_factor(self, step: int) -> float:
        """Return what the weight decay is multiplied by at this step."""
        passed = sum(step >= milestone for milestone in self.milestones)
        return self.factors[passed - 1] if passed else 1.0

    def _spans(self, total: int, momentum: float) -> None:
        self._burn_in, self._ramp = (self._span(name, total) for name in ("burn_in", "ramp"))
        if self._options["period"] is None:
            settled = math.ceil(round(TIME_CONSTANTS / (1 - min(momentum, 0.999)), 6))
            self.period = max(1, round(SHARE * total), min(settled, total // 2))
        else:
            self.period = self._span("period", total)

    def _span(self, name: str, total: int) -> int:
        if name != "period" and self._options[name] == 0:
            return 0
        return option_period(self._strategy, self._options, name, total)

    def _numbers(self, name: str, values: Any) -> list[float]:
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise SpecError(f"strategy {self._strategy!r}: {name} is a list of numbers, got {values!r}")
        return [option_number(self._strategy, {name: value}, name, 0, 1) for value in values]
