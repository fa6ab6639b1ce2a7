"""SlowMo: local SGD whose averages are steps of a slow momentum.

With x the anchor that all workers began the round from, and xm their mean after H inner steps:

    u <- beta u + (x - xm) / gamma;    x <- x - alpha gamma u;    x_i <- x

Wang et al. 2020, "SlowMo: Improving Communication-Efficient Distributed SGD with Slow Momentum", Algorithm 1; beta
is `momentum`, alpha is `lr`. gamma is the learning rate that the last inner step of the round was taken with, so
that u does not depend on it; each group of parameters has its own. Where it is zero (the end of a decay) nothing can
be divided by it: the anchor is the mean and u stays. beta = 0, alpha = 1 is local SGD, bit for bit: the anchor is
computed as x + alpha (xm - x) - alpha beta gamma u, with u before the round, which is the same.

Options: `period` H, `inner_state` (see `Rounds`), `momentum` beta, `lr` alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tune_platform.trainables.strategies.averaging import Anchored, towards

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker
from tune_platform.distributed.strategy import option_number


class SlowMo(Anchored):
    """SlowMo; see the module."""

    name = "slowmo"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {"period": 48, "inner_state": "local", "momentum": 0.5, "lr": 1.0}

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._beta = option_number(self.name, self.options, "momentum", 0, 1)
        self._alpha = option_number(self.name, self.options, "lr", 0)
        self._rates: list[float] = []

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        super().setup(worker)
        self.after_backward()

    def after_backward(self) -> None:
        """Note the learning rates in force: after the step the schedule has moved on."""
        self._rates = [float(group["lr"]) for group in self.worker.optimizer.param_groups]

    def move(self, anchor: Tensor, mean: Tensor) -> Tensor:
        """See the module."""
        gamma = self._rate(anchor)
        moved = towards(anchor, mean, self._alpha)
        if self._beta:
            moved = moved - self._alpha * self._beta * gamma * self._outer
        # Without a rate there is no slow step: an average, and u as it was.
        u = self._beta * self._outer + (anchor - mean) / torch.where(gamma > 0, gamma, torch.ones_like(gamma))
        moved, self._outer = torch.where(gamma > 0, moved, mean), torch.where(gamma > 0, u, self._outer)
        return moved

    def _rate(self, anchor: Tensor) -> Tensor:
        """Return the learning rate: one number, or one for each entry where groups of parameters differ."""
        if len(set(self._rates)) == 1:
            return anchor.new_tensor(self._rates[0])
        of = {
            parameter: rate
            for rate, group in zip(self._rates, self.worker.optimizer.param_groups, strict=True)
            for parameter in group["params"]
        }
        return torch.cat([anchor.new_full((p.numel(),), of.get(p, 0.0)) for p in self.parameters])

    def state_dict(self) -> dict[str, Any]:
        """Return also the rates that were last in force."""
        return {**super().state_dict(), "rates": self._rates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned."""
        super().load_state_dict(state)
        self._rates = list(state["rates"])

    def on_membership_change(self, newest: int) -> None:
        """Agree also on the rates, so that all compute the same anchor."""
        super().on_membership_change(newest)
        self._rates = self.worker.comm.broadcast(torch.tensor(self._rates, dtype=torch.float64), newest).tolist()
