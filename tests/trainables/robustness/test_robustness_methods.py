"""Each loss against a hand-computed case, its limits, its gradients, and the defects of the released code."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tune_platform.trainables.digits import Dropout
from tune_platform.trainables.robustness.attacks import Attack, pgd, start_of
from tune_platform.trainables.robustness.methods import (
    METHODS,
    AdversarialTraining,
    GradientRegularisation,
    LocalLinearity,
    Method,
    Natural,
    RobustSelfTraining,
    Trades,
    build_method,
    kl,
)
from tune_platform.trainables.robustness.trainable import DEFAULTS

ATTACK = Attack(0.1, steps=3)
ALL: list[Method] = [
    Natural(),
    GradientRegularisation(),
    LocalLinearity(Attack(0.1, 2, 0.05)),
    AdversarialTraining(ATTACK),
    RobustSelfTraining(ATTACK, 2.0),
    Trades(Attack(0.1, 3, start="gaussian"), 6.0),
]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(dropout: float = 0.0, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), Dropout(dropout, draws(seed)), nn.Linear(12, 4)
    )  # fmt: skip


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 1, 4, 4, generator=draws(5)), torch.arange(count) % 4


def value(method: Method, model: nn.Module | None = None, seed: int = 0) -> float:
    return method.loss(model or network(), *batch(), draws(seed)).item()


def gradients(method: Method, model: nn.Module) -> list[Tensor]:
    model.zero_grad()
    method.loss(model, *batch(), draws(9)).backward()  # type: ignore[no-untyped-call]
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


# ---------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(
    "method",
    [
        GradientRegularisation(0.0),
        LocalLinearity(Attack(0.1, 2, 0.05), 0.0, 0.0),
        RobustSelfTraining(ATTACK, 0.0),
        Trades(Attack(0.1, 3, start="gaussian"), 0.0),
    ],
)
def test_without_weight_every_method_is_natural_training(method: Method, dropout: float) -> None:
    plain, other = network(dropout), network(dropout)
    x, y = batch()
    assert torch.equal(Natural().loss(plain.train(), x, y, draws()), method.loss(other.train(), x, y, draws()))
    plain, other = network(dropout), network(dropout)
    for one, same in zip(gradients(Natural(), plain), gradients(method, other), strict=True):
        assert torch.equal(one, same)


def test_without_radius_adversarial_training_is_natural_training() -> None:
    natural, at, rst, trades = (
        value(method)
        for method in (
            Natural(), AdversarialTraining(Attack(0.0)), RobustSelfTraining(Attack(0.0), 2.0), Trades(Attack(0.0), 6.0)
        )
    )  # fmt: skip
    assert at == natural
    assert rst == pytest.approx(3 * natural)
    assert trades == pytest.approx(natural)


# ---------------------------------------------------------------------------------------- by hand


def test_rst_and_at_are_the_cross_entropies_they_say() -> None:
    model, (x, y) = network(), batch()
    adversarial = pgd(model, x, y, ATTACK, draws(1))
    clean, attacked = functional.cross_entropy(model(x), y), functional.cross_entropy(model(adversarial), y)
    assert attacked.item() > clean.item()
    assert value(AdversarialTraining(ATTACK), model, 1) == pytest.approx(attacked.item())
    both = value(RobustSelfTraining(ATTACK, 0.5), model, 1)
    assert both == pytest.approx(clean.item() + 0.5 * attacked.item())


def test_trades_adds_beta_times_the_mean_kl() -> None:
    model, (x, y) = network(), batch()
    method = Trades(Attack(0.1, 5, start="gaussian"), 3.0)
    adversarial = method.worst(model, x, draws(1))
    p, q = model(x).softmax(1), model(adversarial).softmax(1)
    by_hand = (p * (p / q).log()).sum(1).mean()  # KL(natural || adversarial), over images and not over classes
    expected = functional.cross_entropy(model(x), y) + 3 * by_hand
    assert value(method, model, 1) == pytest.approx(expected.item(), rel=1e-5)
    assert by_hand.item() > 0


def test_trades_attack_climbs_the_kl_and_needs_its_noise() -> None:
    model, (x, _) = network(), batch()
    moved = Trades(Attack(0.1, 10, start="gaussian")).worst(model, x, draws())
    assert kl(model(x), model(moved)).mean().item() > 10 * kl(model(x), model(x + 1e-3)).mean().item()
    assert (moved - x).abs().max() > 0.09
    norms = []
    model, x = model.double(), x.double()
    for start in ("image", "gaussian"):  # at the image itself the KL has no gradient to follow
        point = start_of(x, Attack(0.1, start=start), draws()).requires_grad_()
        (gradient,) = torch.autograd.grad(kl(model(x).detach(), model(point)).sum(), point)
        norms.append(gradient.abs().max().item())
    assert norms[0] < 1e-12 < 1e-6 < norms[1]


def test_trades_sends_gradients_through_both_passes() -> None:
    """With only one side held fixed the gradients would differ: compared with the loss written out."""
    model, (x, y) = network(), batch()
    method = Trades(Attack(0.1, 3, start="gaussian"), 6.0)
    adversarial = method.worst(model, x, draws(9))
    found = gradients(method, model)
    model.zero_grad()
    log_p, log_q = model(x).log_softmax(1), model(adversarial).log_softmax(1)
    loss = functional.cross_entropy(model(x), y) + 6 * (log_p.exp() * (log_p - log_q)).sum(1).mean()
    loss.backward()
    for one, parameter in zip(found, model.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(one, parameter.grad, atol=1e-6)


def test_kl_is_none_at_itself_and_never_negative() -> None:
    a, b = torch.randn(50, 4, generator=draws()), torch.randn(50, 4, generator=draws(1))
    assert float(kl(a, a).abs().max()) < 1e-6
    assert float(kl(a, b).min()) > 0
    expected = functional.kl_div(b.log_softmax(1), a.softmax(1), reduction="batchmean")
    assert float(kl(a, b).mean()) == pytest.approx(float(expected), rel=1e-5)


def test_gr_slope_tends_to_the_norm_of_the_gradient() -> None:
    model, (x, y) = network().double(), batch()
    x = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), y, reduction="sum"), x)
    norms = gradient.flatten(1).norm(dim=1)
    errors = [
        (GradientRegularisation(1.0, h).slope(model, x, y) - norms).abs().max().item() for h in (1e-1, 1e-2, 1e-3)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]  # first order in h
    assert errors[2] < 1e-3 * float(norms.max())


def test_gr_by_hand_on_one_pixel() -> None:
    """Logits (a x, 0), label 0: l(x) = log(1 + exp(-a x)), and its slope along the gradient's direction is known."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            z = self.a * x.flatten(1)
            return torch.cat([z, torch.zeros_like(z)], 1)

    def loss(x: float) -> float:
        return math.log1p(math.exp(-2 * x))

    x, y = torch.full((1, 1, 1, 1), 0.3), torch.tensor([0])
    slope = (loss(0.3 - 0.5) - loss(0.3)) / 0.5  # the loss falls with x, so its gradient points down
    expected = loss(0.3) + 0.5 * 4.0 * slope**2
    found = GradientRegularisation(4.0, 0.5).loss(One(), x, y, draws()).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_llr_terms_by_hand() -> None:
    model, (x, y) = network().double(), batch()
    x = x.double()
    point = x + 0.05 * torch.randn(x.shape, generator=draws(2), dtype=torch.double)
    leaf = x.clone().requires_grad_()
    losses = functional.cross_entropy(model(leaf), y, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    moved = functional.cross_entropy(model(point), y, reduction="none")
    for i in range(len(x)):  # image by image: no cross terms
        dot = float(((point[i] - x[i]) * gradient[i]).sum())
        violation, slope = LocalLinearity.terms(model, x, y, point)
        assert violation[i].item() == pytest.approx(abs((moved[i] - losses[i]).item() - dot), abs=1e-9)
        assert slope[i].item() == pytest.approx(abs(dot), abs=1e-9)
        assert abs(dot) > 1e-6  # the gradient is not an emptied buffer


def test_llr_sees_no_violation_where_the_loss_is_linear() -> None:
    class Linear(nn.Module):
        """Logits whose cross entropy with label 0 is linear in x: log-probabilities (-m, log(1 - exp(-m)))."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(0.5, 1.0, 4, dtype=torch.double))

        def forward(self, x: Tensor) -> Tensor:
            m = 1 + x.flatten(1) @ self.weight
            return torch.stack([-m, torch.log1p(-torch.exp(-m))], 1)

    x, y = torch.rand(3, 1, 2, 2, generator=draws(), dtype=torch.double), torch.zeros(3, dtype=torch.long)
    method = LocalLinearity(Attack(0.1, 2, 0.05))
    violation, slope = method.terms(Linear(), x, y, method.worst(Linear(), x, y, draws()))
    assert violation.abs().max().item() < 1e-9
    assert slope.min().item() > 0


def test_llr_attack_finds_more_violation_than_its_start() -> None:
    model, (x, y) = network(), batch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)  # far from linear
    start = x + 0.1 * (2 * torch.rand(x.shape, generator=draws(1)) - 1)
    worst = LocalLinearity(Attack(0.1, 10)).worst(model, x, y, draws(1))
    at = [LocalLinearity.terms(model, x, y, point.clamp(0, 1))[0].mean().item() for point in (start, worst)]
    assert at[1] > 1.5 * at[0]


# ---------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", ["gr", "llr", "trades"])
def test_gradients_by_finite_differences(name: str) -> None:
    """In double precision, on a smooth network, for a fixed attack: the double backward of GR and LLR included."""
    model, (x, y) = network().double(), batch(3)
    x = x.double()
    point = (x + 0.05).clamp(0, 1)
    weights = tuple(parameter.detach().clone().requires_grad_() for parameter in model.parameters())

    class Called(nn.Module):
        """The network with other weights, as a module."""

        def __init__(self, values: tuple[Tensor, ...]) -> None:
            super().__init__()
            self.values = dict(zip((key for key, _ in model.named_parameters()), values, strict=True))

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = torch.func.functional_call(model, self.values, (images,))
            return logits

    def loss(*values: Tensor) -> Tensor:
        called = Called(values)
        if name == "gr":  # the direction is held fixed, as its definition says: h is small, so that it hardly matters
            return GradientRegularisation(1.0, 1e-3).slope(called, x, y).sum()
        if name == "llr":
            violation, slope = LocalLinearity.terms(called, x, y, point)
            return violation.sum() + slope.sum()
        return kl(called(x), called(point)).sum()

    if name == "gr":
        # d/dw of the slope is that of a directional derivative along a fixed direction: equal to gradcheck's in the
        # limit, because moving a unit vector changes the norm that it realises only in second order.
        assert torch.autograd.gradcheck(loss, weights, eps=1e-6, atol=1e-2, rtol=1e-2)
    else:
        assert torch.autograd.gradcheck(loss, weights, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("method", ALL, ids=METHODS)
def test_a_loss_is_a_mean_and_reaches_every_weight(method: Method) -> None:
    model, (x, y) = network(), batch()
    found = gradients(method, model)
    assert len(found) == len(list(model.parameters()))
    assert all(bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0 for gradient in found)
    if isinstance(method, (Natural, GradientRegularisation)):  # no random start: a doubled batch has the same mean
        twice = method.loss(model, torch.cat([x, x]), torch.cat([y, y]), draws())
        assert twice.item() == pytest.approx(value(method, model), rel=1e-5)


@pytest.mark.parametrize("method", ALL, ids=METHODS)
def test_the_network_is_left_in_its_mode(method: Method) -> None:
    model = network(0.5)
    for training in (True, False):
        model.train(training)
        method.loss(model, *batch(), draws())
        assert {module.training for module in model.modules()} == {training}
        assert all(parameter.requires_grad for parameter in model.parameters())


# ---------------------------------------------------------------------------------------- pitfalls


@pytest.mark.parametrize(
    "method", [GradientRegularisation(5.0), LocalLinearity(Attack(0.1, 2, 0.05))], ids=["gr", "llr"]
)
def test_regularisers_do_not_measure_dropout_masks(method: Any) -> None:
    """What they add to the cross entropy is the same whatever the masks: it is measured on the network without them."""
    added = []
    for seed in range(4):
        model = network(0.5)
        model[3].generator.manual_seed(seed)  # type: ignore[index]
        twin = copy.deepcopy(model)
        twin[3].generator = draws(seed)  # type: ignore[index]
        added.append(value(method, model.train()) - value(Natural(), twin.train()))
    assert max(added) - min(added) < 1e-6
    assert added[0] > 0


def test_the_attack_sees_no_dropout_unless_it_is_asked_to() -> None:
    x, y = batch()
    for mode, still in (("eval", True), ("train", False)):
        model = network(0.5).train()
        masks = model[3].generator  # type: ignore[index]
        state = masks.get_state()
        pgd(model, x, y, ATTACK, draws(), mode)  # type: ignore[arg-type]
        assert torch.equal(masks.get_state(), state) == still


def test_released_gr_counts_the_cross_entropy_twice() -> None:
    right, released = GradientRegularisation(2.0), GradientRegularisation(2.0, as_released=True)
    model, (x, y) = network(), batch()
    clean = functional.cross_entropy(model(x), y).item()
    losses = [value(method, model) for method in (right, released)]
    assert losses[1] - losses[0] == pytest.approx(clean, rel=1e-5)
    assert losses[0] > clean


def test_released_llr_is_a_weak_robust_self_training() -> None:
    """With the input gradient zeroed, gamma is the loss at the attacked image and the last term is none."""
    model = network()
    attack = Attack(0.1, 2, 0.05)
    released = LocalLinearity(attack, 4.0, 3.0, as_released=True)
    weak = RobustSelfTraining(attack, 4.0)
    assert value(released, model) == pytest.approx(value(weak, model))
    assert value(LocalLinearity(attack, 4.0, 3.0), model) < value(released, model)


# ---------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"method": "natural"}, Natural()),
        ({"method": "gr", "gr_lambda": 0.5, "gr_h": 0.1}, GradientRegularisation(0.5, 0.1)),
        ({"method": "llr", "eps": 0.2}, LocalLinearity(Attack(0.2, 2, 0.1), 4.0, 3.0)),
        ({"method": "at", "train_eps": 0.15, "attack_steps": 7}, AdversarialTraining(Attack(0.15, 7))),
        (
            {"method": "rst", "rst_lambda": 2.0, "attack_mode": "train"},
            RobustSelfTraining(Attack(0.1, 10), 2.0, "train"),
        ),
        ({"method": "trades", "beta": 3.0}, Trades(Attack(0.1, 10, start="gaussian"), 3.0)),
        ({"method": "llr", "as_released": True}, LocalLinearity(Attack(0.1, 2, 0.05), 4.0, 3.0, True)),
    ],
)
def test_methods_are_built_from_a_config(config: dict[str, Any], expected: Method) -> None:
    assert build_method({**DEFAULTS, **config}) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "fgsm"}, "method is one of natural, gr, llr, at, rst, trades, got 'fgsm'"),
        ({"method": "trades", "beta": -1}, "beta is a weight, at least 0, got -1"),
        ({"method": "gr", "gr_h": 0}, "gr_h is above 0, got 0"),
        ({"method": "at", "attack_mode": "both"}, "attack_mode is 'eval' or 'train', got 'both'"),
        ({"method": "at", "as_released": True}, "as_released is for gr and llr"),
        ({"method": "at", "train_eps": 0.5}, "eps is a radius"),
    ],
)
def test_bad_methods(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method({**DEFAULTS, **config})
