"""Bytes that strategies send, counted: on a million parameters, and on ResNet-50's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from tune_platform.distributed import DistributedTrainable, Gang
from tune_platform.trainable import TrialContext
from tune_platform.trainables.strategies import STRATEGIES
from tune_platform.trainables.strategies.peer_copies import packed_size


class _Million(DistributedTrainable):
    """A million parameters and next to no work."""

    strategies = STRATEGIES

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        """Return one layer of 1,000 x 1,000."""
        return torch.nn.Linear(1000, 1000, bias=False)

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> list[Tensor]:
        """Return the same small batch."""
        return [torch.ones(1, 1000)]

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean output."""
        found: Tensor = model(batch).mean()
        return found


def measure_bytes(strategy: Mapping[str, Any], updates: int, workers: int = 2) -> tuple[float, float]:
    """Return the bytes per step over all links, counted, and by the strategy's formula."""
    config = {"strategy": dict(strategy), "updates": updates, "report_every": updates, "lr": 0.0}
    counted = _bytes_per_step(_Million, config, workers)
    options = {name: value for name, value in strategy.items() if name != "name"}
    kind = STRATEGIES[str(strategy["name"])]
    formula = kind.bytes_per_step(1_000_000, workers, {**kind.DEFAULTS, **options})
    return counted, formula


def _bytes_per_step(kind: type[DistributedTrainable], config: Mapping[str, Any], workers: int) -> float:
    trainable = kind(TrialContext(seed=1, gang=Gang("threads", workers)))
    trainable.setup(dict(config))
    counted = float(trainable.step()["bytes_per_step"])
    trainable.cleanup()
    return counted


class _Tensors(nn.Module):
    """All of ResNet-50's parameters and buffers, of which the forward pass uses the last bias."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.network = resnet50(weights=None)
        self.network.to_empty(device="cpu")
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            tensor.detach().zero_()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.network.fc.bias
        return found


class _ResNet50(DistributedTrainable):
    """Trains the last bias only: what is exchanged does not depend on what the steps do."""

    strategies = STRATEGIES

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        model = _Tensors()
        model.requires_grad_(config["all_gradients"]).network.fc.bias.requires_grad_()
        return model

    def build_optimizer(self, config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> list[Tensor]:
        return [torch.zeros(1, 1000)]

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        found: Tensor = model(batch).mean()
        if self.config["all_gradients"]:
            found = found + sum(0 * parameter.sum() for parameter in model.parameters())
        return found

    def total_updates(self, config: Mapping[str, Any], data: Any) -> int:
        return int(config["updates"])


def resnet50_bytes_ratio(period: float = 0.01, updates: int = 45 * 5004, steps: int | None = None) -> dict[str, float]:
    """Count the bytes per step of codistillation and of all-reduce on ResNet-50's tensors, two workers each.

    `period` is the share of the training, of `updates` inner steps (45 epochs of ImageNet at 256), between exchanges.
    Codistillation runs for `steps` (default: one whole period, which has one exchange); all-reduce for one.
    Returns `codistillation` and `all_reduce` (bytes per step over all links), their `ratio`, `steps` and the bytes
    of one `checkpoint`. Takes about 2 GB, and some seconds.
    """
    steps = steps if steps is not None else max(1, round(period * updates))
    config = {"updates": updates, "report_every": steps, "all_gradients": False}
    strategy = {
        "name": "codistillation",
        "period": period,
        "stagger": False,
    }  # one exchange to a period, also the first
    ours = _bytes_per_step(_ResNet50, {**config, "strategy": strategy}, 2)
    reduced = {"strategy": {"name": "all_reduce"}, "report_every": 1, "all_gradients": True}
    theirs = _bytes_per_step(_ResNet50, {**config, **reduced}, 2)
    return {
        "codistillation": ours, "all_reduce": theirs, "ratio": ours / theirs, "steps": float(steps),
        "checkpoint": float(packed_size(_Tensors())),
    }  # fmt: skip
