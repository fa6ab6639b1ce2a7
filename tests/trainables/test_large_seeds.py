"""A trial's seed has 64 bits: every trainable that ships takes the largest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tune_platform.distributed import Gang
from tune_platform.trainable import Trainable, TrialContext
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.digits import DigitsTrainable
from tune_platform.trainables.policy_gradient import PolicyGradientTrainable
from tune_platform.trainables.robustness import RobustnessTrainable
from tune_platform.trainables.zero_label.trainable import ZeroLabelTrainable

LARGEST = (1 << 64) - 1
CASES: list[tuple[type[Trainable], dict[str, Any]]] = [
    (DigitsTrainable, {"epochs": 1, "width": 4, "model": "mlp", "optimizer": "sgd", "lr": 0.1, "dropout": 0.2}),
    (ClassificationTrainable, {"task": "synthetic", "examples": 256, "batch_size": 16, "updates": 4}),
    (PolicyGradientTrainable, {"env_id": "CartPole-v1", "pairs": 64, "envs": 1, "minibatches": 2, "epochs": 1,
                               "hidden": [8], "eval_episodes": 1, "test_episodes": 1}),
    (RobustnessTrainable, {"method": "at", "width": 4, "epochs": 1, "attack_steps": 1, "train_size": 60,
                           "analysis_images": 10, "dropout": 0.1}),
    (ZeroLabelTrainable, {"train_scenes": 12, "width": 4, "base_steps": 2, "round_steps": 2, "batch_size": 4,
                          "rounds": 1, "diagnostics": True}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_the_largest_seed_trains_and_is_resumed(kind: type[Trainable], config: dict[str, Any], tmp_path: Path) -> None:
    gang = Gang("threads", 2) if kind is ClassificationTrainable else None
    context = TrialContext(seed=LARGEST, resources={"cpu": 1}, folder=str(tmp_path / "trial"), gang=gang)
    trainable = kind(context)
    trainable.setup(config)
    assert trainable.step()
    (tmp_path / "checkpoint").mkdir()
    trainable.save_checkpoint(tmp_path / "checkpoint")
    trainable.load_checkpoint(tmp_path / "checkpoint")
    trainable.cleanup()
    if gang is not None:
        gang.close()
