"""The local Lipschitz constant: bounds by brute force on linear maps, invariances, and the sign of the ascent."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tune_platform.trainables.robustness.attacks import Attack, start_of
from tune_platform.trainables.robustness.lipschitz import local_lipschitz
from tune_platform.trainables.robustness.trainable import Parts, Training

ATTACK = Attack(0.1, steps=20)


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Scaled(nn.Module):
    """`scale` times a network, plus a constant vector."""

    def __init__(self, model: nn.Module, scale: float, plus: Tensor | None = None) -> None:
        super().__init__()
        self.model, self.scale, self.plus = model, scale, plus

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.model(x)
        return logits if self.plus is None else logits + self.plus


@pytest.mark.parametrize("seed", range(4))
def test_linear_maps_are_bounded_by_brute_force(seed: int) -> None:
    """max |W d|_1 over |d|_inf <= 1 is the largest |W^T s|_1 over signs s: enumerated. The ascent comes near it."""
    torch.manual_seed(seed)
    weight = torch.randn(5, 16)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    model[1].weight.data.copy_(weight)  # type: ignore[operator]
    exact = max(float((weight.T @ torch.tensor(s)).abs().sum()) for s in itertools.product((-1.0, 1.0), repeat=5))
    images = torch.full((8, 1, 4, 4), 0.5)
    found = local_lipschitz(model, images, Attack(0.1, steps=20, restarts=3), draws())
    assert float(found.max()) <= exact * (1 + 1e-3)
    assert float(found.min()) >= 0.75 * exact


def test_scaling_and_shifting_the_logits(natural: Training, parts: Parts) -> None:
    images = parts.test[0][:30]
    plain = local_lipschitz(natural.model, images, ATTACK, draws())
    triple = local_lipschitz(Scaled(natural.model, 4.0), images, ATTACK, draws())  # a power of two: the same path
    assert torch.allclose(triple, 4 * plain, rtol=1e-4)
    moved = local_lipschitz(Scaled(natural.model, 1.0, torch.arange(10.0)), images, ATTACK, draws())
    assert float(moved.mean()) == pytest.approx(float(plain.mean()), rel=0.02)  # equal but for rounding on the way


def test_at_least_the_ratio_at_the_start_and_at_every_shorter_ascent(natural: Training, parts: Parts) -> None:
    images = parts.test[0][:30]
    start = start_of(images, Attack(0.1, start="gaussian"), draws())
    with torch.no_grad():
        rise = (natural.model(start) - natural.model(images)).abs().sum(1)
    at_start = rise / (start - images).flatten(1).abs().amax(1)
    found = local_lipschitz(natural.model, images, ATTACK, draws())
    assert bool((found >= at_start * (1 - 1e-5)).all())
    assert float(found.mean()) > 2 * float(at_start.mean())
    once, thrice = (
        local_lipschitz(natural.model, images, Attack(0.1, steps=3, restarts=count), draws()) for count in (1, 3)
    )
    assert bool((thrice >= once).all())


def test_bounded_by_the_gradients_at_a_tiny_radius(natural: Training, parts: Parts) -> None:
    """Near x the network is linear: |J d|_1 / |d|_inf <= sum_k |grad f_k|_1."""
    images = 0.1 + 0.8 * parts.test[0][:10].double()  # inside of [0, 1], so that every direction is open
    model = natural.model.double()
    try:
        point = images.clone().requires_grad_()
        logits = model(point)
        bound = torch.zeros(10, dtype=torch.double)
        for k in range(10):
            (gradient,) = torch.autograd.grad(logits[:, k].sum(), point, retain_graph=True)
            bound += gradient.flatten(1).abs().sum(1)
        found = local_lipschitz(model, images, Attack(1e-6, steps=10), draws())
        assert bool((found <= bound * 1.001).all())
        assert bool((found >= 0.3 * bound).all())
    finally:
        natural.model.float()


def test_the_ascent_ascends(natural: Training, parts: Parts) -> None:
    """The released estimator steps down the ratio, and finds less than chance does: the sign is guarded here."""
    images = parts.test[0][:50]
    found = local_lipschitz(natural.model, images, Attack(0.1, steps=10), draws())
    released = local_lipschitz(natural.model, images, Attack(0.1, steps=10), draws(), as_released=True)
    by_chance = images + 0.1 * (2 * torch.rand(images.shape, generator=draws()) - 1)
    by_chance = by_chance.clamp(0, 1)
    with torch.no_grad():
        rise = (natural.model(by_chance) - natural.model(images)).abs().sum(1)
    chance = rise / (by_chance - images).flatten(1).abs().amax(1)
    assert bool((found > released).all())
    assert float(released.mean()) < float(chance.mean()) < float(found.mean())


def test_robust_training_lowers_it(natural: Training, robust: Training, parts: Parts) -> None:
    images = parts.test[0][:100]
    rough, smooth = (float(local_lipschitz(t.model, images, ATTACK, draws()).mean()) for t in (natural, robust))
    assert smooth < 0.7 * rough


@pytest.mark.parametrize("options", [{"top": "kl"}, {"space": "softmax"}])
def test_other_distances(natural: Training, parts: Parts, options: dict[str, Any]) -> None:
    images = parts.test[0][:20]
    found = local_lipschitz(natural.model, images, ATTACK, draws(), **options)
    assert bool((found > 0).all())
    if options.get("space") == "softmax":  # two distributions are at most 2 apart in L1
        assert float(found.max()) <= 2 / 1e-3


def test_kl_by_hand() -> None:
    """One pixel x and logits (x, 0): KL(p(x) || p(x')) / |x - x'| is largest at the edge that is farther in logit."""

    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = 5 * x.flatten(1)
            return torch.cat([z, torch.zeros_like(z)], 1)

    image = torch.full((1, 1, 1, 1), 0.2)
    edges = image + torch.tensor([-0.1, 0.1]).view(2, 1, 1, 1)
    a, b = One()(image).log_softmax(1), One()(edges).log_softmax(1)
    best = float(((a.exp() * (a - b)).sum(1) / 0.1).max())
    found = local_lipschitz(One(), image, Attack(0.1, steps=10, restarts=8), draws(), top="kl")
    assert float(found) == pytest.approx(best, rel=1e-3)


def test_bad_arguments(natural: Training, parts: Parts) -> None:
    with pytest.raises(ValueError, match="takes eps above 0, got 0"):
        local_lipschitz(natural.model, parts.test[0][:2], Attack(0.0), draws())
    with pytest.raises(ValueError, match=r"top is 'l1' or 'kl' .* got 'l2'"):
        local_lipschitz(natural.model, parts.test[0][:2], ATTACK, draws(), top="l2")  # type: ignore[arg-type]
