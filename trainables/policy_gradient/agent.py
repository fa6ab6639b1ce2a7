"""An agent: policy, value network, their normalisers and optimiser, and one update of either algorithm.

It knows no environment: `Training` (in `training.py`) gives it batches, and the analyses give copies of it theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tune_platform.trainables.policy_gradient import ppo, trpo
from tune_platform.trainables.policy_gradient.advantages import gae
from tune_platform.trainables.policy_gradient.environments import Sizes
from tune_platform.trainables.policy_gradient.normalise import ObservationNormaliser, RewardScaler
from tune_platform.trainables.policy_gradient.policies import (
    Actor,
    Policy,
    ValueNetwork,
    build_network,
    flat_parameters,
)
from tune_platform.trainables.policy_gradient.rollout import Batch
from tune_platform.trainables.policy_gradient.settings import Settings
from tune_platform.trainables.runtime import autocast, generator

Floats = NDArray[np.float64]


class Agent:
    """The learning part of a run; `seed` gives the initial weights and the order of minibatches."""

    def __init__(self, settings: Settings, sizes: Sizes, seed: int, device: str = "cpu") -> None:
        self.settings = settings
        self.sizes = sizes
        self.device = torch.device(device)
        self.iteration = 0
        self.generator = generator(device, seed, "minibatches")
        draws = generator("cpu", seed, "weights")
        inner = [sizes.observation, *settings.hidden]
        shape = (settings.activation, settings.init)
        # The head of a discrete policy is scaled down as well, which the released code leaves out.
        network = build_network([*inner, sizes.outputs], *shape, 0.01, draws)
        policy = Policy(network, outputs=sizes.outputs, discrete=sizes.discrete, log_std=settings.log_std)
        self.policy = policy.to(self.device)
        self.value = ValueNetwork(build_network([*inner, 1], *shape, 1.0, draws)).to(self.device)
        self.optimiser = ppo.Optimiser(self.policy, self.value, settings, policy_too=settings.algorithm == "ppo")
        self.normaliser = ObservationNormaliser(
            sizes.observation, on=settings.normalise_observations, clip=settings.clip_observations
        )
        self.scaler = RewardScaler(settings.envs, settings.gamma, on=settings.scale_rewards, clip=settings.clip_rewards)

    @property
    def actor(self) -> Actor:
        """The policy for acting, as it is now."""
        return Actor.of(self.policy, self.settings.activation)

    def tensor(self, array: NDArray[np.generic]) -> Tensor:
        """Return `array` on the agent's device; floats in single precision."""
        tensor = torch.tensor(array, device=self.device)  # a copy: what comes from Ray cannot be written to
        return tensor.float() if tensor.is_floating_point() else tensor

    @torch.no_grad()
    def values_of(self, observations: NDArray[np.float32], network: nn.Module | None = None) -> Floats:
        """Return the values of normalised observations (any shape x size), by default those of the value network."""
        network = self.value if network is None else network
        with autocast(self.device, self.settings.precision):
            values: Tensor = network(self.tensor(observations))
        return values.double().cpu().numpy()

    def estimate(
        self, batch: Batch, *, network: nn.Module | None = None, gae_lambda: float | None = None
    ) -> tuple[Floats, Floats]:
        """Return values and advantages (GAE) of a batch, both steps x environments.

        With the setting `as_released` time limits and the end of the batch count as terminal.
        """
        settings = self.settings
        values = self.values_of(batch.observations, network)
        following = np.zeros_like(values)
        following[:-1] = values[1:]
        following[batch.done] = 0.0
        if not settings.as_released and len(batch.after):
            steps, envs = batch.after_index.T
            bootstraps = self.values_of(batch.after, network)
            following[steps, envs] = np.where(batch.terminated[steps, envs], 0.0, bootstraps)
        lam = settings.gae_lambda if gae_lambda is None else gae_lambda
        return values, gae(batch.rewards, values, following, batch.done, settings.gamma, lam)

    def returns(self, batch: Batch) -> Floats:
        """Return discounted returns without a baseline; beyond time limits and the end of the batch stands the
        value.
        """
        values, advantages = self.estimate(batch, gae_lambda=1.0)
        return values + advantages

    def data(self, batch: Batch) -> ppo.Data:
        """Return the flat tensors that an update learns from."""
        values, advantages = self.estimate(batch)
        observations, actions = self.tensor(batch.flat_observations()), self.tensor(batch.flat_actions())
        with torch.no_grad(), autocast(self.device, self._policy_precision):
            log_probs = self.policy(observations).log_prob(actions)
        targets = values + advantages
        if self.settings.baseline == "zero":
            advantages = self.returns(batch)
        flat = [self.tensor(array.reshape(-1)) for array in (advantages, targets, values)]
        return ppo.Data(observations, actions, flat[0], flat[1], log_probs, flat[2])

    @property
    def _policy_precision(self) -> str:
        return self.settings.precision if self.settings.algorithm == "ppo" else "float32"

    def update(self, batch: Batch) -> dict[str, float]:
        """Learn from one batch; return what changed, over all its pairs.

        `kl` is the mean KL(old || new), `max_ratio` the largest probability ratio, `clip_fraction` the share of pairs
        whose ratio left 1 +- clip, `step_norm` the L2 length of the policy's step, `explained_variance` that of the
        targets by the values before the update, which is 1 - Var(target - value) / Var(target).
        """
        settings, data = self.settings, self.data(batch)
        self.optimiser.set_rates(settings.rate(self.iteration))
        start = flat_parameters(self.policy)
        with torch.no_grad():
            old = self.policy(data.observations).detach()
        if settings.algorithm == "ppo":
            outcome = ppo.update(self.policy, self.value, data, self.optimiser, settings, self.generator)
        else:
            delta = trpo.bound(settings, max(0.0, 1 - self.iteration / settings.iterations))
            outcome = trpo.update(self.policy, self.value, data, self.optimiser, settings, self.generator, delta)
        self.iteration += 1
        with torch.no_grad():
            new = self.policy(data.observations)
            ratio = torch.exp(new.log_prob(data.actions) - old.log_prob(data.actions))
            left_out = (data.targets - data.values).var() / data.targets.var().clamp_min(1e-12)
            return {
                **outcome,
                "kl": float(old.kl(new).mean()),
                "max_ratio": float(ratio.max()),
                "clip_fraction": float(((ratio - 1).abs() > settings.clip).double().mean()),
                "entropy": float(new.entropy().mean()),
                "step_norm": float((flat_parameters(self.policy) - start).norm()),
                "explained_variance": float(1 - left_out),
            }

    def state(self) -> dict[str, Any]:
        """Return everything that the next update depends on."""
        return {
            "iteration": self.iteration,
            "policy": self.policy.state_dict(),
            "value": self.value.state_dict(),
            "optimiser": self.optimiser.adam.state_dict(),
            "loss_scaler": self.optimiser.scaler.state_dict(),
            "normaliser": self.normaliser.stats.state(),
            "scaler": self.scaler.state(),
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: Mapping[str, Any], saved: Settings) -> None:
        """Take over what `state` returned. Hyperparameters stay this agent's, which a clone may have changed.

        `saved` are the settings that the state was saved under. Between PPO and TRPO the moments of Adam do not fit and
        start at zero. Raises ValueError where the networks have another shape.
        """
        mine = (list(self.settings.hidden), self.settings.activation)
        theirs = (list(saved.hidden), saved.activation)
        if mine != theirs:
            raise ValueError(
                f"the checkpoint has networks of {theirs[0]} {theirs[1]} units and this trial is set to "
                f"{mine[0]} {mine[1]}: keep `hidden` and `activation` fixed where trials take over checkpoints"
            )
        self.iteration = int(state["iteration"])
        self.policy.load_state_dict(state["policy"])
        self.value.load_state_dict(state["value"])
        self.normaliser.stats.load_state(state["normaliser"])
        self.scaler.load_state(state["scaler"])
        if len(state["generator"]) == len(self.generator.get_state()):  # that of a GPU does not fit the CPU's
            self.generator.set_state(state["generator"])
        if saved.algorithm == self.settings.algorithm:
            self.optimiser.adam.load_state_dict(state["optimiser"])
            for group in self.optimiser.adam.param_groups:
                group["eps"] = self.settings.adam_eps
            if state["loss_scaler"]:
                self.optimiser.scaler.load_state_dict(state["loss_scaler"])
