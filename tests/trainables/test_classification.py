from __future__ import annotations

import gc
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.trainables.conftest import colours
from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainable import TrialContext
from tune_platform.trainables.classification import ClassificationTrainable, load_task

SMALL = {"task": "synthetic", "examples": 256, "batch_size": 16, "updates": 12, "report_every": 6}


def begin(workers: int = 2, **config: Any) -> ClassificationTrainable:
    trainable = ClassificationTrainable(TrialContext(seed=5, gang=Gang("threads", workers)))
    trainable.setup({**SMALL, **config})
    return trainable


@pytest.mark.parametrize(
    "config",
    [
        {"model": "mlp", "strategy": "all_reduce"},
        {"model": "cnn", "norm": True, "strategy": {"name": "lsgd", "period": 3}},
        {"model": "cnn", "optimizer": "adamw", "lr": 1e-3, "strategy": {"name": "diloco", "period": 3}},
        {"model": "mlp", "partition": "same", "strategy": {"name": "codistillation", "period": 3}},
    ],
)
def test_learns_under_every_kind_of_strategy(config: dict[str, Any]) -> None:
    trainable = begin(**config)
    first, last = trainable.step(), trainable.step()
    assert last["done"]
    assert last["val_loss"] < first["val_loss"]
    assert {"val_accuracy", "test_accuracy", "test_loss", "train_loss", "bytes_per_step"} <= last.keys()


def test_digits_reach_what_a_small_network_can() -> None:
    trainable = begin(task="digits", updates=150, report_every=150, batch_size=32, lr=0.1, strategy="all_reduce")
    assert trainable.step()["test_accuracy"] > 0.93


def test_the_rate_rises_and_drops() -> None:
    recipe = ClassificationTrainable(TrialContext())
    recipe.config = {"warmup": 0.1, "drops": (0.5, 0.8), "lr": 1.0}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = recipe.build_scheduler(recipe.config, optimizer, 100)
    assert scheduler is not None
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10:50] == pytest.approx([1.0] * 40)
    assert rates[50:80] == pytest.approx([0.1] * 30)
    assert rates[80:] == pytest.approx([0.01] * 20)


def test_a_model_of_torchvision_by_name() -> None:
    recipe = ClassificationTrainable(TrialContext())
    recipe.config = {**SMALL, "model": "mobilenet_v3_small", "shape": (3, 32, 32), "classes": 7}
    model = recipe.build_model(recipe.config).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_the_cosine_ends_at_zero_after_the_warm_up() -> None:
    recipe = ClassificationTrainable(TrialContext())
    recipe.config = {"warmup": 0.2, "schedule": "cosine", "lr": 1.0}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = recipe.build_scheduler(recipe.config, optimizer, 10)
    assert scheduler is not None
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.5)  # half of what is left after the warm-up
    assert rates[10] == pytest.approx(0.0)


def test_bfloat16_trains_float32_parameters() -> None:
    trainable = begin(workers=1, model="cnn", precision="bfloat16", label_smoothing=0.1, lr=0.05)
    first, last = trainable.step(), trainable.step()
    assert last["train_loss"] < first["train_loss"]
    recipe = ClassificationTrainable(TrialContext())
    recipe.config = {**SMALL, "precision": "bfloat16"}
    model = recipe.build_model(recipe.config)
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    rough = recipe.loss(model, (images, labels))
    recipe.config = SMALL
    exact = recipe.loss(model, (images, labels))
    assert rough.dtype == torch.float32
    assert rough != exact  # bfloat16 has 8 bits
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)


def test_a_resumed_training_sees_the_same_augmented_images(tmp_path: Path) -> None:
    def run(*cuts: int) -> list[float]:
        losses = []
        trainable = begin(crop=1, flip=0.5, model="cnn", updates=40, report_every=5)
        for report in range(8):
            if report in cuts:
                folder = tmp_path / str(report)
                folder.mkdir()
                trainable.save_checkpoint(folder)
                trainable = begin(crop=1, flip=0.5, model="cnn", updates=40, report_every=5)
                trainable.load_checkpoint(folder)
            losses.append(trainable.step()["train_loss"])
        return losses

    assert run(1, 4) == run()


def test_images_of_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for number, name in enumerate(("black", "white")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(20):
                Image.new("RGB", (8 + index, 10), (255 * number,) * 3).save(folder / f"{index}.png")
    config: dict[str, Any] = {"task": "image_folder", "root": str(tmp_path), "batch_size": 4, "workers": 1}
    with pytest.raises((SpecError, RuntimeError), match="give a `size` in pixels"):
        begin(**config)
    trainable = begin(**config, size=8, crop=1, flip=0.5, model="cnn", updates=20, report_every=20)
    assert trainable.step()["test_accuracy"] == 1.0


def test_a_folder_of_images(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("val", 6), ("test", 6)):
        for number, name in enumerate(("black", "white")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (255 * number,) * 3).save(folder / f"{index}.png")
    config: dict[str, Any] = {
        "task": "image_folder",
        "root": str(tmp_path),
        "batch_size": 4,
        "model": "cnn",
        "strategy": "all_reduce",
    }
    trainable = begin(**config)
    reports = [trainable.step(), trainable.step()]
    assert reports[-1]["test_accuracy"] == 1.0


def test_what_reads_images_fits_the_cpus_and_ends_with_the_trial(tmp_path: Path) -> None:
    config = colours(tmp_path)
    trainable = ClassificationTrainable(TrialContext(seed=5, resources={"cpu": 3}))
    trainable.setup(config)
    before = set(multiprocessing.active_children())
    gc.disable()  # it is not left to chance
    try:
        trainable.step()  # 4 of the 12 batches of an epoch
        assert len(set(multiprocessing.active_children()) - before) == 2
        trainable.reset_config({**config, "lr": 0.01})
        assert set(multiprocessing.active_children()) == before
        trainable.step()
        trainable.cleanup()
        assert set(multiprocessing.active_children()) == before
    finally:
        gc.enable()


def test_a_training_with_processes_that_read_is_resumed_exactly(tmp_path: Path) -> None:
    config = colours(tmp_path)

    def run(*cuts: int) -> list[float]:
        losses = []
        trainable = ClassificationTrainable(TrialContext(seed=5, resources={"cpu": 3}))
        trainable.setup(config)
        for report in range(5):
            if report in cuts:
                folder = tmp_path / f"checkpoint-{report}"
                folder.mkdir()
                trainable.save_checkpoint(folder)
                trainable.cleanup()
                trainable = ClassificationTrainable(TrialContext(seed=5, resources={"cpu": 3}))
                trainable.setup(config)
                trainable.load_checkpoint(folder)
            found = trainable.step()
            losses += [found["train_loss"], found["val_loss"]]
        trainable.cleanup()
        return losses

    assert run(1, 2, 4) == run()


def test_mistakes() -> None:
    mistakes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"task": "cifar"}, "task: one of .*cifar10.*, got 'cifar'.*cifar10"),
        (
            {"model": "resnet5"},
            "model: 'mlp', 'cnn', a torchvision classifier or 'module:function', got 'resnet5'.*resnet",
        ),
        ({"optimizer": "adam"}, "optimizer: 'sgd' or 'adamw', got 'adam'"),
        ({"partition": "some"}, "partition: 'shard' or 'same', got 'some'"),
        ({"batch_size": 500}, "batch_size: 500 does not fit"),
        ({"momentm": 0.9}, "unknown hyperparameter 'momentm'.*did you mean 'momentum'"),
        ({"image_size": 32}, "unknown hyperparameter 'image_size'.*did you mean 'size'"),
        ({"precision": "float8"}, "precision: 'float32' or 'bfloat16' or 'float16', got 'float8'"),
        ({"schedule": "cosin"}, "schedule: 'constant' or 'cosine' or 'step' or 'one_cycle', got 'cosin'"),
        ({"size": 32}, "size: task 'synthetic' has `shape` and `examples` instead"),
        ({"train_size": 32}, "train_size: task 'synthetic' has"),
        ({"task": "digits", "size": 32}, "size is a number of pixels, and only for image_folder, got 32 for digits"),
        ({"path": "data"}, "unknown hyperparameter 'path'.*did you mean 'root'"),
        ({"model": "resnet18", "dropout": 0.5}, "dropout: a rate of 'mlp' and 'cnn'; 'resnet18' has its own"),
        ({"strategy": {"name": "local_sgd", "perid": 3}}, "has no option 'perid' .did you mean 'period'"),
        ({"warmup": 1.5}, "warmup: a number from 0 to 1, got 1.5"),
        ({"lr": "fast"}, "lr: a number from 0 on, got 'fast'"),
        ({"label_smoothing": float("nan")}, "label_smoothing: a number from 0 to 1, got nan"),
        ({"width": 0}, "width: a whole number, 1 or more, got 0"),
        ({"epochs": "ten"}, "epochs: a whole number, 1 or more, got 'ten'"),
        ({"batch_size": 1.5}, "batch_size: a whole number, 1 or more, got 1.5"),
        ({"drops": 0.5}, "drops: a list of shares of the training, each from 0 to 1, got 0.5"),
        ({"shape": [1, 8]}, r"shape: channels, height and width of the images, such as \[1, 8, 8\], got \[1, 8\]"),
        ({"strategy": {"nme": "local_sgd"}}, "strategy: a dict has a `name` and its options, got {'nme': 'local_sgd'}"),
        ({"flip": 2}, "flip is a chance between 0 and 1, got 2"),
        ({"crop": 8}, "crop is below the 8 pixels of the images' shorter side, got 8"),
        ({"task": "cifar10", "root": "/nowhere"}, "cifar-10-batches-py"),
    )
    for config, message in mistakes:
        with pytest.raises((SpecError, RuntimeError), match=message):
            begin(**config).step()


def test_made_up_data_repeat_by_seed() -> None:
    one, same, other = (load_task("synthetic", None, 64, (1, 4, 4), 3, None, seed) for seed in (1, 1, 2))
    assert torch.equal(one.train[0], same.train[0])
    assert not torch.equal(one.train[0], other.train[0])
    assert one.train[0].shape == (64, 1, 4, 4)
