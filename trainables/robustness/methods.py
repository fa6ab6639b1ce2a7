"""What is minimised: natural training and five ways to make it robust, behind one interface.

A method gives the loss of a batch; the training loop differentiates it and steps. All losses are *means* over the batch
(the released code sums: its learning rate times the batch size is ours). Equations after Yang et al. (2020), section 5
and appendix; l is the cross entropy, the ball that of L-infinity with radius eps, within [0, 1].

Gradient and local linearity regularisation compare two passes through the network. With dropout on, the two would use
different masks and the difference would measure the masks: those passes run in eval mode, on the network as it will be
used. The other methods see dropout in each of their passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tune_platform.trainables.robustness.attacks import (
    Attack,
    analysed,
    in_float16,
    pgd,
    scaled_gradient,
    sign_ascent,
    start_of,
)

Mode = Literal["eval", "train"]
_TINY = 1e-12


class Method(Protocol):
    """A training method: from a batch of images in [0, 1] and labels to the loss, a scalar."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """Return the loss of a batch; random starts come from `draws`, and nothing else does."""
        ...


@dataclass(frozen=True, slots=True)
class Natural:
    """Cross entropy, and nothing else."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """Return mean l(f(x), y)."""
        return functional.cross_entropy(model(x), y)


@dataclass(frozen=True, slots=True)
class GradientRegularisation:
    """GR: Finlay and Oberman (2021), "Scaleable input gradient regularization", by a finite difference.

    l(x) + lam/2 * d^2, where d = (l(x + h v) - l(x)) / h is the slope along v, the direction (L2) of the input
    gradient, held fixed. `as_released`: the authors' code counts the cross entropy twice.
    """

    lam: float = 1.0
    h: float = 1.0
    as_released: bool = False

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """Return mean l(x) + lam/2 mean d^2."""
        clean = functional.cross_entropy(model(x), y)
        with evaluating(model):
            slope = self.slope(model, x, y)
        return (2 if self.as_released else 1) * clean + 0.5 * self.lam * slope.square().mean()

    def slope(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return d of each image (n); as h goes to 0, the L2 norm of its input gradient."""
        point = x.detach().requires_grad_()
        here = _losses(model, point, y)
        gradient, _ = scaled_gradient(here, point, keep=True)
        norm = gradient.flatten(1).norm(dim=1).clamp_min(_TINY)
        direction = gradient / norm.view(-1, *[1] * (x.ndim - 1))
        return (_losses(model, x + self.h * direction, y) - here) / self.h


@dataclass(frozen=True, slots=True)
class LocalLinearity:
    """LLR: Qin et al. (2019), "Adversarial Robustness through Local Linearization", equations 5 to 8.

    l(x) + lam * gamma(d*) + mu * |d* . grad l(x)|, where gamma(d) = |l(x + d) - l(x) - d . grad l(x)| and d* maximises
    it by `attack` (two steps of eps / 2 from a random start). `as_released`: the authors' code zeroes the input
    gradient that it keeps an alias of, so gamma becomes l(x + d) and the last term vanishes: a weak robust
    self-training.
    """

    attack: Attack
    lam: float = 4.0
    mu: float = 3.0
    as_released: bool = False

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """Return mean l(x) + lam mean gamma(d*) + mu mean |d* . grad l(x)|."""
        clean = functional.cross_entropy(model(x), y)
        if self.as_released:
            adversarial = pgd(model, x, y, self.attack, draws)
            return clean + self.lam * functional.cross_entropy(model(adversarial), y)
        with evaluating(model):
            violation, slope = self.terms(model, x, y, self.worst(model, x, y, draws))
        return clean + self.lam * violation.mean() + self.mu * slope.mean()

    def worst(self, model: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """Return x + d*: the point of the ball (nearly) where the loss is farthest from linear."""
        with analysed(model):
            here, gradient = _value_and_gradient(model, x, y)

            def violation(point: Tensor) -> Tensor:
                linear = here + ((point - x) * gradient).flatten(1).sum(1)
                return (_losses(model, point, y) - linear).abs()

            return sign_ascent(violation, x, start_of(x, self.attack, draws), self.attack)

    @staticmethod
    def terms(model: nn.Module, x: Tensor, y: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """Return gamma(d) and |d . grad l(x)| of each image (n) for d = point - x, both differentiable."""
        here, gradient = _value_and_gradient(model, x, y, create_graph=True)
        slope = ((point - x) * gradient).flatten(1).sum(1)
        return (_losses(model, point, y) - here - slope).abs(), slope.abs()


@dataclass(frozen=True, slots=True)
class AdversarialTraining:
    """AT: Madry et al. (2018), equation 2.1; PGD on the cross entropy, 10 steps of eps / 5, uniform start."""

    attack: Attack
    mode: Mode = "eval"

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """Return mean l(f(x_adv), y)."""
        return functional.cross_entropy(model(pgd(model, x, y, self.attack, draws, self.mode)), y)


@dataclass(frozen=True, slots=True)
class RobustSelfTraining:
    """RST without unlabelled images, as the paper's code has it: l(f(x), y) + lam * l(f(x_adv), y)."""

    attack: Attack
    lam: float = 1.0
    mode: Mode = "eval"

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """Return mean l(f(x), y) + lam mean l(f(x_adv), y)."""
        clean = functional.cross_entropy(model(x), y)
        adversarial = pgd(model, x, y, self.attack, draws, self.mode)
        return clean + self.lam * functional.cross_entropy(model(adversarial), y)


@dataclass(frozen=True, slots=True)
class Trades:
    """TRADES: Zhang et al. (2019), "Theoretically Principled Trade-off between Robustness and Accuracy", equation 5.

    l(f(x), y) + beta * KL(softmax f(x) || softmax f(x_adv)), where x_adv maximises the same KL. The attack starts
    beside the image, not at it: there the KL is at its minimum and has no gradient. Gradients flow through both
    passes.
    """

    attack: Attack
    beta: float = 6.0
    mode: Mode = "eval"

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """Return mean l(f(x), y) + beta mean KL."""
        logits = model(x)
        adversarial = self.worst(model, x, draws)
        return functional.cross_entropy(logits, y) + self.beta * kl(logits, model(adversarial)).mean()

    def worst(self, model: nn.Module, x: Tensor, draws: torch.Generator) -> Tensor:
        """Return x_adv, the last iterate of the attack on the KL."""
        with analysed(model, self.mode):
            start, steps, kind = start_of(x, self.attack, draws), self.attack.steps, x.device.type
            if torch.is_autocast_enabled(kind):
                # Beside the image the KL is all but zero, and its gradient in half precision noise.
                with torch.autocast(kind, enabled=False):
                    start = self._climb(model, x, start, 1)
                steps -= 1
            return self._climb(model, x, start, steps)

    def _climb(self, model: nn.Module, x: Tensor, start: Tensor, steps: int) -> Tensor:
        with torch.no_grad():
            centre = model(x)
        return sign_ascent(lambda point: kl(centre, model(point)), x, start, self.attack, steps)


#: The methods by name, in the order of the paper's tables.
METHODS = ("natural", "gr", "llr", "at", "rst", "trades")


def build_method(config: Mapping[str, Any]) -> Method:
    """Return the method that `config` names; see `trainable.DEFAULTS` for its hyperparameters.

    Raises ValueError for a method that there is not, a negative weight, or a radius that does not fit.
    """
    name, mode = config["method"], config["attack_mode"]
    if mode not in ("eval", "train"):
        raise ValueError(f"attack_mode is 'eval' or 'train', got {mode!r}")
    eps = float(config["eps"] if config["train_eps"] is None else config["train_eps"])
    steps = int(config["attack_steps"])
    released = bool(config["as_released"])
    if released and name not in ("gr", "llr"):
        raise ValueError(f"as_released is for gr and llr, whose released code has a defect, got method {name!r}")
    if name == "natural":
        return Natural()
    if name == "gr":
        return GradientRegularisation(_weight(config, "gr_lambda"), _positive(config, "gr_h"), released)
    if name == "llr":
        attack = Attack(eps, int(config["llr_steps"]), max(eps, _TINY) / 2)
        return LocalLinearity(attack, _weight(config, "llr_lambda"), _weight(config, "llr_mu"), released)
    if name == "at":
        return AdversarialTraining(Attack(eps, steps), mode)
    if name == "rst":
        return RobustSelfTraining(Attack(eps, steps), _weight(config, "rst_lambda"), mode)
    if name == "trades":
        return Trades(Attack(eps, steps, start="gaussian"), _weight(config, "beta"), mode)
    raise ValueError(f"method is one of {', '.join(METHODS)}, got {name!r}")


def kl(a: Tensor, b: Tensor) -> Tensor:
    """Return KL(softmax a || softmax b) of each row of two sets of logits (n x C): n values, never negative."""
    return functional.kl_div(
        functional.log_softmax(b, 1), functional.log_softmax(a, 1), reduction="none", log_target=True
    ).sum(1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode, weights still learning, and back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(model(x), y, reduction="none")


def _value_and_gradient(model: nn.Module, x: Tensor, y: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Return l(x) and its input gradient; the gradient is a tensor of its own, never a buffer that is zeroed later."""
    point = x.detach().requires_grad_()
    losses = _losses(model, point, y)
    if not in_float16(x.device):
        (gradient,) = torch.autograd.grad(losses.sum(), point, create_graph=create_graph)
        return (losses, gradient) if create_graph else (losses.detach(), gradient)
    gradient, factors = scaled_gradient(losses, point, keep=create_graph)
    assert factors is not None
    if create_graph:
        (gradient,) = torch.autograd.grad((losses.float() * factors).sum(), point, create_graph=True)
    gradient = gradient / factors.view(-1, *[1] * (x.ndim - 1))
    return (losses, gradient) if create_graph else (losses.detach(), gradient)


def _weight(config: Mapping[str, Any], name: str) -> float:
    value = float(config[name])
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is a weight, at least 0, got {config[name]!r}")
    return value


def _positive(config: Mapping[str, Any], name: str) -> float:
    value = float(config[name])
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is above 0, got {config[name]!r}")
    return value
