"""Losses without data on which the workers' forces can be followed: a double well, and low-rank matrix factorisation.

The gradient is exact, so that whatever stands still does so by the method. Parameters are in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tune_platform.distributed import DistributedTrainable, TrainingWorker
from tune_platform.distributed.member import Place
from tune_platform.trainables.runtime import generator
from tune_platform.trainables.strategies import STRATEGIES


class SurfaceWorker(TrainingWorker):
    """Tells its recipe which worker it is, so that each can begin at a place of its own."""

    def __init__(self, recipe: Surface, place: Place) -> None:
        recipe.number = place.worker
        super().__init__(recipe, place)

    def evaluate(self) -> dict[str, Any] | None:
        """Return the metrics of the strategy's model, and lists by worker: `losses`, `gradient_norms`, `places`.

        A place is the first value of a worker's parameters: all of it, in one dimension.
        """
        found = super().evaluate()
        own = self.recipe.evaluate(self.model)
        place = float(self.model.get_parameter("x").detach().flatten()[0])
        mine = torch.tensor([own["loss"], own["gradient_norm"], place], dtype=torch.float64)
        losses, norms, places = self.comm.all_gather(mine).T.tolist()
        return {**found, "losses": losses, "gradient_norms": norms, "places": places} if found is not None else None


class Point(nn.Module):
    """A parameter that is all there is of the model."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self) -> Tensor:
        """Return it."""
        return self.x


class Surface(DistributedTrainable):
    """A loss of one tensor; override `value` and `start`. `evaluate` gives `loss` and `gradient_norm`."""

    strategies = STRATEGIES
    worker_class: ClassVar[type[TrainingWorker]] = SurfaceWorker
    number = 0

    def value(self, x: Tensor) -> Tensor:
        """Return the loss at x."""
        raise NotImplementedError

    def start(self, config: Mapping[str, Any]) -> Tensor:
        """Return where this worker begins; draws come from torch's generator, by the strategy's `init`."""
        raise NotImplementedError

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the point."""
        return Point(self.start(config))

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> list[int]:
        """Return one batch, in which nothing is."""
        return [0]

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss."""
        return self.value(model())

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return loss and gradient norm of what the strategy evaluates."""
        with torch.enable_grad():
            x = model().detach().requires_grad_()
            loss = self.value(x)
            loss.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return {"loss": loss.item(), "gradient_norm": x.grad.norm().item()}


class DoubleWell(Surface):
    """f(x) = (x^2 - 1)^2 / 4, with minima at -1 and 1; worker i begins at `config["starts"][i]`."""

    def value(self, x: Tensor) -> Tensor:
        """Return f(x), summed."""
        return ((x.square() - 1).square() / 4).sum()

    def start(self, config: Mapping[str, Any]) -> Tensor:
        """Return this worker's place."""
        return torch.tensor([config["starts"][self.number]], dtype=torch.float64)


class Factorisation(Surface):
    """f(U) = |U U' - M|^2 / 4 for U of shape (`size`, `rank`); M = A A' / |A A'|_2, A normal by the trial's seed.

    Every U Q with an orthogonal Q is as good as U: the minima form a symmetric set, and the mean of two is none.
    """

    _target: Tensor | None = None

    def value(self, x: Tensor) -> Tensor:
        """Return f(U)."""
        difference: Tensor = x @ x.T - self.target()
        return difference.square().sum() / 4

    def target(self) -> Tensor:
        """Return M."""
        if self._target is None:
            draws = generator("cpu", self.context.seed, "matrix")
            factor = torch.randn(
                int(self.config["size"]), int(self.config["rank"]), generator=draws, dtype=torch.float64
            )
            product = factor @ factor.T
            target: Tensor = product / torch.linalg.matrix_norm(product, 2)
            self._target = target
        return self._target

    def start(self, config: Mapping[str, Any]) -> Tensor:
        """Return a small random U."""
        size, rank = int(config["size"]), int(config["rank"])
        start: Tensor = torch.randn(size, rank, dtype=torch.float64) / size**0.5
        return start
