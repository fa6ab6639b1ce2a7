"""DiLoCo: rounds of inner steps whose mean movement is the gradient of an outer optimizer with Nesterov momentum.

With theta the anchor, from which all workers begin a round of H inner steps (AdamW in the paper) on their own data:

    Delta = 1/W sum_i (theta - theta_i)                        (old minus new: it is a gradient)
    m <- mu m + Delta;    theta <- theta - gamma (Delta + mu m);    theta_i <- theta

Douillard et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models", Algorithm 1, in the form
of torch.optim.SGD(nesterov=True) on the anchor, without weight decay. mu is `momentum`, gamma is `lr`. The inner
optimizer's state stays with each worker from round to round (`inner_state` "local"), its schedule counts inner steps.
mu = 0, gamma = 1 is local SGD and with one worker plain training, bit for bit: theta - gamma Delta is computed as
theta + gamma (mean theta_i - theta).

The first outer step moves gamma (1 + mu) = 1.33 times the mean movement, and where movements repeat each counts
gamma / (1 - mu) = 7 times in the end: too much for short trainings of few rounds, where both want to be tuned.

With `compression` the movements theta - theta_i travel as "bf16" (half the bytes) or "int8" (a quarter); they are
added up in single precision, and what the rounding took from a worker's is added to its next one (`compression`).

Options: `period` H, `inner_state` (see `Rounds`), `momentum` mu, `lr` gamma, `compression`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tune_platform.distributed.strategy import option_choice, option_number
from tune_platform.trainables.strategies.averaging import Anchored, towards
from tune_platform.trainables.strategies.compression import CODECS, compressed_bytes, compressed_mean
from tune_platform.trainables.strategies.pricing import steps_of

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class DiLoCo(Anchored):
    """DiLoCo; see the module."""

    name = "diloco"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "period": 500,
        "inner_state": "local",
        "momentum": 0.9,
        "lr": 0.7,
        "compression": "none",
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self._mu = option_number(self.name, self.options, "momentum", 0, 1)
        self._gamma = option_number(self.name, self.options, "lr", 0)
        self._codec = option_choice(self.name, self.options, "compression", ("none", *CODECS))

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        super().setup(worker)
        self._owed = torch.zeros_like(self._outer) if self._codec != "none" else torch.empty(0)

    def mean_of(self, vector: Tensor) -> Tensor:
        """Return the mean; of the parameters as the anchor less the mean of compressed movements."""
        if self._codec == "none" or self.worker.comm.size == 1:
            return super().mean_of(vector)
        own, rest = vector[: self._trained], vector[self._trained :]
        anchor = self._anchor[: self._trained]
        if rest.numel():
            rest = self.worker.comm.all_reduce(rest)
        # Last, for what is owed changes with it: where a worker is lost before, the round is closed once more.
        moved, self._owed = compressed_mean(self.worker.comm, anchor - own + self._owed, self._codec)
        return torch.cat([anchor - moved, rest])

    def move(self, anchor: Tensor, mean: Tensor) -> Tensor:
        """See the module."""
        self._outer = self._mu * self._outer + (anchor - mean)
        moved = towards(anchor, mean, self._gamma)
        return moved - self._gamma * self._mu * self._outer if self._mu else moved

    def state_dict(self) -> dict[str, Any]:
        """Return also what this worker's movements still owe."""
        return {**super().state_dict(), "owed": self._owed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned."""
        super().load_state_dict(state)
        self._owed = state["owed"].to(self._outer.device)

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """Return 8 N (W - 1) / H, or with compression 4 or 2 N (W - 1) / H and what the scales take."""
        options = {**cls.DEFAULTS, **options}
        plain = super().bytes_per_step(parameters, workers, options)
        if options["compression"] == "none":
            return plain
        period = steps_of(cls.name, options)
        less = 8.0 * parameters * (workers - 1) - compressed_bytes(parameters, workers, options["compression"])
        return plain - less / period
