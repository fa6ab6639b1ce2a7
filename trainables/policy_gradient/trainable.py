"""Policy gradient agents behind the platform's waist: one step is one iteration of PPO or TRPO.

Hyperparameters are the fields of `Settings`, and `variant`, which sets several of them at once ("ppo", "ppo-m",
"ppo-noclip", "trpo", "trpo+"). Metrics, once per iteration:

- `iteration`, `env_steps`, `episodes` (that ended in it);
- `eval_return` (the objective): the mean return of `eval_episodes` whole episodes with seeds of their own, measured
  every `eval_every` iterations and held in between (`eval_iteration` says when); `test_return`: the same on other
  seeds, reported with the last iteration only, and not to be tuned on;
- `train_return`, `train_length`: of the episodes that ended in the batch;
- `kl`, `max_ratio`, `clip_fraction`, `entropy`, `step_norm`, `explained_variance`, `value_loss`, and the algorithm's
  own;
- `steps_per_s` (environment steps per second of collecting and learning), `collect_s`, `update_s`;
- `resume_exact`: whether checkpoints of this environment hold the running episodes;
- with `probe_every`: `gradient_cosine` and `noise_scale`, held in between.

A checkpoint of another trial may be loaded, as population based training does: weights, normalisers, optimiser and
environments are taken over, and every hyperparameter stays that of the config.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_platform.trainable import Trainable
from tune_platform.trainables.policy_gradient.settings import Settings
from tune_platform.trainables.policy_gradient.training import Training
from tune_platform.trainables.runtime import use_threads


class PolicyGradientTrainable(Trainable):
    """PPO or TRPO on any gymnasium environment with Discrete or Box actions."""

    one_process = (
        "its environments are stepped by one policy; the trainable for a gang is "
        "tune_platform.trainables.policy_gradient.gang:PolicyGradientGangTrainable"
    )

    training: Training

    def setup(self, config: dict[str, Any]) -> None:
        """Take the threads of the lease, build environments and agent; raises ValueError for what cannot be."""
        use_threads(self.context)
        self.config = config
        settings = Settings.of(config)
        self.training = Training(settings, self.context.seed, self.context.device)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Begin a new run with `config` and the context's present seed; environments are kept where they fit."""
        old, new = self.training, Settings.of(config)
        fits = (old.settings.env_id, old.settings.env_kwargs, old.settings.envs) == (
            new.env_id, new.env_kwargs, new.envs,
        )  # fmt: skip
        if not fits:
            old.close()
        self.config = config
        self.training = Training(new, self.context.seed, self.context.device, old.environments if fits else None)
        return True

    def step(self) -> dict[str, Any]:
        """Run one iteration."""
        metrics = self.training.iteration()
        every = self.training.settings.probe_every
        if every and metrics["iteration"] % every == 0:
            from tune_platform.trainables.policy_gradient.gradient import probe

            metrics |= self.training.hold(probe(self.training.agent, self.training.seed))
        return metrics

    def save_checkpoint(self, directory: Path) -> None:
        """Write the state of the run, running episodes included."""
        self.training.save(directory)

    def load_checkpoint(self, directory: Path) -> None:
        """Go on from a saved state; raises ValueError for one of another environment or of other networks."""
        self.training.load(directory)

    def cleanup(self) -> None:
        """Close the environments."""
        if hasattr(self, "training"):
            self.training.close()
