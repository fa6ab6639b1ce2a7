"""Trust region policy optimisation (Schulman et al. 2015): a natural gradient step within a bound on the KL."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tune_platform.trainables.policy_gradient.policies import (
    Policy,
    ValueNetwork,
    flat_gradient,
    flat_parameters,
    set_flat_parameters,
)
from tune_platform.trainables.policy_gradient.ppo import Data, Optimiser, minibatches, standardised, value_loss
from tune_platform.trainables.policy_gradient.settings import Settings
from tune_platform.trainables.runtime import autocast


def conjugate_gradient(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    """Solve A x = target for a symmetric positive definite A that is known by its product with a vector.

    Ends early once the squared residual is below 1e-10 times that of the target.
    """
    x = torch.zeros_like(target)
    residual = target.clone()
    direction = target.clone()
    size = residual @ residual
    enough = 1e-10 * float(size)
    for _ in range(iterations):
        if float(size) <= enough:
            break
        image = product(direction)
        length = size / (direction @ image)
        x = x + length * direction
        residual = residual - length * image
        next_size = residual @ residual
        direction = residual + (next_size / size) * direction
        size = next_size
    return x


def fisher_product(policy: Policy, observations: Tensor, damping: float) -> Callable[[Tensor], Tensor]:
    """Return v -> (F + damping) v, where F is the Hessian of the mean KL(old || new) at the present policy."""
    distribution = policy(observations)
    divergence = distribution.detach().kl(distribution).mean()
    slope = flat_gradient(divergence, policy, create_graph=True)
    parameters = list(policy.parameters())

    def product(vector: Tensor) -> Tensor:
        parts = torch.autograd.grad(slope @ vector, parameters, retain_graph=True, allow_unused=True)
        flat = [
            (torch.zeros_like(parameter) if part is None else part).reshape(-1)
            for part, parameter in zip(parts, parameters, strict=True)
        ]
        return torch.cat(flat) + damping * vector

    return product


def bound(settings: Settings, fraction_left: float) -> float:
    """Return the bound on the mean KL at this point of training: between `delta` and, if it is set, `delta_final`."""
    if not settings.delta_final:
        return settings.delta
    return settings.delta_final + (settings.delta - settings.delta_final) * fraction_left


def policy_step(
    policy: Policy, data: Data, settings: Settings, delta: float, generator: torch.Generator
) -> dict[str, float]:
    """Move the policy to the best point found on the natural gradient; leave it where none is acceptable.

    Accepted is the first of `backtracks` halvings with an improved surrogate and a mean KL of at most `delta`. The
    Fisher matrix is that of a random `fisher_fraction` of the pairs. Always in single precision: it needs second
    derivatives.
    """
    advantages = standardised(data.advantages) if settings.normalise_advantages else data.advantages
    start = flat_parameters(policy)
    with torch.no_grad():
        old = policy(data.observations).detach()
        old_log_probs = old.log_prob(data.actions)

    def surrogate() -> Tensor:
        ratio = torch.exp(policy(data.observations).log_prob(data.actions) - old_log_probs)
        return (ratio * advantages).mean()

    before = surrogate()
    gradient = flat_gradient(before, policy)
    chosen = max(1, round(settings.fisher_fraction * len(advantages)))
    order = torch.randperm(len(advantages), generator=generator, device=generator.device)
    product = fisher_product(policy, data.observations[order[:chosen]], settings.damping)
    direction = conjugate_gradient(product, gradient, settings.cg_iterations)
    curvature = float(direction @ product(direction))
    outcome = {"backtracks": float(settings.backtracks), "surrogate_gain": 0.0}
    if not curvature > 0:  # no gradient at all
        return outcome
    step = (2 * delta / curvature) ** 0.5 * direction
    for halvings in range(settings.backtracks):
        set_flat_parameters(policy, start + 0.5**halvings * step)
        with torch.no_grad():
            gain = float(surrogate() - before)
            divergence = float(old.kl(policy(data.observations)).mean())
        if gain > 0 and divergence <= delta:
            return {"backtracks": float(halvings), "surrogate_gain": gain}
    set_flat_parameters(policy, start)
    return outcome


def update(
    policy: Policy,
    value: ValueNetwork,
    data: Data,
    optimiser: Optimiser,
    settings: Settings,
    generator: torch.Generator,
    delta: float,
) -> dict[str, float]:
    """Take one policy step and train the value network on `data`; return the outcome and the last pass's value loss."""
    outcome = policy_step(policy, data, settings, delta, generator)
    return {**outcome, "value_loss": fit_value(value, data, optimiser, settings, generator)}


def fit_value(
    value: ValueNetwork, data: Data, optimiser: Optimiser, settings: Settings, generator: torch.Generator
) -> float:
    """Train the value network on `data.targets` for `epochs` passes; return the mean loss of the last."""
    device = data.observations.device
    for _ in range(settings.epochs):
        total = torch.zeros((), device=device)
        parts = minibatches(data, settings, generator)
        for part in parts:
            with autocast(device, settings.precision):
                values = value(part.observations)
            loss = value_loss(values, part.targets, part.values, settings.value_clip)
            optimiser.step(loss)
            total += loss.detach()
    return float(total / len(parts))
