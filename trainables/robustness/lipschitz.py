"""The empirical local Lipschitz constant of a network, as Yang et al. (2020), section 4, define it.

    L_eps(f) = 1/n sum_i  max over x' in the ball of eps around x_i of  |f(x_i) - f(x')|_1 / |x_i - x'|_inf

with f the logits. The maximum is approached from below by sign ascent on the ratio. The code that the authors released
descends it instead (it adds a step along the gradient of minus the ratio) with a step that is not scaled with eps:
`as_released` does the same, for comparison.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from tune_platform.trainables.robustness.attacks import Attack, analysed, project, start_of, visit

Top = Literal["l1", "kl"]
Space = Literal["logits", "softmax"]
_TINY = 1e-12
_RELEASED_STEP = 0.003


def local_lipschitz(
    model: nn.Module,
    images: Tensor,
    attack: Attack,
    draws: torch.Generator,
    *,
    top: Top = "l1",
    space: Space = "logits",
    as_released: bool = False,
) -> Tensor:
    """Return the largest ratio found around each image (n): a lower bound of its local Lipschitz constant.

    `attack` says how the ascent goes (the paper: 10 steps; eps as in the attacks); it starts beside the image and keeps
    the largest value of every iterate of every restart. `top` is the L1 distance of logits (or of their "softmax"), or
    "kl": KL(softmax f(x) || softmax f(x')). `as_released`: ten steps of 0.003 *down* the ratio, value of the last.
    Raises ValueError for a radius of zero, where there is no ratio.
    """
    if attack.eps == 0:
        raise ValueError("a local Lipschitz constant takes eps above 0, got 0")
    if top not in get_args(Top) or space not in get_args(Space):
        raise ValueError(f"top is 'l1' or 'kl' and space 'logits' or 'softmax', got {top!r} and {space!r}")
    attack = Attack(attack.eps, attack.steps, attack.step_size, attack.restarts, "gaussian")
    with analysed(model):
        with torch.no_grad():
            centre = model(images)

        def ratio(points: Tensor) -> Tensor:
            distance = (points - images).flatten(1).abs().amax(1).clamp_min(_TINY)
            return _apart(centre, model(points), top, space) / distance

        if as_released:
            return _descend(ratio, images, attack, draws)
        best = torch.zeros(len(images), device=images.device)

        def noted(points: Tensor) -> Tensor:
            value = ratio(points)
            torch.maximum(best, value.detach(), out=best)
            return value

        for _ in range(attack.restarts):
            visit(noted, images, start_of(images, attack, draws), attack)
        return best


def _apart(a: Tensor, b: Tensor, top: Top, space: Space) -> Tensor:
    if top == "kl":
        log_a, log_b = functional.log_softmax(a, 1), functional.log_softmax(b, 1)
        return (log_a.exp() * (log_a - log_b)).sum(1)
    if space == "softmax":
        a, b = a.softmax(1), b.softmax(1)
    return (a - b).abs().sum(1)


def _descend(ratio: object, images: Tensor, attack: Attack, draws: torch.Generator) -> Tensor:
    assert callable(ratio)
    point = start_of(images, attack, draws)
    for _ in range(10):
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(-ratio(point).sum(), point)
        point = project(point.detach() + _RELEASED_STEP * gradient.sign(), images, attack.eps)
    with torch.no_grad():
        value: Tensor = ratio(point)
        return value
