"""One training run: environments, agent and random streams together; saved and resumed exactly."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tune_platform.trainable import DONE
from tune_platform.trainables.policy_gradient.agent import Agent
from tune_platform.trainables.policy_gradient.environments import Environments
from tune_platform.trainables.policy_gradient.rollout import Batch, Episodes, collect, run_episodes
from tune_platform.trainables.policy_gradient.settings import Settings
from tune_platform.trainables.runtime import deterministic, stream_seed

logger = logging.getLogger(__name__)

STATE_FILE = "policy_gradient.pt"
FORMAT = 1


class Training:
    """A run of `settings`, all of its random draws from streams of `seed`.

    `environments` of an earlier run may be given, where they are of the same kind, to be used again.
    """

    def __init__(
        self, settings: Settings, seed: int, device: str = "cpu", environments: Environments | None = None
    ) -> None:
        self.settings = settings
        self.seed = seed
        if environments is None:
            environments = Environments(settings.env_id, settings.env_kwargs, settings.envs)
        self.environments = environments
        self.agent = Agent(settings, environments.sizes, seed, device)
        environments.reset([stream_seed(seed, "environment", index) for index in range(settings.envs)])
        self.draw = np.random.default_rng(stream_seed(seed, "actions"))
        self.env_steps = 0
        #: Whether the last `load` took the episodes up where they were.
        self.episodes_restarted = False
        self._measured: dict[str, float] = {}  # of the last evaluation, the last episodes and the last probe
        self._evaluation: Environments | None = None

    def collect(self) -> Batch:
        """Collect the next batch, running the normalisers on."""
        agent = self.agent
        return collect(
            self.environments, agent.actor, agent.normaliser, agent.scaler, self.draw, self.settings.steps, learn=True
        )

    def iteration(self) -> dict[str, Any]:
        """Collect one batch, learn from it, evaluate where it is time; return the metrics."""
        settings = self.settings
        started = time.perf_counter()
        batch = self.collect()
        collected = time.perf_counter()
        with deterministic(settings.deterministic):
            outcome = self.agent.update(batch)
        updated = time.perf_counter()
        self.env_steps += batch.pairs
        if batch.episode_returns:
            self._measured["train_return"] = float(np.mean(batch.episode_returns))
            self._measured["train_length"] = float(np.mean(batch.episode_lengths))
        else:  # episodes longer than the batch: what the running ones have got so far is a lower estimate
            self._measured.setdefault("train_return", float(self.environments.episode_returns.mean()))
            self._measured.setdefault("train_length", float(self.environments.episode_lengths.mean()))
        number = self.agent.iteration
        done = number >= settings.iterations
        if number % settings.eval_every == 0 or done or "eval_return" not in self._measured:
            self._measured["eval_return"] = self.evaluate("evaluation", settings.eval_episodes).mean
            self._measured["eval_iteration"] = number
        metrics: dict[str, Any] = {
            "iteration": number,
            "env_steps": self.env_steps,
            "episodes": len(batch.episode_returns),
            **self._measured,
            **outcome,
            "steps_per_s": batch.pairs / (updated - started),
            "collect_s": collected - started,
            "update_s": updated - collected,
            "resume_exact": self.environments.exact,
            DONE: done,
        }
        if done:
            metrics["test_return"] = self.evaluate("report", settings.test_episodes).mean
        return metrics

    def hold(self, measured: Mapping[str, float]) -> Mapping[str, float]:
        """Report these with every iteration from now on, a resumed run's too; return them."""
        self._measured.update(measured)
        return measured

    def evaluate(self, purpose: str, episodes: int) -> Episodes:
        """Run episodes with the present policy on the seeds of `purpose`: "evaluation" to choose by, "report" to tell.

        The seeds come from `eval_seed` and not from the trial's: all trials of a search are judged on the same ones.
        """
        if self._evaluation is None:
            self._evaluation = Environments(self.settings.env_id, self.settings.env_kwargs, min(episodes, 10))
        seeds = [stream_seed(self.settings.eval_seed, purpose, index) for index in range(episodes)]
        return run_episodes(self._evaluation, self.agent.actor, self.agent.normaliser, seeds)

    def save(self, directory: Path) -> None:
        """Write everything that the next iteration depends on."""
        state = {
            "format": FORMAT,
            "settings": self.settings.to_dict(),
            "seed": self.seed,
            "env_steps": self.env_steps,
            "measured": dict(self._measured),
            "draw": self.draw.bit_generator.state,
            "environments": self.environments.state(),
            "agent": self.agent.state(),
        }
        torch.save(with_tensors(state), directory / STATE_FILE)

    def load(self, directory: Path) -> None:
        """Take over what `save` wrote. Hyperparameters stay this run's, which a clone may have changed.

        Raises ValueError for a checkpoint of another environment or of other networks.
        """
        state = read_state(directory)
        saved = Settings.of(state["settings"])
        if (saved.env_id, dict(saved.env_kwargs)) != (self.settings.env_id, dict(self.settings.env_kwargs)):
            raise ValueError(
                f"the checkpoint is of the environment {_named(saved)} and this trial is set to "
                f"{_named(self.settings)}: a policy of the one means nothing in the other. Start without a checkpoint"
            )
        self.agent.load_state(state["agent"], saved)
        self.env_steps = int(state["env_steps"])
        self._measured = dict(state["measured"])
        self.draw.bit_generator.state = state["draw"]
        self.episodes_restarted = not self.environments.load_state(state["environments"])
        if self.episodes_restarted:
            why = (
                f"{self.settings.env_id} cannot be saved in the middle of an episode"
                if not self.environments.exact
                else f"it was saved with {saved.envs} environments, and there are {self.settings.envs} now"
            )
            logger.warning("all episodes start anew, the resumed run is not an exact continuation: %s", why)
            seeds = [stream_seed(self.seed, "environment", self.env_steps, i) for i in range(self.settings.envs)]
            self.environments.reset(seeds)

    def close(self) -> None:
        """Give back what the environments hold."""
        self.environments.close()
        if self._evaluation is not None:
            self._evaluation.close()


def read_state(directory: Path) -> dict[str, Any]:
    """Return the state in a checkpoint's directory, on the CPU. Raises ValueError where there is none of ours."""
    path = directory / STATE_FILE
    if not path.is_file():
        raise ValueError(f"there is no {STATE_FILE} in {directory}: it is no checkpoint of a policy gradient trial")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("format") != FORMAT:
        raise ValueError(f"{path} has format {state.get('format')!r}, and this version reads {FORMAT}")
    return state


def load_agent(directory: Path, device: str = "cpu") -> Agent:
    """Return the agent of a checkpoint, with its own settings, for analysis. Raises ValueError as `read_state`."""
    state = read_state(directory)
    settings = Settings.of(state["settings"])
    environments = Environments(settings.env_id, settings.env_kwargs, 1)
    environments.close()
    agent = Agent(settings, environments.sizes, int(state["seed"]), device)
    agent.load_state(state["agent"], settings)
    return agent


def _named(settings: Settings) -> str:
    return f"{settings.env_id} {dict(settings.env_kwargs) or ''}".strip()


def with_tensors(value: Any) -> Any:
    """Return nested values with arrays as tensors, which torch reads back without unpickling classes."""
    if isinstance(value, Mapping):
        return {key: with_tensors(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_tensors(inner) for inner in value]
    return torch.tensor(value) if isinstance(value, np.ndarray) else value
