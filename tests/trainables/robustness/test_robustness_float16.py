"""Robust training in float16: attacks see the small gradients of confident images, and methods have their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tune_platform.trainables.robustness.attacks import Attack, analysed, in_float16, pgd, scaled_gradient
from tune_platform.trainables.robustness.methods import METHODS, build_method
from tune_platform.trainables.robustness.trainable import Parts, Training, complete
from tune_platform.trainables.runtime import autocast

CPU = torch.device("cpu")
CNN: dict[str, Any] = {"model": "cnn", "width": 8, "epochs": 3, "lr": 0.01, "train_size": 400, "batch_size": 16}


@pytest.fixture(scope="module")
def cnn(parts: Parts) -> nn.Module:
    training = Training(CNN, parts, seed=1)
    for _ in range(3):
        training.learn()
    return training.model.eval()


class Sure(nn.Module):
    """A network that is far surer than it was: its small gradients are what float16 has no numbers for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return five times the logits."""
        logits: Tensor = 5 * self.model(x)
        return logits


def found(model: nn.Module, x: Tensor, y: Tensor, precision: str) -> Tensor:
    with analysed(model), autocast(CPU, precision):
        return pgd(model, x, y, Attack(0.1, 10), torch.Generator().manual_seed(0)) - x


@pytest.mark.parametrize("sure", [False, True])
def test_an_attack_goes_where_that_in_float32_goes(sure: bool, cnn: nn.Module, parts: Parts) -> None:
    model = Sure(cnn) if sure else cnn
    x, y = parts.val[0][:200], parts.val[1][:200]
    assert torch.is_tensor(x)
    single, half = (found(model, x, y, precision).sign() for precision in ("float32", "float16"))
    assert float((single == half).float().mean()) > 0.98


def test_without_factors_confident_images_have_no_gradient(cnn: nn.Module, parts: Parts) -> None:
    model, x, y = Sure(cnn), parts.val[0][:200], parts.val[1][:200]

    def gradients(precision: str) -> tuple[Tensor, Tensor, Tensor | None]:
        with analysed(model), autocast(CPU, precision):
            points = x.clone().requires_grad_()
            losses = functional.cross_entropy(model(points), y, reduction="none")
            (plain,) = torch.autograd.grad(losses.sum(), points, retain_graph=True)
            return plain, *scaled_gradient(losses, points)

    exact, same, none = gradients("float32")
    assert none is None
    assert torch.equal(exact, same)
    plain, scaled, factors = gradients("float16")
    assert factors is not None
    assert factors.shape == y.shape
    there = exact != 0
    agrees = [float((each.sign() == exact.sign())[there].float().mean()) for each in (plain, scaled)]
    assert agrees[0] < 0.7
    assert agrees[1] > 0.99


def test_factors_come_down_from_what_overflows() -> None:
    values, points = torch.tensor([1e-30, 3.0, 0.0]), torch.ones(3, 1, requires_grad=True)
    weights = torch.tensor([[1e-9], [1e6], [0.0]])
    with autocast(CPU, "float16"):
        assert in_float16(CPU)
        gradient, _ = scaled_gradient((points * weights).sum(1) + values, points)
    assert not in_float16(CPU)
    assert gradient.sign().tolist() == [[1], [1], [0]]
    assert float(gradient[:2].min()) > 2.0**-7
    assert float(gradient[:2].max()) < 2.0**7


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("precision", "least", "off"), [("float16", 0.995, 0.02), ("bfloat16", 0.97, 0.05)])
def test_each_method_has_the_gradient_of_float32(
    method: str, precision: str, least: float, off: float, cnn: nn.Module, parts: Parts
) -> None:
    """LLR differentiates a gradient once more. TRADES begins 0.001 beside the image: the KL is next to 0."""
    chosen = build_method(complete({**CNN, "method": method}))
    x, y = parts.val[0][:100], parts.val[1][:100]
    assert torch.is_tensor(x)
    gradients = []
    for each in ("float32", precision):
        cnn.zero_grad()
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=each == "float16")
        with autocast(CPU, each):
            loss = chosen.loss(cnn, x, y, torch.Generator().manual_seed(0))
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        flat = torch.cat([p.grad.flatten() for p in cnn.parameters() if p.grad is not None])
        gradients.append(flat / scaler.get_scale())
    assert float(torch.cosine_similarity(gradients[0], gradients[1], dim=0)) > least
    assert float(gradients[1].norm() / gradients[0].norm()) == pytest.approx(1, abs=off)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains(method: str, parts: Parts) -> None:
    losses = []
    for precision in ("float32", "float16"):
        training = Training({**CNN, "method": method, "precision": precision, "attack_steps": 3}, parts, seed=2)
        begun = [p.detach().clone() for p in training.model.parameters()]
        training.learn()
        losses.append(training.learn()["train_loss"])
        assert not all(map(torch.equal, begun, training.model.parameters()))
    assert losses[1] == pytest.approx(losses[0], rel=0.15)


def test_the_clip_is_of_the_gradient_and_not_of_the_scaled_one(parts: Parts) -> None:
    moved = []
    for limit in (0.0, 1e3):
        config = {**CNN, "precision": "float16", "optimizer": "sgd", "max_grad_norm": limit}
        training = Training(config, parts, seed=2)
        training.learn()
        moved.append(torch.cat([p.detach().flatten() for p in training.model.parameters()]))
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-4)


def test_images_that_see_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="precision: float16 scales the gradient of each attacked image by itself"):
        complete({"precision": "float16", "attack_mode": "train"})
