"""Every choice of a policy gradient run: the algorithm, its numbers, and each code-level optimisation as a switch.

Numbers of `paper_settings` are those of Ilyas et al. (2020), Table 1; what a variant switches is taken from Engstrom
et al. (2020), "Implementation Matters in Deep Policy Gradients", and the configurations released with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tune_platform.trainables.runtime import PRECISIONS, check_names
from tune_platform.trainables.schedules import SCHEDULES, rate_factor

#: Options of other trainables, and why they are not here.
ABSENT: Mapping[str, str] = {
    "accumulate": "a minibatch is a part of the batch already: set minibatches",
    "channels_last": "its networks have no images",
    "compile": "its time goes into environments and networks of two small layers",
    "ema": "the policy that acts is the one that its update is measured from",
    "lean_checkpoints": "its networks are small",
    "evaluation": "it is one process: PolicyGradientGangTrainable of policy_gradient.gang has it",
    "test": "test episodes are played with the last report alone",
}


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of one run; `Settings.of(config)` builds them from a trial's config.

    The nine code-level optimisations are `value_clip`, `scale_rewards`, `init`, `anneal_lr`, `clip_rewards`,
    `normalise_observations`, `clip_observations`, `activation` and `max_grad_norm`. A limit of 0 switches it off.
    """

    env_id: str = "CartPole-v1"
    #: Keyword arguments of `gymnasium.make`.
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    algorithm: str = "ppo"
    #: The run ends by itself after so many.
    iterations: int = 50
    #: State-action pairs of one iteration, over all environments together.
    pairs: int = 2048
    #: Environments that are stepped together.
    envs: int = 8
    gamma: float = 0.99
    gae_lambda: float = 0.95
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    init: str = "orthogonal"
    log_std: float = 0.0
    #: Passes over the batch: of policy and value network in PPO, of the value network in TRPO.
    epochs: int = 10
    minibatches: int = 32
    value_lr: float = 3e-4
    value_clip: float = 0.2
    adam_eps: float = 1e-5
    #: Of the rates, by iterations (of TRPO that of the value network): "linear" falls to zero; "constant", "cosine",
    #: "step" and "one_cycle" are those of `trainables.schedules`. `anneal_lr` is "linear" or "constant" in one word.
    schedule: str = "linear"
    #: The share of the iterations in which the rates rise.
    warmup: float = 0.0
    anneal_lr: bool = True
    max_grad_norm: float = 0.5
    normalise_advantages: bool = True
    #: "value": GAE with the value network; "zero": plain returns in place of advantages, to see what a baseline is
    #: worth.
    baseline: str = "value"
    scale_rewards: bool = True
    clip_rewards: float = 10.0
    normalise_observations: bool = True
    clip_observations: float = 10.0
    # PPO
    lr: float = 3e-4
    clip: float = 0.2
    entropy: float = 0.0
    # TRPO
    delta: float = 0.04
    #: The KL bound goes linearly from `delta` to this one; 0 keeps it.
    delta_final: float = 0.0
    fisher_fraction: float = 0.1
    cg_iterations: int = 10
    damping: float = 0.1
    backtracks: int = 10
    # Measurement and machine
    precision: str = "float32"
    #: An operation that is not deterministic raises RuntimeError.
    deterministic: bool = False
    eval_every: int = 1
    eval_episodes: int = 5
    test_episodes: int = 20
    #: Seed of the evaluation episodes, the same ones in every trial of a search; those of the final report differ.
    eval_seed: int = 0
    #: Iterations between two gradient probes while training (0: none), each of ten estimates from so many pairs.
    probe_every: int = 0
    probe_pairs: int = 2048
    #: Two defects of the released code on purpose: time limits and the ends of rollouts count as terminal (no
    #: bootstrap), and the entropy of a discrete policy has the wrong sign.
    as_released: bool = False

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ValueError(problem)

    @staticmethod
    def of(config: Mapping[str, Any]) -> Settings:
        """Build the settings of `config`, on top of those of its `variant` if it names one.

        Raises ValueError for an unknown key, with the nearest known one, and for a value that cannot be.
        """
        given = dict(config)
        base = Settings()
        if (variant := given.pop("variant", None)) is not None:
            base = paper_settings(str(variant), str(given.get("env_id", base.env_id)))
        names = [entry.name for entry in dataclasses.fields(Settings)]
        check_names(given, [*names, "variant"], ABSENT)
        typed = {key: _as_type(key, getattr(base, key), value) for key, value in given.items()}
        if "anneal_lr" in typed and "schedule" not in typed:
            typed["schedule"] = "linear" if typed["anneal_lr"] else "constant"
        return dataclasses.replace(base, **typed)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, from which `of` builds them again."""
        plain = dataclasses.asdict(self)
        return {**plain, "env_kwargs": dict(self.env_kwargs), "hidden": list(self.hidden)}

    @property
    def steps(self) -> int:
        """Steps of each environment in one iteration."""
        return self.pairs // self.envs

    def rate(self, iteration: int) -> float:
        """Return what the learning rates are multiplied by in an iteration, from 0 on."""
        if self.schedule != "linear":
            return rate_factor(self.schedule, iteration, self.iterations, self.warmup)
        left = max(0.0, 1 - iteration / self.iterations)
        return left * rate_factor("constant", iteration, self.iterations, self.warmup) if self.warmup else left

    def _problems(self) -> list[str]:
        """Return what is wrong, one sentence each."""
        choices = {
            "algorithm": ("ppo", "trpo"), "activation": ("tanh", "relu"),
            "init": ("orthogonal", "xavier"), "precision": PRECISIONS, "baseline": ("value", "zero"),
            "schedule": ("linear", *SCHEDULES),
        }  # fmt: skip
        ranges = {
            "iterations": (1, None), "pairs": (2, None), "envs": (1, None), "gamma": (0, 1), "gae_lambda": (0, 1),
            "epochs": (1, None), "minibatches": (1, None), "lr": (0, None), "value_lr": (0, None), "clip": (0, None),
            "value_clip": (0, None), "max_grad_norm": (0, None), "clip_rewards": (0, None), "adam_eps": (0, None),
            "clip_observations": (0, None), "delta": (0, None), "delta_final": (0, None), "fisher_fraction": (0, 1),
            "cg_iterations": (1, None), "damping": (0, None), "backtracks": (0, None), "eval_every": (1, None),
            "eval_episodes": (1, None), "test_episodes": (1, None), "probe_every": (0, None), "probe_pairs": (2, None),
            "warmup": (0, 1), "eval_seed": (0, None),
        }  # fmt: skip
        found = []
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                found.append(f"{name} is one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not (low <= value and (high is None or value <= high)):
                limit = f"at least {low}" if high is None else f"between {low} and {high}"
                found.append(f"{name} is {limit}, got {value!r}")
        found += [
            f"{name} is a number, got {getattr(self, name)!r}"
            for name in ("log_std", "entropy")
            if not math.isfinite(getattr(self, name))
        ]
        if not self.hidden or min(self.hidden) < 1:
            found.append(f"hidden is a list of layer widths such as [64, 64], got {list(self.hidden)}")
        if self.schedule != "constant" and not self.anneal_lr:
            found.append(
                f"schedule is {self.schedule!r} and anneal_lr false, which keeps the rate constant: leave one out"
                + (", or set anneal_lr: true where a variant has it off" if self.schedule != "linear" else "")
            )
        if not found and self.pairs % self.envs:
            found.append(f"pairs ({self.pairs}) must be a multiple of envs ({self.envs}): each steps equally often")
        if not found and self.minibatches > self.pairs:
            found.append(f"minibatches ({self.minibatches}) cannot be more than pairs ({self.pairs})")
        return found


#: What each variant switches, in the words of Engstrom et al.; PPO-M and TRPO keep the observation filter, as released.
_MINIMAL = {
    "value_clip": 0.0, "scale_rewards": False, "clip_rewards": 0.0, "clip_observations": 0.0, "init": "xavier",
    "anneal_lr": False, "schedule": "constant", "max_grad_norm": 0.0,
}  # fmt: skip
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "ppo": {"algorithm": "ppo", "max_grad_norm": 0.0},
    "ppo-m": {"algorithm": "ppo", **_MINIMAL},
    "ppo-noclip": {"algorithm": "ppo", "clip": 1e32, "value_clip": 0.2},
    "trpo": {"algorithm": "trpo", **_MINIMAL},
    "trpo+": {"algorithm": "trpo", **_MINIMAL, "scale_rewards": True, "init": "orthogonal"},
}
#: Numbers that were tuned for one environment.
_TUNED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "Humanoid": {
        "ppo": {"lr": 2.5e-4, "value_lr": 1e-4}, "ppo-m": {"lr": 9e-5, "value_lr": 1e-4},
        "ppo-noclip": {"lr": 1.5e-4, "value_lr": 1e-4, "entropy": 0.005, "max_grad_norm": 0.5, "gae_lambda": 0.85},
        "trpo": {"delta": 0.07, "value_lr": 3e-4},
        "trpo+": {"delta": 0.1, "delta_final": 0.05, "value_lr": 3e-4, "value_clip": 0.2, "gae_lambda": 0.85},
    },
    "Walker2d": {
        "ppo": {"lr": 4e-4, "value_lr": 3e-4}, "ppo-m": {"lr": 1e-4, "value_lr": 3e-4},
        "ppo-noclip": {"lr": 4e-4, "value_lr": 3e-4, "entropy": -0.01, "max_grad_norm": 0.1, "gae_lambda": 0.85},
        "trpo": {"delta": 0.04, "value_lr": 3e-4},
        "trpo+": {"delta": 0.07, "delta_final": 0.04, "value_lr": 3e-4},
    },
    "Hopper": {
        "ppo": {"lr": 4.5e-4, "value_lr": 2e-4}, "ppo-m": {"lr": 1.7e-4, "value_lr": 2e-4},
        "ppo-noclip": {"lr": 3e-4, "value_lr": 2e-4, "entropy": -0.005, "max_grad_norm": 4.0, "gae_lambda": 0.925},
        "trpo": {"delta": 0.13, "value_lr": 2e-4},
        "trpo+": {"delta": 0.04, "delta_final": 0.07, "value_lr": 2e-4},
    },
}  # fmt: skip


def paper_settings(variant: str, env_id: str) -> Settings:
    """Return the settings of a variant: "ppo", "ppo-m", "ppo-noclip", "trpo" or "trpo+".

    Humanoid, Walker2d and Hopper (any version) come with the numbers that were tuned for them; any other
    environment gets the defaults. Raises ValueError for another variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is one of {', '.join(VARIANTS)}, got {variant!r}")
    tuned = _TUNED.get(env_id.partition("-")[0], {}).get(variant, {})
    return Settings(env_id=env_id, **{**VARIANTS[variant], **tuned})


def _as_type(key: str, default: Any, value: Any) -> Any:
    """Read a config's value as the type of the setting's default: 1 is a float where floats are meant."""
    try:
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise TypeError
            return value
        if isinstance(default, int):
            if isinstance(value, bool) or int(value) != value:
                raise TypeError
            return int(value)
        if isinstance(default, float):
            return float(value)
        if isinstance(default, tuple):
            return tuple(int(width) for width in value)
        if isinstance(default, Mapping):
            return dict(value)
        if not isinstance(value, str):
            raise TypeError
        return value
    except (TypeError, ValueError):
        kind = "list of integers" if isinstance(default, tuple) else type(default).__name__
        raise ValueError(f"{key} is of type {kind}, got {value!r}") from None
