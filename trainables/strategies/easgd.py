r"""EASGD: workers are tied to a centre by springs (Zhang, Choromanska and LeCun 2015, "Deep learning with Elastic
Averaging SGD").

Objective: min sum_i E f(x_i) + rho/2 |x_i - c|^2 over the workers' parameters x_i and the centre c. With
alpha = eta rho and beta = W alpha (paper, section 2, eqs. 5-6), every `period` steps, and all right-hand sides at the
time before the step:

    x_i <- x_i - eta g_i(x_i) - alpha (x_i - c)        c <- c + beta (mean_i x_i - c)

In between x_i <- x_i - eta g_i(x_i). The gradient is taken before the elastic move, as in Algorithm 1 and the authors'
code: an exchange comes before the gradient step, first at step 0, and its pull is applied after the step. `beta` is
the option, so that alpha = beta / W follows the number of workers when that changes.

Asynchronously (Algorithm 1), each worker by itself whenever `period` divides its own step count:

    e = alpha (x_i - c)        c <- c + e        x_i <- x_i - eta g_i(x_i) - e

Both conserve c + sum_i x_i where eta = 0. What the method gives is the centre. Its stationary points need not be
stationary points of f: see docs/easgd.md for one that is not.

The inner optimizer is the config's own, and never sees the pull; with momentum in it, use EAMSGD if you mean the
paper's. `beta` 0 exchanges nothing: independent workers, and a centre that stays where it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tune_platform.distributed.strategy import option_choice, option_number
from tune_platform.trainables.strategies.centre import CentreStrategy

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class EASGD(CentreStrategy):
    """See the module for the equations.

    Options beside those of `CentreStrategy`: `beta`, 0 .. 1; `init`: "same" initial parameters for all workers, or
    "different", and the centre begins as their mean.

    Reports `centre_distance`: |x_i - c| at the last exchange.
    """

    name: ClassVar[str] = "easgd"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {**CentreStrategy.DEFAULTS, "beta": 0.9, "init": "same"}

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self.beta = option_number(self.name, self.options, "beta", 0, 1)
        self._init = option_choice(self.name, self.options, "init", ("same", "different"))
        self._pull: Tensor | None = None
        self._distance = 0.0

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        super().setup(worker)
        if self._init == "different" and not worker.place.fresh:
            worker.comm.all_reduce(self.centre)

    def seed_purpose(self, rank: int) -> str:
        """See `Strategy.seed_purpose`."""
        return "model" if self._init == "same" else f"model {rank}"

    def before_step(self) -> None:
        """Exchange where it is time: the pull is that of the parameters before the step."""
        self._pull = None
        if self.beta > 0 and self.worker.updates % self.period == 0:
            x = self.flat.read()
            difference = x - self.exchange(x.clone())
            self._distance = float(difference.norm())
            self._pull = difference.mul_(self.beta / self.worker.comm.size)

    @torch.no_grad()
    def after_step(self, loss: Tensor) -> None:
        """Apply the pull: past the optimizer, which would scale it or keep it in its momentum."""
        if self._pull is not None:
            for tensor, part in self.flat.pairs(self._pull):
                tensor.sub_(part)
            self._pull = None

    def together(self, vector: Tensor) -> Tensor:
        """Move the centre towards the mean; return where it was, which is what the workers are pulled to."""
        old = self.centre
        mean = self.worker.comm.all_reduce(vector)
        self.centre = torch.lerp(old, mean, self.beta)
        return old

    def serve(self, vector: Tensor) -> Tensor:
        """Move the centre towards one worker; return where it was."""
        old = self.centre
        self.centre = torch.lerp(old, vector, self.beta / self.worker.comm.size)
        return old

    def metrics(self) -> dict[str, float]:
        """Return the distance to the centre."""
        return {"centre_distance": self._distance}

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """See `CentreStrategy.bytes_per_step`; nothing is sent with `beta` 0."""
        if options.get("beta") == 0:
            return 0.0
        return super().bytes_per_step(parameters, workers, options)
