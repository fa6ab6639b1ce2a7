"""The digits example: it learns, it resumes exactly, and it leaves torch's global state alone."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_platform.spec import load_spec
from tune_platform.trainable import TrialContext
from tune_platform.trainables.digits import DigitsTrainable, Training, load_data

SMALL = {"width": 16, "channels": 4, "dropout": 0.3, "batch_size": 128, "shift": 1, "epochs": 4}
CONFIGS = [
    {**SMALL, "model": "mlp", "optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
    {**SMALL, "model": "mlp", "optimizer": "adamw", "lr": 0.01, "activation": "tanh", "layers": 2},
    {**SMALL, "model": "cnn", "optimizer": "adamw", "lr": 0.01, "activation": "gelu"},
]


def make(config: dict[str, Any], seed: int = 3) -> DigitsTrainable:
    trainable = DigitsTrainable(TrialContext(seed=seed, resources={"cpu": 1}))
    trainable.setup(config)
    return trainable


def steps(trainable: DigitsTrainable, count: int) -> list[dict[str, Any]]:
    """The reports, without the one metric that is a matter of the machine."""
    reports = [trainable.step() for _ in range(count)]
    return [{name: value for name, value in report.items() if name != "samples_per_s"} for report in reports]


def same_weights(one: DigitsTrainable, other: DigitsTrainable) -> bool:
    pairs = zip(one.training.model.parameters(), other.training.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_split_is_stratified_and_fixed() -> None:
    data, again = load_data(), load_data()
    assert [len(part.labels) for part in data] == [1197, 300, 300]
    assert all(torch.equal(a.images, b.images) for a, b in zip(data, again, strict=True))
    for part in data:
        share = torch.bincount(part.labels, minlength=10) / len(part.labels)
        assert share.min() > 0.09
        assert share.max() < 0.11
    whole = torch.cat([part.images.flatten(1) for part in data])
    assert len(torch.unique(whole, dim=0)) == 1797  # no image is in two parts


@pytest.mark.parametrize("config", CONFIGS)
def test_resume_equals_uninterrupted(config: dict[str, Any], tmp_path: Path) -> None:
    whole = make(config)
    expected = steps(whole, 4)
    first = make(config)
    assert steps(first, 2) == expected[:2]
    first.save_checkpoint(tmp_path)
    torch.manual_seed(99)  # another process has another global state
    second = make(config)
    second.load_checkpoint(tmp_path)
    assert steps(second, 2) == expected[2:]
    assert same_weights(whole, second)
    assert expected[-1]["done"]
    assert not expected[-2]["done"]


def test_seed_decides_everything() -> None:
    assert steps(make(CONFIGS[0]), 2) == steps(make(CONFIGS[0]), 2)
    assert steps(make(CONFIGS[0]), 2) != steps(make(CONFIGS[0], seed=4), 2)


def test_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    steps(make(CONFIGS[0]), 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_reset_config_equals_a_fresh_start() -> None:
    used = make(CONFIGS[2])
    data = used.data
    steps(used, 1)
    assert used.reset_config(CONFIGS[0])
    assert used.data is data
    assert steps(used, 2) == steps(make(CONFIGS[0]), 2)


def test_clone_keeps_its_own_hyperparameters(tmp_path: Path) -> None:
    source = make(CONFIGS[0])
    steps(source, 1)
    source.save_checkpoint(tmp_path)
    clone = make({**CONFIGS[0], "lr": 0.5, "momentum": 0.1})
    clone.load_checkpoint(tmp_path)
    group = clone.training.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.5, 0.1)
    assert same_weights(source, clone)
    assert clone.training.optimizer.state  # momentum buffers came along
    steps(clone, 1)
    other = make({**CONFIGS[0], "optimizer": "adamw"})
    other.load_checkpoint(tmp_path)  # another optimiser starts with an empty state
    assert not other.training.optimizer.state


def test_learns() -> None:
    training = Training({"model": "mlp", "width": 64, "lr": 0.1, "batch_size": 32}, load_data(), seed=0)
    reports = [training.epoch() for _ in range(5)]
    assert reports[-1]["val_accuracy"] > 0.9
    assert reports[-1]["test_accuracy"] > 0.9
    assert reports[-1]["train_loss"] < reports[0]["train_loss"]
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"model": "rnn"}, "model is 'mlp' or 'cnn', got 'rnn'"),
        ({"activation": "elu"}, "activation is one of"),
        ({"optimizer": "adam"}, "optimizer is 'sgd' or 'adamw', got 'adam'"),
    ],
)
def test_bad_hyperparameters(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make({**CONFIGS[0], **bad})


def test_function_api_trains_the_same(tmp_path: Path) -> None:
    from tune_platform.trainable import make_trainable
    from tune_platform.trainables.digits import train_digits

    context = TrialContext(seed=3, resources={"cpu": 1})
    expected = steps(make(CONFIGS[0]), 4)
    function = make_trainable(train_digits, context)
    function.setup(dict(CONFIGS[0]))
    seen = [function.step() for _ in range(2)]
    assert function.save_checkpoint(tmp_path)
    function.cleanup()
    resumed = make_trainable(train_digits, context)
    resumed.setup(dict(CONFIGS[0]))
    resumed.load_checkpoint(tmp_path)
    seen += [resumed.step() for _ in range(2)]
    assert resumed.step() is None
    resumed.cleanup()
    assert [report and report["val_loss"] for report in seen] == [report["val_loss"] for report in expected]


def test_example_spec_is_sound() -> None:
    spec = load_spec(Path(__file__).parents[2] / "examples" / "digits.yaml")
    assert spec.check() == []
    assert spec.trials == 64
    assert spec.load_trainable() is DigitsTrainable
    script = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "digits.py"), run_name="example")
    assert spec.differences(script["SPEC"].to_dict()) == []  # the Python example is the same search
    assert spec.fingerprint() == script["SPEC"].fingerprint()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_trains_on_a_gpu(tmp_path: Path) -> None:
    trainable = DigitsTrainable(TrialContext(seed=1, resources={"cpu": 1, "gpu": 1}))
    trainable.setup({**CONFIGS[2], "epochs": 6})
    steps(trainable, 3)
    trainable.save_checkpoint(tmp_path)
    trainable.load_checkpoint(tmp_path)
    assert steps(trainable, 3)[-1]["val_accuracy"] > 0.5
