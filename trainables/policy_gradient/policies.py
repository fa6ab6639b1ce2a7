"""Policies and value network: torch for gradients, plain numpy for acting.

One forward pass of a 64-64 network costs several times more in torch than in numpy, and acting is one tiny pass per
environment step. So `Actor` holds a copy of the policy's weights as arrays, also where the policy is on a GPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions: `mean` is batch x actions, `log_std` has one entry for each action."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log density of `actions` (batch x actions), before any clipping to the bounds of the environment."""
        z = (actions - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z * z - self.log_std - _HALF_LOG_2PI).sum(dim=-1)

    def entropy(self) -> Tensor:
        """Differential entropy, for each row."""
        return (self.log_std + 0.5 + _HALF_LOG_2PI).sum().expand(len(self.mean))

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other), for each row."""
        ratio = torch.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * torch.exp(-other.log_std)) ** 2
        return (other.log_std - self.log_std + 0.5 * (ratio + distance - 1)).sum(dim=-1)

    def detach(self) -> Gaussian:
        """Return the same distributions without their history; they stay when the policy's parameters change."""
        return Gaussian(self.mean.detach(), self.log_std.detach().clone())


@dataclass(frozen=True)
class Categorical:
    """A choice among a few actions: `logits` is batch x actions."""

    logits: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log probability of `actions` (batch, integers)."""
        logs = functional.log_softmax(self.logits, dim=-1)
        return logs.gather(-1, actions.long()[:, None])[:, 0]

    def entropy(self) -> Tensor:
        """Entropy -sum p log p, for each row. (The released code returns sum p log p: the sign is wrong there.)"""
        logs = functional.log_softmax(self.logits, dim=-1)
        return -(logs.exp() * logs).sum(dim=-1)

    def kl(self, other: Categorical) -> Tensor:
        """KL(self || other), for each row."""
        logs = functional.log_softmax(self.logits, dim=-1)
        return (logs.exp() * (logs - functional.log_softmax(other.logits, dim=-1))).sum(dim=-1)

    def detach(self) -> Categorical:
        """Return the same distributions without their history; they stay when the policy's parameters change."""
        return Categorical(self.logits.detach())


Distribution = Gaussian | Categorical


class Policy(nn.Module):
    """A network from normalised observations to a distribution over actions.

    `discrete`: `outputs` logits; else `outputs` means, with a log standard deviation that is one free parameter per
    action. Parameters are in the fixed order (log_std, layers from first to last): `flat_parameters` relies on it.
    """

    def __init__(self, network: nn.Sequential, *, outputs: int, discrete: bool, log_std: float) -> None:
        super().__init__()
        self.discrete = discrete
        self.outputs = outputs
        if not discrete:
            self.log_std = nn.Parameter(torch.full((outputs,), log_std))
        self.network = network

    def forward(self, observations: Tensor) -> Distribution:
        """Return the distributions for `observations` (batch x size)."""
        out = _at_least_single(self.network(observations))
        return Categorical(out) if self.discrete else Gaussian(out, self.log_std)


class ValueNetwork(nn.Module):
    """A network of its own from normalised observations to the value, so that policy gradients hold no value terms."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network

    def forward(self, observations: Tensor) -> Tensor:
        """Return the values (batch) of `observations` (batch x size)."""
        return _at_least_single(self.network(observations))[..., 0]


def _at_least_single(out: Tensor) -> Tensor:
    """Probabilities and values are computed in single precision under autocast as well."""
    return out if out.dtype == torch.float64 else out.float()


def build_network(
    sizes: Sequence[int], activation: str, init: str, final_gain: float, generator: torch.Generator
) -> nn.Sequential:
    """Build a fully connected network with zero biases, its weights drawn from `generator`.

    "orthogonal" has a gain of sqrt(2) in hidden layers and `final_gain` in the last; "xavier" is uniform, gain one.
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        # Draws nothing from the global generator.
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, before, after)  # type: ignore[no-untyped-call]
        last = number == len(sizes) - 2
        if init == "orthogonal":
            nn.init.orthogonal_(layer.weight, final_gain if last else math.sqrt(2), generator=generator)
        else:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer] if last else [layer, _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def flat_parameters(module: nn.Module) -> Tensor:
    """Return all parameters as one vector (a copy), in their fixed order."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def set_flat_parameters(module: nn.Module, vector: Tensor) -> None:
    """Write `vector`, as `flat_parameters` returns it, into the parameters."""
    start = 0
    with torch.no_grad():
        for parameter in module.parameters():
            stop = start + parameter.numel()
            parameter.copy_(vector[start:stop].reshape(parameter.shape))
            start = stop
    if start != len(vector):
        raise ValueError(f"the network has {start} parameters, the vector {len(vector)}")


def flat_gradient(value: Tensor, module: nn.Module, *, create_graph: bool = False) -> Tensor:
    """Return the gradient of the scalar `value` by the module's parameters as one vector; zeros where it has none."""
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(value, parameters, create_graph=create_graph, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if gradient is None else gradient).reshape(-1)
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
    )


@dataclass(frozen=True)
class Actor:
    """A policy for acting only, in numpy. Can be sent to other processes.

    `layers`: weights (in x out) and biases. `std`: None for a discrete policy.
    """

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    activation: str
    std: NDArray[np.float32] | None

    @staticmethod
    def of(policy: Policy, activation: str) -> Actor:
        """Return the actor of `policy` as it is now."""
        linear = [module for module in policy.network if isinstance(module, nn.Linear)]
        layers = tuple((np.ascontiguousarray(_array(layer.weight).T), _array(layer.bias)) for layer in linear)
        std = None if policy.discrete else np.exp(_array(policy.log_std))
        return Actor(layers, activation, std)

    def noise(self, draw: np.random.Generator, rows: int) -> NDArray[np.float32]:
        """Draw what `act` needs: a standard normal per action, or one uniform number for a discrete policy."""
        if self.std is None:
            return draw.random((rows, 1), dtype=np.float32)
        return draw.standard_normal((rows, len(self.std)), dtype=np.float32)

    def act(self, observations: NDArray[np.float32], noise: NDArray[np.float32] | None) -> NDArray[np.generic]:
        """Return the actions for normalised `observations`; without `noise` the mean, or the likeliest action."""
        out = observations
        squash: Callable[..., NDArray[np.float32]] = np.tanh if self.activation == "tanh" else _relu
        for weight, bias in self.layers[:-1]:
            out = squash(out @ weight + bias)
        weight, bias = self.layers[-1]
        out = out @ weight + bias
        if self.std is not None:
            return out if noise is None else out + self.std * noise
        if noise is None:
            best: NDArray[np.int64] = out.argmax(axis=1)
            return best
        shares = np.exp(out - out.max(axis=1, keepdims=True)).cumsum(axis=1)
        chosen: NDArray[np.int64] = (shares[:, :-1] < noise * shares[:, -1:]).sum(axis=1)
        return chosen


def _relu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(x, 0)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.array(tensor.detach().cpu().numpy(), dtype=np.float32)
