"""The optimiser of the paper's kind: a faster head, a schedule of each round, batch normalisation that may freeze."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tune_platform.trainables.schedules import rate_factor
from tune_platform.trainables.zero_label.network import ProjectionNet, head


def poly(step: int, steps: int, power: float = 0.9, warmup: float = 0.05) -> float:
    """Return the factor of the learning rate at `step` of `steps`: (1 - step / steps)^power, after a linear start."""
    rise = max(1, round(warmup * steps))
    return float(min(1.0, (step + 1) / rise) * (1 - step / steps) ** power)


def factor(config: Mapping[str, Any], step: int, steps: int) -> float:
    """Return the factor of the learning rate at `step` of the `steps` of a round, as `schedule` and `warmup` say."""
    warmup = config["warmup"]
    if config["schedule"] == "poly":
        return poly(step, steps) if warmup is None else poly(step, steps, warmup=float(warmup))
    return rate_factor(str(config["schedule"]), step, steps, float(warmup or 0))


def train_mode(model: nn.Module, frozen_norm: bool) -> None:
    """Put `model` in training mode, its batch normalisation in evaluation mode if `frozen_norm`."""
    model.train()
    if frozen_norm:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def build_optimizer(config: Mapping[str, Any], model: ProjectionNet, lr: float) -> torch.optim.Optimizer:
    """Return "sgd" (momentum 0.9) or "adamw".

    The head's weights learn `head_lr` times as fast as the rest; its biases twice that, where the head is faster at
    all, and without weight decay.
    """
    last = {id(p) for p in head(model.backbone).parameters()}
    rest = [p for p in model.parameters() if id(p) not in last]
    weights = [p for p in model.parameters() if id(p) in last and p.ndim > 1]
    biases = [p for p in model.parameters() if id(p) in last and p.ndim == 1]
    factor, decay = float(config["head_lr"]), float(config["weight_decay"])
    groups: list[dict[str, Any]] = [
        {"params": rest, "lr": lr},
        {"params": weights, "lr": factor * lr},
        {"params": biases, "lr": (2 * factor if factor != 1 else 1) * lr, "weight_decay": 0.0},
    ]
    if config["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=decay)
    return torch.optim.AdamW(groups, lr=lr, weight_decay=decay)
