"""Attacks within an L-infinity ball around images in [0, 1]: PGD with restarts, and MultiTargeted.

`sign_ascent` is the one loop behind every inner maximisation here: PGD on the cross entropy, the KL attack of TRADES,
the linearity violation of LLR and the local Lipschitz constant differ only in what they maximise.

Sources: Madry et al. (2018), "Towards Deep Learning Models Resistant to Adversarial Attacks", section 2.1 (PGD); Gowal
et al. (2019), "An Alternative Surrogate Loss for PGD-based Adversarial Testing" (MultiTargeted); settings of Yang et
al. (2020), appendix: 10 steps of 2 eps / 10, and 20 steps of 2 eps / 20 for each target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Where an ascent begins: anywhere in the ball, beside the image (TRADES, Lipschitz), or at the image itself.
Start = Literal["uniform", "gaussian", "image"]
#: The standard deviation of the "gaussian" start, in pixel values.
START_NOISE = 1e-3
#: How often factors of gradients in float16 are looked for; an image without a gradient has none.
_ATTEMPTS = 5
#: From points (n x C x H x W) to what is to be large (n).
Objective = Callable[[Tensor], Tensor]
#: From logits (n x C) and labels (n) to what is to be large (n).
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Attack:
    """How an ascent goes: radius `eps` in pixel values, `steps` of `step_size` (2 eps / steps if None), `restarts`.

    Raises ValueError for a radius outside of [0, 0.5), where all images would share the grey one, or for no steps.
    """

    eps: float
    steps: int = 10
    step_size: float | None = None
    restarts: int = 1
    start: Start = "uniform"

    def __post_init__(self) -> None:
        check_radius(self.eps)
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"an attack takes at least one step and one start, got {self.steps} and {self.restarts}")
        if self.step_size is not None and self.step_size <= 0:
            raise ValueError(f"step_size is positive, or None for 2 eps / steps, got {self.step_size!r}")
        if self.start not in get_args(Start):
            raise ValueError(f"start is one of {', '.join(get_args(Start))}, got {self.start!r}")

    @property
    def stride(self) -> float:
        """The size of one step, in pixel values."""
        return 2 * self.eps / self.steps if self.step_size is None else self.step_size


def check_radius(eps: float, name: str = "eps") -> None:
    """Raise ValueError for a radius that cannot be one of images in [0, 1]."""
    if not 0 <= eps < 0.5:
        raise ValueError(
            f"{name} is a radius in pixel values of [0, 1], at least 0 and below 0.5 (where the uniform grey image "
            f"lies within reach of every image), got {eps!r}. A radius in steps of 255 is to be divided by 255"
        )


def box(images: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest pixel values within +-eps around `images`, and within [0, 1]."""
    return (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)


def project(points: Tensor, images: Tensor, eps: float) -> Tensor:
    """Move `points` into the box of +-eps around `images`, and into [0, 1]."""
    return points.clamp(*box(images, eps))


def start_of(images: Tensor, attack: Attack, draws: torch.Generator) -> Tensor:
    """Draw where an ascent begins, within the ball."""
    if attack.start == "image":
        return images.clone()
    if attack.start == "gaussian":
        noise = START_NOISE * torch.randn(images.shape, generator=draws, device=images.device)
    else:
        noise = attack.eps * (2 * torch.rand(images.shape, generator=draws, device=images.device) - 1)
    return project(images + noise, images, attack.eps)


def sign_ascent(
    objective: Objective, images: Tensor, start: Tensor, attack: Attack, steps: int | None = None
) -> Tensor:
    """Climb `objective` from `start` by steps along the sign of its gradient; return the last point.

    `steps`: how many, where those of the attack are taken in parts.

    x' <- project(x' + stride * sign(grad)). `objective` gives one value for each image, and images do not see each
    other: their sum is differentiated. One that keeps records (`survives_pgd`) sees every point but the last, which
    it is to be asked for itself: an attack in training has no use for a pass through the network more.
    """
    point, factors = start.detach(), None
    low, high = box(images, attack.eps)
    for _ in range(attack.steps if steps is None else steps):
        point = point.requires_grad_()
        gradient, factors = scaled_gradient(objective(point), point, factors)
        point = torch.add(point.detach(), gradient.sign(), alpha=attack.stride).clamp(low, high)
    return point


def scaled_gradient(
    values: Tensor, points: Tensor, factors: Tensor | None = None, *, keep: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the gradient of each of `values` (n) by its point, times a positive factor of its own, and the factors.

    Where passes are in float16, small gradients, as those of confident images, would be rounded to zero: the factors,
    begun at those given, bring the largest entry of each image near one, and the sign stays. Elsewhere there are none
    (None). `keep` leaves the graph for another gradient.
    """
    if not in_float16(points.device):
        (gradient,) = torch.autograd.grad(values.sum(), points, retain_graph=keep)
        return gradient, None
    values = values.float()
    factors = torch.full_like(values.detach(), 2.0**8) if factors is None else factors
    for attempt in range(_ATTEMPTS):
        (gradient,) = torch.autograd.grad((values * factors).sum(), points, retain_graph=True)
        size = gradient.flatten(1).abs().amax(1)
        good = (size >= 2.0**-6) & (size <= 2.0**6)
        if attempt == _ATTEMPTS - 1 or bool(good.all()):
            break
        # One that is not a number has overflown on the way; at zero, it is small by an unknown factor.
        towards_one = torch.where(size.isfinite(), (1 / size).clamp(2.0**-14, 2.0**14), 2.0**-10)
        factors = torch.where(good, factors, factors * towards_one)
    return gradient.nan_to_num(0.0, 0.0, 0.0), factors


def in_float16(device: torch.device) -> bool:
    """Whether passes on the device are in float16 at present, by `runtime.autocast`."""
    kind = device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16


def visit(objective: Objective, images: Tensor, start: Tensor, attack: Attack) -> None:
    """Climb as `sign_ascent` does, for an objective that keeps records: it has seen the last point too."""
    last = sign_ascent(objective, images, start, attack)
    with torch.no_grad():
        objective(last)


@contextmanager
def analysed(model: nn.Module, mode: Literal["eval", "train"] = "eval") -> Iterator[None]:
    """Hold the weights and put the model into `mode`; leave both as they were found."""
    modes = [(module, module.training) for module in model.modules()]
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train(mode == "train")
    for parameter in learnt:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learnt:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    draws: torch.Generator,
    mode: Literal["eval", "train"] = "eval",
) -> Tensor:
    """Return adversarial images of the untargeted attack on the cross entropy: the last iterate of one start.

    `mode` is the model's while it is attacked; "train" leaves dropout on and lets batch norm see adversarial images.
    """
    with analysed(model, mode):
        start = start_of(images, attack, draws)
        return sign_ascent(lambda points: _cross_entropy(model(points), labels), images, start, attack)


def survives_pgd(model: nn.Module, images: Tensor, labels: Tensor, attack: Attack, draws: torch.Generator) -> Tensor:
    """Return which images (n, bool) are classified rightly, and at every iterate of every restart too."""
    with analysed(model):
        right = _right(model, images, labels)
        for _ in range(attack.restarts):
            alive = right.nonzero().squeeze(1)
            if len(alive) == 0:
                break
            x, y = images[alive], labels[alive]
            broken = torch.zeros_like(y, dtype=torch.bool)
            start = start_of(x, attack, draws)
            visit(_noting(model, y, broken, _cross_entropy), x, start, attack)
            right[alive[broken]] = False
        return right


def survives_multi_targeted(
    model: nn.Module, images: Tensor, labels: Tensor, attack: Attack, draws: torch.Generator
) -> Tensor:
    """Return which images (n, bool) no targeted attack moves to another class: the worst case over all targets.

    For each class j but the right one, and each restart, it climbs the difference of logits z_j - z_y (Gowal et al.).
    The targets come in the order of their logits, and what is broken is not attacked again.
    """
    with analysed(model):
        with torch.no_grad():
            logits = model(images)
        right: Tensor = logits.argmax(1) == labels
        # The right class would come first where the image is classified rightly; it is moved to the end and left out.
        order = logits.scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :-1]
        for rank in list(range(order.shape[1])) * attack.restarts:
            alive = right.nonzero().squeeze(1)
            if len(alive) == 0:
                break
            x, y = images[alive], labels[alive]
            broken = torch.zeros_like(y, dtype=torch.bool)
            margin = _margin(order[alive, rank])
            visit(_noting(model, y, broken, margin), x, start_of(x, attack, draws), attack)
            right[alive[broken]] = False
        return right


def _right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        right: Tensor = model(images).argmax(1) == labels
        return right


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    losses: Tensor = functional.cross_entropy(logits, labels, reduction="none")
    return losses


def _margin(target: Tensor) -> Loss:
    def margin(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.gather(1, target[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)

    return margin


def _noting(model: nn.Module, labels: Tensor, broken: Tensor, loss: Loss) -> Objective:
    """Return an objective that notes in `broken` which images were ever classified wrongly."""

    def objective(points: Tensor) -> Tensor:
        logits = model(points)
        broken.logical_or_(logits.argmax(1) != labels)
        return loss(logits, labels)

    return objective
