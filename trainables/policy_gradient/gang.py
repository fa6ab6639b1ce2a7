"""PPO by a gang of workers: each steps environments of its own, and how their policies agree is a strategy.

Hyperparameters are those of `PolicyGradientTrainable` and, beside them, `strategy`, `workers` and `evaluation` as
`trainables/classification.py` has them. `pairs`, `envs` and `minibatches` are those of one worker: W workers collect W
times as many pairs. A report comes with each iteration.

An inner step is a minibatch. Under `all_reduce` its gradient is the mean of the workers', each with advantages
standardised over its own minibatch (as in DD-PPO, Wijmans et al. 2020). A policy is one with the statistics by which
its observations are normalised: they are buffers of the model, as sums, and averaged with it. So a strategy that
exchanges parameters alone needs `normalise_observations: false`. Scales of rewards are averaged in the same way.

Metrics are those of `DistributedTrainable`, and of the single process: `train_return`, `train_length`, `kl`,
`max_ratio`, `clip_fraction`, `entropy` and `explained_variance` are means over the workers, `env_steps` is a sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tune_platform.distributed import DistributedTrainable
from tune_platform.errors import SpecError
from tune_platform.trainable import DONE
from tune_platform.trainables.policy_gradient import ppo
from tune_platform.trainables.policy_gradient.agent import Agent
from tune_platform.trainables.policy_gradient.environments import Environments, make_env, sizes_of
from tune_platform.trainables.policy_gradient.normalise import ObservationNormaliser
from tune_platform.trainables.policy_gradient.policies import Actor, Distribution
from tune_platform.trainables.policy_gradient.rollout import Batch, collect, run_episodes
from tune_platform.trainables.policy_gradient.settings import ABSENT, Settings
from tune_platform.trainables.policy_gradient.training import with_tensors
from tune_platform.trainables.runtime import autocast, check_names, generator, stream_seed
from tune_platform.trainables.stepping import STEP_DEFAULTS, SteppingWorker, check_step
from tune_platform.trainables.strategies import STRATEGIES

OF_THE_GANG = ("strategy", "workers", "evaluation")
_ABSENT = {
    **{name: why for name, why in ABSENT.items() if name not in OF_THE_GANG},
    "probe_every": "a probe takes the agent of one process: PolicyGradientTrainable has it",
    "updates": "a training has as many iterations as `iterations` says",
    "report_every": "a report comes with each iteration",
}
#: Strategies that exchange parameters and leave buffers where they are.
_PARAMETERS_ALONE = ("easgd", "eamsgd", "downpour", "lsgd")
_HELD = "evaluated.json"


class Networks(nn.Module):
    """Policy and value network with what their inputs are normalised by: all that the workers share."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.policy, self.value = agent.policy, agent.value
        self.observations: Tensor
        self.rewards: Tensor
        self.register_buffer("observations", torch.from_numpy(agent.normaliser.stats.sums()))
        self.register_buffer("rewards", torch.from_numpy(agent.scaler.stats.sums()))

    def forward(self, observations: Tensor) -> tuple[Distribution, Tensor]:
        """Return the distributions and the values of normalised observations (batch x size)."""
        return self.policy(observations), self.value(observations)


class Rollouts:
    """A worker's minibatches: each epoch is one iteration, of pairs that the present policy collects.

    They keep their place (see `tune_platform.distributed.data.Stateful`), running episodes included.
    """

    def __init__(self, settings: Settings, agent: Agent, networks: Networks, seed: int, rank: int) -> None:
        self.settings, self.agent, self.networks = settings, agent, networks
        self.environments = Environments(settings.env_id, settings.env_kwargs, settings.envs)
        # Those of the first worker are those of the single process.
        first = rank * settings.envs
        self.environments.reset([stream_seed(seed, "environment", first + i) for i in range(settings.envs)])
        self.draw = np.random.default_rng(stream_seed(seed, "actions", *([rank] if rank else [])))
        self.order = generator("cpu", seed, "minibatches", *([rank] if rank else []))
        self._data: ppo.Data | None = None
        self._old: Distribution | None = None
        self._taken = 0  # minibatches of the present iteration
        self._pass = self.order.get_state()  # when the present pass began
        self._episodes: dict[str, float] = {}

    def __len__(self) -> int:
        return self.settings.epochs * min(self.settings.minibatches, self.settings.steps * self.settings.envs)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self._data is None:
            self._collect()
        assert self._data is not None
        while self._taken < len(self):
            place = self._taken % (len(self) // self.settings.epochs)
            if place == 0:
                self._pass = self.order.get_state()
            else:
                self.order.set_state(self._pass)
            for part in ppo.minibatches(self._data, self.settings, self.order)[place:]:
                self._taken += 1
                yield vars(part)
        self._data, self._taken = None, 0

    def _collect(self) -> None:
        agent, networks = self.agent, self.networks
        agent.device = next(networks.parameters()).device
        both = ((agent.normaliser.stats, networks.observations), (agent.scaler.stats, networks.rewards))
        for stats, sums in both:
            stats.load_sums(sums.cpu().numpy())
        batch = collect(
            self.environments, agent.actor, agent.normaliser, agent.scaler, self.draw, self.settings.steps, learn=True
        )
        for stats, sums in both:
            sums.copy_(torch.from_numpy(stats.sums()))
        self._data = agent.data(batch)
        with torch.no_grad():
            self._old = networks.policy(self._data.observations).detach()
        self._note(batch)

    def _note(self, batch: Batch) -> None:
        running = self.environments
        if batch.episode_returns:
            means = np.mean(batch.episode_returns), np.mean(batch.episode_lengths)
        elif self._episodes:  # those that ended last
            return
        else:
            means = running.episode_returns.mean(), running.episode_lengths.mean()
        self._episodes = {"train_return": float(means[0]), "train_length": float(means[1])}

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Return how the episodes went, and what the networks' present state is beside the one that collected."""
        if self._data is None or self._old is None:
            return dict(self._episodes)
        new, data = self.networks.policy(self._data.observations), self._data
        ratio = ppo.ratios(new, data)
        left_out = (data.targets - data.values).var() / data.targets.var().clamp_min(1e-12)
        return {
            **self._episodes,
            "kl": float(self._old.kl(new).mean()),
            "max_ratio": float(ratio.max()),
            "clip_fraction": float(((ratio - 1).abs() > self.settings.clip).double().mean()),
            "entropy": float(new.entropy().mean()),
            "explained_variance": float(1 - left_out),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next minibatch depends on, beside the networks."""
        state = {
            "environments": self.environments.state(),
            "draw": self.draw.bit_generator.state,
            "order": self.order.get_state(),
            "pass": self._pass,
            "returns": self.agent.scaler.returns,
            "taken": self._taken,
            "data": None if self._data is None else dict(vars(self._data)),
            "episodes": dict(self._episodes),
        }
        whole: dict[str, Any] = with_tensors(state)
        return whole

    def begin_near(self, place: Mapping[str, Any]) -> tuple[int, int]:
        """Return the iteration after the one that was begun: another worker's episodes are not taken up."""
        return place["epoch"] + bool(place["batch"]), 0

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` returned; where episodes cannot be taken up, they begin anew."""
        self.draw.bit_generator.state = state["draw"]
        self.order.set_state(state["order"])
        self._pass, self._taken, self._episodes = state["pass"], state["taken"], dict(state["episodes"])
        self._data, self._old = None if state["data"] is None else ppo.Data(**state["data"]), None
        self.agent.scaler.returns = np.asarray(state["returns"], dtype=np.float64).copy()
        if not self.environments.load_state(state["environments"]):
            seeds = self.draw.integers(2**31, size=self.settings.envs)
            self.environments.reset([int(seed) for seed in seeds])


class PolicyWorker(SteppingWorker):
    """Trains on the pairs that it collects; gradients are clipped for each of both networks by itself."""

    def given(self, recipe: Any) -> Mapping[str, Any]:
        """See `SteppingWorker.given`."""
        settings: Settings = recipe.settings
        named = {name: getattr(settings, name) for name in ("max_grad_norm", "precision", "deterministic")}
        return {**named, "evaluation": recipe.config.get("evaluation", STEP_DEFAULTS["evaluation"])}

    def clip(self, norm: float) -> None:
        """See `SteppingWorker.clip`."""
        for group in self.optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], norm)

    def evaluate(self) -> dict[str, Any] | None:
        """Return the mean return of the episodes to choose by, where it is time for them."""
        iteration = self.updates // self.recipe.epoch_length(self.position.data)
        if iteration > 1 and iteration % self.recipe.settings.eval_every and self.updates < self.total_updates:  # type: ignore[attr-defined]
            return {} if self.comm.rank == 0 else None
        return super().evaluate()

    def _collect(self) -> dict[str, Any]:
        figures = super()._collect()
        assert isinstance(self.position.data, Rollouts)
        figures["strategy"] = {**figures["strategy"], **self.position.data.metrics()}
        return figures


class PolicyGradientGangTrainable(DistributedTrainable):
    """PPO by the strategy of the config; see the module."""

    strategies = STRATEGIES
    worker_class = PolicyWorker
    #: Whether this is the last report of the training; set by the worker.
    at_end = False
    #: What is trained; a strategy may have another one made for itself.
    _first: tuple[Agent, Networks] | None = None
    _judged: Environments | None = None
    #: The settings, and the config that they were read from.
    _settings: tuple[Settings, Mapping[str, Any]] | None = None

    @property
    def settings(self) -> Settings:
        """The hyperparameters of each worker, read once: each minibatch asks for them."""
        if self._settings is None or self._settings[1] is not self.config:
            given = {name: value for name, value in self.config.items() if name not in OF_THE_GANG}
            self._settings = Settings.of(given), self.config
        return self._settings[0]

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise SpecError or ValueError for a hyperparameter that there is not, and for what cannot be."""
        names = [name for name in Settings().to_dict() if name != "probe_every"]
        check_names(config, [*names, "variant", *OF_THE_GANG], _ABSENT)
        settings = Settings.of({name: value for name, value in config.items() if name not in OF_THE_GANG})
        strategy = self.build_strategy(config)
        check_step({"evaluation": config.get("evaluation", STEP_DEFAULTS["evaluation"])}, strategy)
        if settings.algorithm != "ppo":
            raise SpecError(
                f"algorithm {settings.algorithm!r}: its step is a search over the whole batch, on whose every trial "
                "the workers would have to agree: take 'ppo', or PolicyGradientTrainable"
            )
        if strategy.name == "codistillation":
            raise SpecError(
                f"strategy {strategy.name!r} compares what two models return for the same inputs, and a policy learns "
                "from pairs that it collected itself: take 'all_reduce' or 'local_sgd'"
            )
        if strategy.name == "fully_sharded":
            raise SpecError(
                f"strategy {strategy.name!r} divides networks that do not fit one GPU, and every step of an "
                "environment needs the whole policy: take 'all_reduce'"
            )
        if strategy.name in _PARAMETERS_ALONE and settings.normalise_observations:
            raise SpecError(
                f"strategy {strategy.name!r} exchanges parameters alone, and a policy is one with the statistics of "
                "its observations: set normalise_observations: false, or take 'all_reduce', 'local_sgd', "
                "'post_local_sgd', 'slowmo' or 'diloco'"
            )

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        """Return policy and value network, drawn from torch's global generator."""
        env = make_env(self.settings.env_id, self.settings.env_kwargs)
        sizes = sizes_of(self.settings.env_id, env)
        env.close()
        agent = Agent(self.settings, sizes, int(torch.randint(2**62, ())))
        networks = Networks(agent)
        self._first = self._first or (agent, networks)
        return networks

    def build_optimizer(self, config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser of the single process: one Adam, a rate for each network."""
        assert isinstance(model, Networks)
        adam: torch.optim.Optimizer = ppo.Optimiser(model.policy, model.value, self.settings, policy_too=True).adam
        return adam

    def build_scheduler(
        self, config: Mapping[str, Any], optimizer: torch.optim.Optimizer, total: int
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Return the rates by iterations; None where they stay what they are."""
        settings, each = self.settings, total // self.settings.iterations
        if settings.schedule == "constant" and not settings.warmup:
            return None
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: settings.rate(step // each))

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Rollouts:
        """Return this worker's minibatches."""
        assert self._first is not None, "the model is built before the data"
        return Rollouts(self.settings, *self._first, self.context.seed, rank)

    def total_updates(self, config: Mapping[str, Any], data: Any) -> int:
        """Return the minibatches of all iterations."""
        return self.settings.iterations * len(data)

    def report_every(self, config: Mapping[str, Any], data: Any) -> int:
        """Return the minibatches of an iteration."""
        return len(data)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return what PPO minimises, of a minibatch."""
        part = ppo.Data(**batch)
        with autocast(part.observations.device, self.settings.precision):
            distribution, values = model(part.observations)
        return ppo.losses(distribution, values, part, self.settings)[2]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the mean returns of whole episodes; on the seeds of the test with the last report alone."""
        return {name: total / count for name, (total, count) in self.evaluate_share(model, 0, 1).items()}

    def evaluate_share(self, model: nn.Module, rank: int, size: int) -> dict[str, tuple[float, float]]:
        """Return for each metric its sum over every `size`-th episode from `rank` on, and their number."""
        settings = self.settings
        assert isinstance(model, Networks)
        wanted = {"eval_return": ("evaluation", settings.eval_episodes)}
        if self.at_end:
            wanted["test_return"] = ("report", settings.test_episodes)
        normaliser = ObservationNormaliser(
            (len(model.observations) - 1) // 2, on=settings.normalise_observations, clip=settings.clip_observations
        )
        normaliser.stats.load_sums(model.observations.cpu().numpy())
        actor = Actor.of(model.policy, settings.activation)
        self._judged = self._judged or Environments(
            settings.env_id, settings.env_kwargs, min(settings.eval_episodes, 10)
        )
        found = {}
        for name, (purpose, count) in wanted.items():
            seeds = [stream_seed(settings.eval_seed, purpose, index) for index in range(rank, count, size)]
            found[name] = (sum(run_episodes(self._judged, actor, normaliser, seeds).returns), float(len(seeds)))
        return found

    # On the first worker, for all.

    def _begin(self, config: dict[str, Any]) -> None:
        super()._begin(config)
        self._held: dict[str, float] = {}

    def step(self) -> dict[str, Any]:
        """Run one iteration; `eval_return` is held between two evaluations."""
        metrics = super().step()
        iteration = self._updates // self._every
        if "eval_return" in metrics:
            self._held = {"eval_return": metrics["eval_return"], "eval_iteration": iteration}
        pairs = self.settings.steps * self.settings.envs * metrics["workers"]
        seconds = metrics["step_s"] * self._every
        return {
            "iteration": iteration,
            "env_steps": iteration * pairs,
            "steps_per_s": pairs / seconds if seconds > 0 else 0.0,
            **metrics,
            **self._held,
            DONE: metrics[DONE],
        }

    def save_checkpoint(self, directory: Path) -> None:
        """See `DistributedTrainable.save_checkpoint`; the evaluation that is held goes along."""
        super().save_checkpoint(directory)
        (directory / _HELD).write_text(json.dumps(self._held), encoding="utf-8")

    def load_checkpoint(self, directory: Path) -> None:
        """See `DistributedTrainable.load_checkpoint`."""
        super().load_checkpoint(directory)
        self._held = json.loads((directory / _HELD).read_text(encoding="utf-8"))
