"""Attacks: they stay in the ball, they are as strong as they should be, and they leave the network alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tune_platform.trainables.digits import Dropout
from tune_platform.trainables.robustness.attacks import (
    Attack,
    pgd,
    project,
    sign_ascent,
    start_of,
    survives_multi_targeted,
    survives_pgd,
    visit,
)
from tune_platform.trainables.robustness.trainable import Parts, Training
from tune_platform.trainables.runtime import generator

EPS = 0.1


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(classes: int = 3, pixels: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))


@pytest.mark.parametrize("start", ["uniform", "gaussian", "image"])
@pytest.mark.parametrize("eps", [0.0, 0.03, 0.2])
def test_adversarial_images_stay_in_the_ball_and_in_range(
    natural: Training, parts: Parts, start: Any, eps: float
) -> None:
    images, labels = parts.test[0][:40], parts.test[1][:40]
    moved = pgd(natural.model, images, labels, Attack(eps, start=start), draws())
    assert (moved - images).abs().max() <= eps + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    if eps == 0:
        assert torch.equal(moved, images)
    else:
        assert (moved - images).abs().max() > 0.9 * eps  # it goes to the edge


def test_starts_are_spread_as_they_should_be() -> None:
    images = torch.full((200, 1, 8, 8), 0.5)
    uniform = start_of(images, Attack(0.2), draws()) - images
    assert abs(float(uniform.mean())) < 0.01
    assert float(uniform.std()) == pytest.approx(0.2 / 3**0.5, rel=0.03)
    beside = start_of(images, Attack(0.2, start="gaussian"), draws()) - images
    assert float(beside.std()) == pytest.approx(1e-3, rel=0.03)


def test_projection_by_hand() -> None:
    images = torch.tensor([0.0, 0.5, 0.95])
    assert project(torch.tensor([-1.0, 0.8, 1.2]), images, 0.1).tolist() == pytest.approx([0.0, 0.6, 1.0])


def test_on_a_linear_network_pgd_finds_the_worst_corner() -> None:
    """For two classes the loss rises along z_1 - z_0, so the optimum is x + eps sign(w_1 - w_0)."""
    model = linear(classes=2)
    weight = model[1].weight  # type: ignore[index]
    images = torch.full((5, 1, 2, 2), 0.5)
    labels = torch.zeros(5, dtype=torch.long)
    moved = pgd(model, images, labels, Attack(EPS, steps=10), draws())
    corner = 0.5 + EPS * (weight[1] - weight[0]).sign().view(1, 2, 2)
    assert torch.allclose(moved, corner.expand_as(moved), atol=1e-6)


def test_one_step_by_hand() -> None:
    images, start = torch.full((1, 1, 1, 2), 0.5), torch.full((1, 1, 1, 2), 0.5)
    moved = sign_ascent(
        lambda x: (x[..., 0] - x[..., 1]).flatten(), images, start, Attack(0.2, steps=1, step_size=0.05)
    )
    assert moved.flatten().tolist() == pytest.approx([0.55, 0.45])


def test_only_who_keeps_records_pays_for_the_last_point() -> None:
    seen: list[float] = []

    def objective(x: Tensor) -> Tensor:
        seen.append(x.flatten()[0].item())
        return x.flatten(1).sum(1)

    images, attack = torch.full((1, 1, 1, 2), 0.5), Attack(0.25, steps=2, step_size=0.125)
    sign_ascent(objective, images, images, attack)
    assert seen == [0.5, 0.625]
    seen.clear()
    visit(objective, images, images, attack)
    assert seen == [0.5, 0.625, 0.75]


def test_a_radius_of_zero_leaves_the_clean_accuracy(natural: Training, parts: Parts) -> None:
    images, labels = parts.test[0][:], parts.test[1]
    clean = natural.model(images).argmax(1) == labels
    assert torch.equal(survives_pgd(natural.model, images, labels, Attack(0.0), draws()), clean)
    assert torch.equal(survives_multi_targeted(natural.model, images, labels, Attack(0.0, steps=2), draws()), clean)


@pytest.mark.parametrize("attack", [survives_pgd, survives_multi_targeted])
def test_accuracy_falls_with_the_radius(robust: Training, parts: Parts, attack: Any) -> None:
    images, labels = parts.test[0][:150], parts.test[1][:150]
    shares = [float(attack(robust.model, images, labels, Attack(eps), draws()).float().mean())
              for eps in (0.0, 0.03, 0.1, 0.2, 0.4)]  # fmt: skip
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[1] > shares[-1]


def test_multi_targeted_is_at_least_as_strong_as_pgd(natural: Training, robust: Training, parts: Parts) -> None:
    images, labels = parts.test[0][:], parts.test[1]
    for training in (natural, robust):
        clean = (training.model(images).argmax(1) == labels).float().mean()
        by_pgd = survives_pgd(training.model, images, labels, Attack(EPS), draws()).float().mean()
        targeted = (
            survives_multi_targeted(training.model, images, labels, Attack(EPS, steps=20), draws()).float().mean()
        )
        assert float(targeted) <= float(by_pgd) + 0.01
        assert float(by_pgd) <= float(clean)


def test_multi_targeted_tries_every_class() -> None:
    """An image that only its least likely class can take is broken, whatever the order of the logits."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            up = x.flatten(1).mean(1) - 0.5
            return torch.stack([torch.zeros_like(up), torch.full_like(up, -0.1), -1 + 30 * up], 1)

    images, labels = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.long)
    assert not survives_multi_targeted(Odd(), images, labels, Attack(0.1, steps=20), draws()).any()
    assert survives_multi_targeted(Odd(), images, labels, Attack(0.02, steps=20), draws()).all()


def test_more_restarts_break_more(robust: Training, parts: Parts) -> None:
    images, labels = parts.test[0][:], parts.test[1]
    once = survives_pgd(robust.model, images, labels, Attack(0.15, steps=2), draws())
    often = survives_pgd(robust.model, images, labels, Attack(0.15, steps=2, restarts=5), draws())
    assert bool((often <= once).all())  # the first start is the same, so none comes back
    assert int(often.sum()) < int(once.sum())


def test_images_do_not_see_each_other(robust: Training, parts: Parts) -> None:
    images, labels = parts.test[0][:20], parts.test[1][:20]
    attack = Attack(EPS, start="image")
    together = pgd(robust.model, images, labels, attack, draws())
    alone = torch.cat([pgd(robust.model, images[i : i + 1], labels[i : i + 1], attack, draws()) for i in range(20)])
    assert (together - alone).abs().gt(1e-4).float().mean() < 0.01  # but for rounding, where a gradient is nearly zero


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_network_is_left_as_it_was_found(mode: Any) -> None:
    masks = draws(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), Dropout(0.5, masks), nn.Linear(16, 10))
    model[1].requires_grad_(False)  # frozen by somebody else: stays so
    model.train()
    model[2].eval()
    before, state = copy.deepcopy(model.state_dict()), masks.get_state()
    images, labels = torch.rand(20, 1, 8, 8, generator=draws()), torch.arange(20) % 10
    pgd(model, images, labels, Attack(EPS), draws(), mode)
    assert [module.training for module in model] == [True, True, False, True, True]
    assert [p.requires_grad for p in model[1].parameters()] == [False, False]
    assert all(p.requires_grad and p.grad is None for p in model[4].parameters())
    same = all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert same == (mode == "eval")  # in train mode batch norm sees the attack: that is what it is for
    assert torch.equal(masks.get_state(), state) == (mode == "eval")


def test_an_attack_that_fails_restores_the_network() -> None:
    model = linear()
    model.train()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        pgd(model, torch.rand(2, 1, 3, 3), torch.zeros(2, dtype=torch.long), Attack(EPS), draws())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_seed_decides(natural: Training, parts: Parts) -> None:
    images, labels = parts.test[0][:10], parts.test[1][:10]
    one, again, other = (pgd(natural.model, images, labels, Attack(EPS), generator("cpu", s, "x")) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": -0.1}, "eps is a radius in pixel values"),
        ({"eps": 8.0}, r"below 0\.5 .* got 8\.0\. A radius in steps of 255 is to be divided by 255"),
        ({"eps": float("nan")}, "eps is a radius"),
        ({"eps": 0.1, "steps": 0}, "at least one step"),
        ({"eps": 0.1, "restarts": 0}, "at least one step and one start"),
        ({"eps": 0.1, "step_size": 0.0}, "step_size is positive"),
        ({"eps": 0.1, "start": "corner"}, "start is one of uniform, gaussian, image, got 'corner'"),
    ],
)
def test_bad_attacks(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attack(**arguments)
