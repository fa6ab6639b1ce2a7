"""EAMSGD: EASGD whose workers move with Nesterov's momentum (Zhang et al. 2015, section 2.3).

In Sutskever's form, momentum delta, and the gradient taken where momentum alone would lead:

    v_i <- delta v_i      x_i <- x_i + v_i      g = grad f_i(x_i)      x_i <- x_i - eta g      v_i <- v_i - eta g

Every `period` steps the elastic pull of EASGD, computed before all of this and applied after it; v_i is left as it is
and is not exchanged. Weight decay belongs to g.

The momentum is the strategy's: the worker's inner optimizer has to be plain SGD, or there would be two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from tune_platform.distributed.strategy import option_number
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.easgd import EASGD

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class EAMSGD(EASGD):
    """See the module for the equations; `delta` (0 .. 1, the authors' 0.99) beside the options of EASGD.

    Raises SpecError where the inner optimizer is not plain SGD. Who joins begins with v = 0.
    """

    name: ClassVar[str] = "eamsgd"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {**EASGD.DEFAULTS, "delta": 0.99}

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self.delta = option_number(self.name, self.options, "delta", 0, 1)

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        optimizer = worker.optimizer
        if type(optimizer) is not torch.optim.SGD:
            raise SpecError(
                f"strategy {self.name!r} brings its own momentum (delta={self.delta:g}) and needs plain SGD inside, "
                f"got {type(optimizer).__name__}: choose SGD, or strategy 'easgd', which takes any inner optimizer"
            )
        for group in optimizer.param_groups:
            if group["momentum"] or group["nesterov"] or group["maximize"]:
                raise SpecError(
                    f"strategy {self.name!r} brings its own momentum (delta={self.delta:g}): set the inner optimizer's "
                    f"momentum to 0 and nesterov and maximize to false, got momentum={group['momentum']!r}, "
                    f"nesterov={group['nesterov']!r}, maximize={group['maximize']!r}"
                )
        super().setup(worker)
        self.velocity = [torch.zeros_like(parameter) for parameter in self.parameters]

    def _moving(self) -> Iterator[tuple[dict[str, Any], nn.Parameter, torch.Tensor]]:
        """Go through the trained parameters with their group in the optimizer and their v."""
        velocity = dict(zip(self.parameters, self.velocity, strict=True))
        for group in self.worker.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in velocity:
                    yield group, parameter, velocity[parameter]

    @torch.no_grad()
    def before_step(self) -> None:
        """Exchange where it is time, then go where the momentum leads."""
        super().before_step()
        for _, parameter, v in self._moving():
            parameter.add_(v.mul_(self.delta))

    @torch.no_grad()
    def after_backward(self) -> None:
        """Take the step that the optimizer is about to take into v as well; its rate is that in force now."""
        for group, parameter, v in self._moving():
            if parameter.grad is None:
                continue
            gradient = parameter.grad
            if group["weight_decay"]:
                gradient = gradient.add(parameter, alpha=group["weight_decay"])
            v.add_(gradient, alpha=-float(group["lr"]))

    def state_dict(self) -> dict[str, Any]:
        """Return the centre and v."""
        return {**super().state_dict(), "velocity": [v.clone() for v in self.velocity]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Strategy.load_state_dict`."""
        super().load_state_dict(state)
        for v, saved in zip(self.velocity, state["velocity"], strict=True):
            v.copy_(saved)
