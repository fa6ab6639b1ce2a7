"""Proximal policy optimisation (Schulman et al. 2017): the clipped surrogate, over several passes of minibatches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tune_platform.trainables.policy_gradient.policies import Categorical, Distribution, Policy, ValueNetwork
from tune_platform.trainables.policy_gradient.settings import Settings
from tune_platform.trainables.runtime import autocast


@dataclass(frozen=True)
class Data:
    """What an update learns from: flat tensors over all pairs of a batch.

    `advantages` as they were estimated, `targets` = old value + advantage, `log_probs` and `values` those of the
    networks that the batch was collected with.
    """

    observations: Tensor
    actions: Tensor
    advantages: Tensor
    targets: Tensor
    log_probs: Tensor
    values: Tensor


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """min(ratio * A, clip(ratio, 1 - clip, 1 + clip) * A), for each pair: to be maximised; never above ratio * A."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss(values: Tensor, targets: Tensor, old_values: Tensor, clip: float) -> Tensor:
    """Mean squared error; with `clip` above zero the larger of it and that of the value clipped to old +- clip."""
    plain = (values - targets) ** 2
    if clip == 0:
        return plain.mean()
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(plain, (near - targets) ** 2).mean()


def standardised(advantages: Tensor) -> Tensor:
    """(A - mean A) / std A over the pairs given; a single pair stays as it is."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)


class Optimiser:
    """One Adam for both networks, each a group with a learning rate of its own.

    They share no parameter, so that one backward pass through the sum of their losses does for both.
    """

    def __init__(self, policy: nn.Module, value: nn.Module, settings: Settings, *, policy_too: bool) -> None:
        self.settings = settings
        groups = [{"params": list(value.parameters()), "lr": settings.value_lr}]
        if policy_too:
            groups.append({"params": list(policy.parameters()), "lr": settings.lr})
        self.adam = torch.optim.Adam(groups, eps=settings.adam_eps, fused=True)
        device = next(value.parameters()).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=settings.precision == "float16")

    def set_rates(self, factor: float) -> None:
        """Set the learning rates: those of the settings, times a factor."""
        for group, rate in zip(self.adam.param_groups, (self.settings.value_lr, self.settings.lr), strict=False):
            group["lr"] = rate * factor

    def step(self, loss: Tensor) -> None:
        """Take one step down the gradient of `loss`, its norm clipped for each network by itself."""
        self.adam.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.settings.max_grad_norm:
            self.scaler.unscale_(self.adam)
            for group in self.adam.param_groups:
                nn.utils.clip_grad_norm_(group["params"], self.settings.max_grad_norm)
        self.scaler.step(self.adam)
        self.scaler.update()


def minibatches(data: Data, settings: Settings, generator: torch.Generator) -> list[Data]:
    """Return the minibatches of one pass over `data` in random order, of (almost) equal size."""
    pairs = len(data.advantages)
    order = torch.randperm(pairs, generator=generator, device=generator.device)
    # Put in order once, so that minibatches are views: indexing each of them anew costs far more.
    columns = [tensor[order].tensor_split(min(settings.minibatches, pairs)) for tensor in vars(data).values()]
    return [Data(*parts) for parts in zip(*columns, strict=True)]


def ratios(distribution: Distribution, data: Data) -> Tensor:
    """Return the probability of each action over the one that it was collected with."""
    return torch.exp(distribution.log_prob(data.actions) - data.log_probs)


def losses(distribution: Distribution, values: Tensor, part: Data, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean clipped surrogate, the value loss and what is minimised, of a minibatch.

    Advantages are standardised within it.
    """
    advantages = standardised(part.advantages) if settings.normalise_advantages else part.advantages
    surrogate = clipped_surrogate(ratios(distribution, part), advantages, settings.clip).mean()
    error = value_loss(values, part.targets, part.values, settings.value_clip)
    loss = error - surrogate
    if settings.entropy:
        loss = loss - settings.entropy * entropy_bonus(distribution, settings)
    return surrogate, error, loss


def update(
    policy: Policy,
    value: ValueNetwork,
    data: Data,
    optimiser: Optimiser,
    settings: Settings,
    generator: torch.Generator,
) -> dict[str, float]:
    """Train both networks on `data`; return the mean losses of the last pass, and the first minibatch's ratio error.

    In the first minibatch of all, every ratio is one.
    """
    device = data.observations.device
    first_ratio_error = torch.zeros((), device=device)
    for epoch in range(settings.epochs):
        totals = torch.zeros(2, device=device)  # summed on the device: no wait for each minibatch
        parts = minibatches(data, settings, generator)
        for number, part in enumerate(parts):
            with autocast(device, settings.precision):
                distribution = policy(part.observations)
                values = value(part.observations)
            if epoch == number == 0:
                first_ratio_error = (ratios(distribution, part).detach() - 1).abs().max()
            surrogate, error, loss = losses(distribution, values, part, settings)
            optimiser.step(loss)
            totals += torch.stack([surrogate.detach(), error.detach()])
    surrogate_mean, error_mean = (totals / len(parts)).tolist()
    return {
        "clipped_surrogate": surrogate_mean,
        "value_loss": error_mean,
        "first_ratio_error": float(first_ratio_error),
    }


def entropy_bonus(distribution: Distribution, settings: Settings) -> Tensor:
    """The mean entropy, which is rewarded; with `as_released` that of a discrete policy has the wrong sign."""
    entropy = distribution.entropy().mean()
    return -entropy if settings.as_released and isinstance(distribution, Categorical) else entropy
