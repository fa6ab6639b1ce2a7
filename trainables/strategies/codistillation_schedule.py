"""When and how much codistillation does what: the weight of its term, its exchanges, and the weight decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tune_platform.distributed.strategy import option_flag, option_number, option_period
from tune_platform.errors import SpecError


class Schedule:
    """The schedule that a strategy's options ask for, by inner steps; `fit` it to the length of the training first.

    Options (see `codistillation`): `alpha`, `burn_in`, `ramp`, `period`, `stagger`, `weight_decay_factors`,
    `weight_decay_milestones`. Raises SpecError where one makes no sense.
    """

    def __init__(self, strategy: str, options: Mapping[str, Any]) -> None:
        self._strategy, self._options = strategy, options
        #: The weight of the term when it is there in full.
        self.peak = option_number(strategy, options, "alpha", 0)
        #: What the weight decay is multiplied by from each milestone on.
        self.factors = self._numbers("weight_decay_factors", options["weight_decay_factors"])
        self.milestones: list[float] = []
        self._stagger = option_flag(strategy, options, "stagger")
        self._spans(1)

    def fit(self, total: int, drops: Sequence[float]) -> None:
        """Take the inner steps of the training, and the shares of it at which the learning rate drops."""
        given = self._options["weight_decay_milestones"]
        found = self._numbers("weight_decay_milestones", drops if given is None else given) if self.factors else []
        if len(found) != len(self.factors) or sorted(found) != found:
            where = "the config's drops" if given is None else "weight_decay_milestones"
            raise SpecError(
                f"strategy {self._strategy!r}: each of the {len(self.factors)} weight_decay_factors needs a milestone, "
                f"a share of the training, in rising order; {where} are {found}"
            )
        self.milestones = [share * total for share in found]
        self._spans(total)

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

    def _spans(self, total: int) -> None:
        self.period, self._burn_in, self._ramp = (self._span(name, total) for name in ("period", "burn_in", "ramp"))

    def _span(self, name: str, total: int) -> int:
        if name != "period" and self._options[name] == 0:
            return 0
        return option_period(self._strategy, self._options, name, total)

    def _numbers(self, name: str, values: Any) -> list[float]:
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise SpecError(f"strategy {self._strategy!r}: {name} is a list of numbers, got {values!r}")
        return [option_number(self._strategy, {name: value}, name, 0, 1) for value in values]
