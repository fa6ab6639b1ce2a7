"""Ours beside a well-kept library's: learning at equal steps over seeds; and the same code on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.policy_gradient import final_return, our_curve, sb3_curve
from tune_platform.spec import load_spec
from tune_platform.trainable import TrialContext
from tune_platform.trainables.policy_gradient import PolicyGradientTrainable

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("algorithm", ["ppo", "trpo"])
def test_learns_as_fast_as_the_library(algorithm: str) -> None:
    steps, seeds = 6 * 2048, 3
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours = [our_curve(algorithm, "CartPole-v1", seed, steps) for seed in range(seeds)]
        theirs = [sb3_curve(algorithm, "CartPole-v1", seed, steps) for seed in range(seeds)]
    finally:
        torch.set_num_threads(threads)
    mine, other = (float(np.mean([final_return(curve) for curve in curves])) for curves in (ours, theirs))
    start = float(np.mean([curve[1][0] for curve in ours]))
    assert mine > 2 * start
    assert 0.6 < mine / other < 1 / 0.6


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["ppo", "trpo"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_trains_and_resumes_on_a_gpu(algorithm: str, precision: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    config = {"env_id": "CartPole-v1", "pairs": 256, "envs": 2, "minibatches": 4, "algorithm": algorithm,
              "precision": precision, "eval_episodes": 1, "test_episodes": 1}  # fmt: skip
    trainable = PolicyGradientTrainable(TrialContext(seed=1, resources={"cpu": 1, "gpu": 1}))
    trainable.setup(config)
    assert trainable.training.agent.device.type == "cuda"
    assert all(np.isfinite(trainable.step()["value_loss"]) for _ in range(2))
    trainable.save_checkpoint(tmp_path)
    on_cpu = PolicyGradientTrainable(TrialContext(seed=1, resources={"cpu": 1}))
    on_cpu.setup({**config, "precision": "float32"})
    on_cpu.load_checkpoint(tmp_path)
    assert on_cpu.step()["iteration"] == 3


def test_example_searches_what_the_trainable_knows() -> None:
    spec = load_spec(ROOT / "examples" / "policy_gradient.yaml")
    config = {name: value for name, value in spec.to_dict()["space"].items() if not isinstance(value, dict)}
    trainable = PolicyGradientTrainable(TrialContext(seed=1, resources={"cpu": 1}))
    trainable.setup({**config, "lr": 1e-3, "value_lr": 1e-3, "clip": 0.2, "gae_lambda": 0.9, "entropy": 0.01})
    assert {"eval_return", "iteration"} <= set(trainable.step())
