"""Our PPO and TRPO beside stable-baselines3's at equal settings: steps per second, and learning at equal steps.

    python -m benchmarks.policy_gradient --quick --json
    python -m benchmarks.policy_gradient --single-file
    python -m benchmarks.policy_gradient --learning --seeds 3 --steps 40000 --out docs/figures/policy_gradient

Speed: both collect 2,048 pairs from 8 environments and learn from them in 10 passes of minibatches of 64, one thread,
with running normalisation, in turn; medians over rounds. Learning: without normalisation and annealing, which the two
do in different ways; what is left is the same algorithm but for one optimiser for both networks there and two learning
rates here.

`--single-file` adds CleanRL's `ppo.py` (release 1.2.0) on CartPole at the same numbers, in an environment of its own,
which `uv` makes, since it needs an older gym. It does without running normalisation; its rate is the one that it
prints.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import Table
from tune_platform.trainables.policy_gradient import Settings
from tune_platform.trainables.policy_gradient.training import Training
from tune_platform.trainables.stats import mean_interval, paired_difference

PAIRS, ENVS = 2048, 8
Curve = tuple[list[float], list[float]]

#: The same numbers for both, algorithm by algorithm; SB3's defaults but for the size of the batch.
_PLAIN: dict[str, Any] = {
    "normalise_observations": False, "clip_observations": 0, "scale_rewards": False, "clip_rewards": 0,
    "anneal_lr": False, "value_clip": 0, "pairs": PAIRS, "envs": ENVS, "epochs": 10, "eval_every": 10**9,
    "eval_episodes": 1, "test_episodes": 1,
}  # fmt: skip
OURS: dict[str, dict[str, Any]] = {
    "ppo": {**_PLAIN, "lr": 3e-4, "value_lr": 3e-4, "minibatches": 32, "max_grad_norm": 0.5},
    "trpo": {
        **_PLAIN, "algorithm": "trpo", "delta": 0.01, "value_lr": 1e-3, "minibatches": 16, "fisher_fraction": 1.0,
        "cg_iterations": 15, "max_grad_norm": 0, "init": "orthogonal",
    },
}  # fmt: skip


def sb3_model(algorithm: str, env_id: str, seed: int, *, normalise: bool) -> Any:
    """Build the library's agent with the same numbers."""
    import gymnasium as gym
    from sb3_contrib import TRPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

    environments: Any = VecMonitor(DummyVecEnv([lambda: gym.make(env_id)] * ENVS))
    if normalise:
        environments = VecNormalize(environments)
    environments.seed(seed)
    shape: dict[str, Any] = {"n_steps": PAIRS // ENVS, "device": "cpu", "seed": seed}
    if algorithm == "ppo":
        return PPO("MlpPolicy", environments, batch_size=64, n_epochs=10, learning_rate=3e-4, **shape)
    return TRPO("MlpPolicy", environments, batch_size=128, learning_rate=1e-3, target_kl=0.01, **shape)


def our_speed(env_id: str, iterations: int) -> float:
    """Return steps per second of our PPO, after a first iteration to warm up."""
    settings = Settings.of({**OURS["ppo"], "normalise_observations": True, "scale_rewards": True, "env_id": env_id,
                            "iterations": 10**6})  # fmt: skip
    training = Training(settings, 0)
    training.agent.update(training.collect())
    started = time.perf_counter()
    for _ in range(iterations):
        training.agent.update(training.collect())
    return iterations * PAIRS / (time.perf_counter() - started)


def sb3_speed(env_id: str, iterations: int) -> float:
    """Return steps per second of stable-baselines3's PPO, after a first iteration to warm up."""
    model = sb3_model("ppo", env_id, 0, normalise=True)
    model.learn(PAIRS)
    started = time.perf_counter()
    model.learn(iterations * PAIRS, reset_num_timesteps=False)
    return iterations * PAIRS / (time.perf_counter() - started)


class SingleFile:
    """CleanRL's `ppo.py` in an environment of its own below `folder`. Raises CalledProcessError where uv fails."""

    def __init__(self, folder: str) -> None:
        self._folder, self._python = folder, f"{folder}/environment/bin/python"
        packages = ["gym==0.23.1", "numpy<2", "torch", "tensorboard", "setuptools", "pygame"]
        for command in (
            ["uv", "venv", "--quiet", "--python", "3.11", f"{folder}/environment"],
            ["uv", "pip", "install", "--quiet", "--python", self._python, *packages],
            ["uv", "pip", "install", "--quiet", "--python", self._python, "--no-deps", "cleanrl==1.2.0"],
        ):
            subprocess.run(command, check=True)

    def speed(self, env_id: str, iterations: int) -> float:
        """Return the steps per second that it prints at the end, of collecting and learning from its first step on."""
        numbers = {"num-envs": ENVS, "num-steps": PAIRS // ENVS, "num-minibatches": 32, "update-epochs": 10}
        words = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
        words += ["--env-id", env_id, "--total-timesteps", str((iterations + 1) * PAIRS), "--cuda", "False"]
        told = subprocess.run(
            [self._python, "-m", "cleanrl.ppo", *words],
            cwd=self._folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return float(told.stdout.rpartition("SPS:")[2])


def speed(
    environments: list[str], rounds: int, iterations: int, systems: Mapping[str, Callable[[str, int], float]]
) -> dict[str, Any]:
    """Measure all in turn and print a table of medians, with the ratio to the fastest of the others."""
    found: dict[str, Any] = {}
    table = Table("environment", *(f"{name} (steps/s)" for name in systems), "ratio")
    for env_id in environments:
        rates: dict[str, list[float]] = {name: [] for name in systems}
        for _ in range(rounds):
            for name, measure in systems.items():
                rates[name].append(measure(env_id, iterations))
        medians = {name: statistics.median(rates[name]) for name in systems}
        ratio = medians["ours"] / max(value for name, value in medians.items() if name != "ours")
        table.add(env_id, *(f"{value:,.0f}" for value in medians.values()), f"{ratio:.2f}")
        found[env_id] = {"steps_per_s": medians, "ratio": ratio, "rounds": rates}
    table.print()
    return found


def our_curve(algorithm: str, env_id: str, seed: int, steps: int) -> Curve:
    """Return (environment steps, mean return of the episodes that ended in each batch) of our agent."""
    iterations = -(-steps // PAIRS)
    training = Training(Settings.of({**OURS[algorithm], "env_id": env_id, "iterations": 10**6}), seed)
    x, y = [], []
    for number in range(1, iterations + 1):
        batch = training.collect()
        training.agent.update(batch)
        if batch.episode_returns:
            x.append(float(number * PAIRS))
            y.append(float(np.mean(batch.episode_returns)))
    training.close()
    return x, y


def sb3_curve(algorithm: str, env_id: str, seed: int, steps: int) -> Curve:
    """The same of the library's agent."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Returns(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.x: list[float] = []
            self.y: list[float] = []
            self.ended: list[float] = []

        def _on_step(self) -> bool:
            self.ended += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
            return True

        def _on_rollout_end(self) -> None:
            if self.ended:
                self.x.append(float(self.num_timesteps))
                self.y.append(float(np.mean(self.ended)))
            self.ended = []

    seen = Returns()
    sb3_model(algorithm, env_id, seed, normalise=False).learn(-(-steps // PAIRS) * PAIRS, callback=seen)
    return seen.x, seen.y


def final_return(curve: Curve) -> float:
    """Return the mean over the last fifth of a curve."""
    return float(np.mean(curve[1][-max(1, len(curve[1]) // 5) :]))


def learning(env_id: str, seeds: int, steps: int, out: Path | None) -> dict[str, Any]:
    """Train all four on every seed, print final returns with intervals, and draw the curves into `out`."""
    found: dict[str, Any] = {}
    table = Table("algorithm", "ours [95 %]", "stable-baselines3 [95 %]", "difference [95 %]")
    curves: dict[str, list[Curve]] = {}
    for algorithm in OURS:
        ours = [our_curve(algorithm, env_id, seed, steps) for seed in range(seeds)]
        theirs = [sb3_curve(algorithm, env_id, seed, steps) for seed in range(seeds)]
        curves[f"{algorithm.upper()}, ours"], curves[f"{algorithm.upper()}, stable-baselines3"] = ours, theirs
        mine, other = [final_return(curve) for curve in ours], [final_return(curve) for curve in theirs]
        table.add(algorithm, mean_interval(mine), mean_interval(other), paired_difference(mine, other))
        found[algorithm] = {"ours": mine, "sb3": other}
    table.print()
    if out is not None:
        from tune_platform.trainables.policy_gradient import figures

        name = env_id.partition("-")[0].lower()
        title = f"{env_id}: learning at equal steps and settings"
        figures.save(figures.curve_figure(curves, title), out / f"learning_{name}.png")
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one environment, fewer rounds; under 50 s")
    parser.add_argument("--single-file", action="store_true", help="beside CleanRL's ppo.py too, on CartPole")
    parser.add_argument("--learning", action="store_true", help="compare learning instead of speed")
    parser.add_argument("--env", nargs="+", default=["CartPole-v1", "Hopper-v5"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.learning:
        found = {env: learning(env, arguments.seeds, arguments.steps, arguments.out) for env in arguments.env}
    else:
        systems: dict[str, Callable[[str, int], float]] = {"ours": our_speed, "stable-baselines3": sb3_speed}
        rounds, iterations = (3, 2) if arguments.quick else (5, 4)
        if arguments.single_file:
            with tempfile.TemporaryDirectory() as folder:
                systems["CleanRL"] = SingleFile(folder).speed
                found = speed(["CartPole-v1"], rounds, iterations, systems)
        else:
            found = speed(arguments.env[:1] if arguments.quick else arguments.env, rounds, iterations, systems)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
