"""The trainable: it learns, resumes exactly, and measurements change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tune_platform.spec import load_spec
from tune_platform.trainable import TrialContext
from tune_platform.trainables.pixels import Stored
from tune_platform.trainables.robustness import methods
from tune_platform.trainables.robustness.evaluate import Evaluation, Part
from tune_platform.trainables.robustness.trainable import DEFAULTS, Parts, RobustnessTrainable, Training, sample

SMALL = {
    "model": "mlp", "width": 4, "epochs": 3, "lr": 0.01, "attack_steps": 2, "train_size": 200, "dropout": 0.2,
    "shift": 1, "schedule": "cosine", "analysis_images": 20, "pgd_steps": 2, "targeted_steps": 2, "lipschitz_steps": 2,
}  # fmt: skip
PAPER = {"train_accuracy", "test_accuracy", "train_adv_accuracy", "test_adv_accuracy", "test_mt_accuracy",
         "train_lipschitz", "test_lipschitz", "gap", "adv_gap"}  # fmt: skip


def make(config: dict[str, Any], seed: int = 3) -> RobustnessTrainable:
    trainable = RobustnessTrainable(TrialContext(seed=seed, resources={"cpu": 1}))
    trainable.setup({**SMALL, **config})
    return trainable


def steps(trainable: RobustnessTrainable, count: int) -> list[dict[str, Any]]:
    """The reports, without the one metric that is a matter of the machine."""
    reports = [trainable.step() for _ in range(count)]
    return [{name: value for name, value in report.items() if name != "samples_per_s"} for report in reports]


def same_weights(one: RobustnessTrainable, other: RobustnessTrainable) -> bool:
    pairs = zip(one.training.model.state_dict().values(), other.training.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("method", methods.METHODS)
def test_resume_equals_uninterrupted(method: str, tmp_path: Path) -> None:
    config = {"method": method}
    whole = make(config)
    expected = steps(whole, 3)
    first = make(config)
    assert steps(first, 1) == expected[:1]
    first.save_checkpoint(tmp_path)
    torch.manual_seed(99)  # another process has another global state
    second = make(config)
    second.load_checkpoint(tmp_path)
    assert steps(second, 2) == expected[1:]
    assert same_weights(whole, second)
    assert [report["done"] for report in expected] == [False, False, True]


@pytest.mark.parametrize(
    "config",
    [
        {"model": "wrn", "depth": 10, "width": 1},
        {"optimizer": "sgd", "precision": "bfloat16"},
        {"precision": "float16"},
    ],
)
def test_batch_norm_and_mixed_precision_resume_too(config: dict[str, Any], tmp_path: Path) -> None:
    config = {**config, "method": "trades", "train_size": 60}
    whole, first, second = make(config), make(config), make(config)
    expected = steps(whole, 2)
    steps(first, 1)
    first.save_checkpoint(tmp_path)
    second.load_checkpoint(tmp_path)
    assert steps(second, 1) == expected[1:]
    assert same_weights(whole, second)


def test_measurements_change_no_training() -> None:
    """With and without analyses on the way, and with other analyses, the parameters are identical."""
    base = {"method": "rst", "model": "wrn", "depth": 10, "width": 1, "train_size": 60, "analysis_images": 5}
    plain, measured = make(base), make({**base, "analysis_every": 1, "pgd_restarts": 2, "lipschitz_steps": 3})
    bare = make(base)
    before, after = steps(plain, 3), steps(measured, 3)
    for _ in range(3):
        bare.training.learn()
        bare.training.analysis()
    assert same_weights(plain, measured)
    assert same_weights(plain, bare)
    assert [report["train_loss"] for report in before] == [report["train_loss"] for report in after]
    assert [set(report) >= PAPER for report in before] == [False, False, True]
    assert [set(report) >= PAPER for report in after] == [True, True, True]


@pytest.mark.parametrize(("horizon", "epochs"), [({"epoch": 2.0, "step": 5.0}, 2), ({"step": 2.0}, 2), ({}, 20)])
def test_where_no_epochs_are_named_the_scheduler_says_how_many(horizon: dict[str, float], epochs: int) -> None:
    trainable = RobustnessTrainable(TrialContext(seed=3, resources={"cpu": 1}, horizon=horizon))
    trainable.setup({name: value for name, value in SMALL.items() if name != "epochs"})
    assert trainable.training.config["epochs"] == epochs
    if epochs == 2:
        assert [report["done"] for report in steps(trainable, 2)] == [False, True]


def test_methods_are_paired_by_seed() -> None:
    """Natural training and TRADES without weight are one training: same batches, augmentations and dropout masks."""
    natural, trades = make({"method": "natural"}), make({"method": "trades", "beta": 0.0})
    assert [r["train_loss"] for r in steps(natural, 3)] == [r["train_loss"] for r in steps(trades, 3)]
    assert same_weights(natural, trades)


def test_seed_decides_everything_and_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    one = steps(make({"method": "at"}), 2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert one == steps(make({"method": "at"}), 2)
    assert one != steps(make({"method": "at"}, seed=4), 2)


def test_reset_config_equals_a_fresh_start_and_keeps_the_data() -> None:
    used = make({"method": "gr"})
    data = used.training.parts
    steps(used, 1)
    assert used.reset_config({**SMALL, "method": "trades"})
    assert used.training.parts is data
    assert steps(used, 2) == steps(make({"method": "trades"}), 2)
    assert used.reset_config({**SMALL, "split_seed": 1})
    assert used.training.parts is not data


def test_images_that_do_not_fit_are_trained_on_as_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restricted ImageNet takes 11.8 GiB as float32, and a quarter of that as it lies."""
    config = {"method": "at", "analysis_every": 1, "eps": 0.05}
    expected = steps(make(config), 2)
    monkeypatch.setattr("tune_platform.trainables.data.LIMIT_GIB", 1e-6)
    stored = make(config)
    assert isinstance(stored.training.parts.train[0], Stored)
    assert steps(stored, 2) == expected


def test_clone_keeps_its_own_hyperparameters(tmp_path: Path) -> None:
    source = make({"method": "at"})
    steps(source, 1)
    source.save_checkpoint(tmp_path)
    clone = make({"method": "trades", "lr": 0.5, "schedule": "constant"})
    clone.load_checkpoint(tmp_path)
    assert same_weights(source, clone)
    assert clone.training.optimizer.state
    assert steps(clone, 1)[0]["lr"] == 0.5
    other = make({"optimizer": "sgd"})
    other.load_checkpoint(tmp_path)
    assert not other.training.optimizer.state


def test_metrics_are_what_they_say() -> None:
    report = steps(make({"epochs": 1, "analysis_images": 0}), 1)[0]
    assert report["gap"] == pytest.approx(report["train_accuracy"] - report["test_accuracy"])
    assert report["adv_gap"] == pytest.approx(report["train_adv_accuracy"] - report["test_adv_accuracy"])
    assert report["test_mt_accuracy"] <= report["test_adv_accuracy"] + 0.01 <= report["test_accuracy"] + 0.01
    assert report["val_adv_accuracy"] <= report["val_accuracy"]


def test_gaps_are_measured_without_augmentation_and_dropout(parts: Parts) -> None:
    training = Training({**SMALL, "shift": 3, "dropout": 0.8, "epochs": 1}, parts, 0)
    training.learn()
    found = training.analysis()
    model = training.model.eval()
    images, labels = sample(training.config, "train", parts.train)
    assert found["train_accuracy"] == pytest.approx(float((model(images).argmax(1) == labels).double().mean()))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 6),
        ("step", [1, 1, 0.1, 0.1, 0.01, 0.001]),
        ("cosine", [1.0, 0.933, 0.75, 0.5, 0.25, 0.067]),
    ],
)
def test_schedules(schedule: str, expected: list[float], parts: Parts) -> None:
    training = Training({**SMALL, "schedule": schedule, "epochs": 6, "lr": 1e-3}, parts, 0)
    found = []
    for epoch in range(6):
        training.epochs_done = epoch
        found.append(training._set_lr() / 1e-3)
    assert found == pytest.approx(expected, abs=1e-3)


def test_learns_and_robust_training_is_robust() -> None:
    settings = {
        "width": 8, "epochs": 4, "dropout": 0.0, "shift": 0, "train_size": 800, "attack_steps": 3, "pgd_steps": 5,
        "analysis_images": 50, "eps": 0.1, "batch_size": 32,
    }  # fmt: skip
    natural, robust = (make({**settings, "method": method, "beta": 4.0}) for method in ("natural", "trades"))
    first, last = (steps(trainable, 4)[-1] for trainable in (natural, robust))
    assert first["val_accuracy"] > 0.85
    assert last["val_accuracy"] > 0.85
    assert last["val_adv_accuracy"] > first["val_adv_accuracy"] + 0.1
    assert last["test_lipschitz"] < 0.6 * first["test_lipschitz"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"betta": 3}, "unknown hyperparameter 'betta'.*did you mean 'beta'"),
        ({"eps": 8}, r"eps is a radius in pixel values .* divided by 255"),
        ({"eps": 0.0}, "eps is the radius of all measurements, above 0, got 0"),
        ({"train_eps": 0.6}, "train_eps is a radius"),
        ({"eps": 0.3}, r"eps=0\.3 does not fit these images.*allow_overlap"),
        ({"schedule": "linear"}, "schedule is 'constant', 'step', 'cosine' or 'one_cycle', got 'linear'"),
        ({"optimizer": "lion"}, "optimizer is 'sgd', 'adam' or 'adamw', got 'lion'"),
        ({"precision": "fp8"}, "precision is 'float32', 'bfloat16' or 'float16', got 'fp8'"),
        ({"epochs": 0}, "epochs is a whole number, 1 or more, got 0"),
        ({"targeted_steps": 0}, "targeted_steps is a whole number, 1 or more, got 0"),
        ({"lipschitz_restarts": 0}, "lipschitz_restarts is a whole number, 1 or more, got 0"),
        ({"lipschitz_steps": "ten"}, "lipschitz_steps is a whole number, 1 or more, got 'ten'"),
        ({"pgd_steps": 0}, "pgd_steps is a whole number, 1 or more, got 0"),
        ({"pgd_steps": 1.5}, r"pgd_steps is a whole number, 1 or more, got 1\.5"),
        ({"shift": -1}, "shift is a whole number, 0 or more, got -1"),
        ({"analysis_images": -5}, "analysis_images is a whole number, 0 or more, got -5"),
        ({"analysis_every": -1}, "analysis_every is a whole number, 0 or more, got -1"),
        ({"batch_size": float("nan")}, "batch_size is a whole number, 1 or more, got nan"),
        ({"method": "pgd"}, "method is one of"),
        ({"dataset": "cifar1000"}, "the dataset is one of"),
        ({"size": 32}, "unknown hyperparameter 'size' .did you mean 'image_size'"),
        ({"path": "data"}, "unknown hyperparameter 'path' .did you mean 'root'"),
        ({"dataset": "cifar10", "root": "/nowhere/at/all"}, r"(?s)cifar10: .*missing.*data_batch_1"),
    ],
)
def test_mistakes_are_told_before_training(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(bad)


def by_class(images: torch.Tensor | Stored, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = labels.argsort(stable=True)
    return images[order], labels[order]


def test_analyses_see_all_classes_of_a_split_that_is_ordered_by_class(parts: Parts) -> None:
    """As image folders are: the first images of all are of one class."""
    ordered = parts._replace(train=by_class(*parts.train), test=by_class(*parts.test))
    training = Training({**SMALL, "analysis_images": 100}, ordered, 0)
    seen: list[torch.Tensor] = []

    def note(evaluation: Evaluation, model: nn.Module, train: Part, test: Part, *rest: Any) -> dict[str, float]:
        seen.extend([train[1], test[1]])
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "everything", note)
        training.analysis()
        training.learn()
        training.analysis()
        Training({**SMALL, "analysis_images": 100}, ordered, 1).analysis()
        Training({**SMALL, "analysis_images": 0}, ordered, 1).analysis()
    for labels in seen:
        assert len(set(labels.tolist())) == 10
    assert [len(labels) for labels in seen] == [100] * 6 + [len(parts.train[1]), len(parts.test[1])]
    for labels in seen[2:6:2]:
        assert torch.equal(labels, seen[0])  # the same images in every epoch and for every seed
    assert torch.equal(seen[6], ordered.train[1])


def test_the_objective_comes_from_the_validation_images(parts: Parts) -> None:
    """The others may be anything, in any order, and it stays; with other validation images it does not."""

    def objective(changed: Parts) -> tuple[float, float]:
        training = Training({**SMALL, "epochs": 2, "analysis_every": 1}, changed, 5)
        training.model.load_state_dict(trained.model.state_dict())
        training.learn = dict  # type: ignore[method-assign]
        report = training.epoch()
        return report["val_accuracy"], report["val_adv_accuracy"]

    trained = Training({**SMALL, "eps": 0.05, "epochs": 2}, parts, 5)
    for _ in range(2):
        trained.learn()
    nothing = (torch.zeros_like(parts.test[0][:]), torch.zeros_like(parts.test[1]))
    order = torch.randperm(len(parts.train[1]), generator=torch.Generator().manual_seed(0))
    expected = objective(parts)
    assert 0 < expected[1] < 1
    assert objective(parts._replace(test=nothing)) == expected
    assert objective(parts._replace(train=(parts.train[0][order], parts.train[1][order]))) == expected
    other = objective(parts._replace(val=parts.test))
    assert other[0] != expected[0]
    assert other[1] != expected[1]


def test_an_overlapping_radius_may_be_meant() -> None:
    assert steps(make({"eps": 0.3, "allow_overlap": True}), 1)[0]["epoch"] == 1


def test_a_loss_that_is_no_number_is_told() -> None:
    with pytest.raises(FloatingPointError, match=r"training loss of epoch \d is (nan|inf).*lower lr"):
        steps(make({"optimizer": "sgd", "lr": 1e30}), 3)


def test_every_default_is_documented_once() -> None:
    page = (Path(__file__).parents[3] / "docs" / "robustness.md").read_text()
    missing = [name for name in DEFAULTS if f"`{name}`" not in page]
    assert not missing


def test_example_spec_is_sound() -> None:
    spec = load_spec(Path(__file__).parents[3] / "examples" / "robustness.yaml")
    assert spec.check() == []
    assert spec.load_trainable() is RobustnessTrainable


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_trains_on_a_gpu(precision: str, tmp_path: Path) -> None:
    trainable = RobustnessTrainable(TrialContext(seed=1, resources={"cpu": 1, "gpu": 1}))
    trainable.setup({**SMALL, "method": "trades", "precision": precision, "width": 8, "train_size": None})
    steps(trainable, 1)
    trainable.save_checkpoint(tmp_path)
    trainable.load_checkpoint(tmp_path)
    assert steps(trainable, 2)[-1]["val_accuracy"] > 0.3
