"""Data sets by torchvision's names and by a function of one's own; models by a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainable import TrialContext
from tune_platform.trainables.any_data import imported, named_images
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.data import DataError, Images
from tune_platform.trainables.pixels import TensorImages, labels_of
from tune_platform.trainables.robustness import RobustnessTrainable

HERE = __name__


def squares(root: str | None) -> Images:
    draws = torch.Generator().manual_seed(0)

    def part(count: int) -> TensorImages:
        labels = torch.randint(3, (count,), generator=draws)
        return TensorImages(torch.rand(count, 1, 6, 6, generator=draws) + labels.view(-1, 1, 1, 1), labels, 4.0)

    return Images("squares", part(60), part(20), part(20), 3, (1, 6, 6))


def network(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, num_classes))


def test_a_function_of_ones_own_gives_data_and_model() -> None:
    trainable = ClassificationTrainable(TrialContext(seed=1, gang=Gang("threads", 1)))
    trainable.setup({
        "task": f"{HERE}:squares", "model": f"{HERE}:network", "updates": 30, "report_every": 30, "batch_size": 10,
    })  # fmt: skip
    assert trainable.step()["val_accuracy"] > 0.9


def test_robust_training_takes_them_too() -> None:
    trainable = RobustnessTrainable(TrialContext(seed=1, resources={"cpu": 1}))
    trainable.setup({
        "dataset": f"{HERE}:squares", "model": "mlp", "width": 4, "epochs": 12, "allow_overlap": True, "pgd_steps": 1,
        "targeted_steps": 1, "lipschitz_steps": 1, "analysis_images": 10, "batch_size": 10, "lr": 0.01,
    })  # fmt: skip
    reports = [trainable.step() for _ in range(12)]
    assert reports[-1]["train_loss"] < reports[0]["train_loss"] / 2


def test_a_data_set_of_torchvision_by_name(tmp_path: Path) -> None:
    from torchvision.datasets import SEMEION  # any other than those with a name of their own

    with pytest.raises(SpecError, match="has no parts to train and to test on"):
        named_images(f"torchvision:{SEMEION.__name__}", str(tmp_path))
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 12)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            b"".join(n.to_bytes(4, "big") for n in (2051, count, 28, 28)) + pixels.tobytes()
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            b"".join(n.to_bytes(4, "big") for n in (2049, count)) + labels.tobytes()
        )
    images = named_images("torchvision:KMNIST", str(tmp_path), size=14)
    assert (images.size("train"), images.size("val"), images.size("test")) == (36, 4, 12)
    assert images.shape == (1, 14, 14)
    assert images.classes == 10
    read, given = images.tensors("test")
    assert float(read.max()) <= 1
    assert given.tolist() == [n % 10 for n in range(12)]
    few = named_images("torchvision:KMNIST", str(tmp_path), train_size=7)
    assert (few.size("train"), few.size("val"), few.size("test")) == (7, 4, 12)
    with pytest.raises(SpecError, match="train_size: 1 to 36 of torchvision:KMNIST, got 37"):
        named_images("torchvision:KMNIST", str(tmp_path), train_size=37)
    # Labels come without the images being read.
    train = few.train
    assert isinstance(train, Subset)
    assert labels_of(train).tolist() == [train[index][1] for index in range(7)]
    assert train.dataset.targets is not None  # type: ignore[attr-defined]


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no data set 'KMNISt' \(did you mean 'KMNIST'\?\)"):
        named_images("torchvision:KMNISt", str(tmp_path))
    with pytest.raises(DataError, match="the training files are not under"):
        named_images("torchvision:KMNIST", str(tmp_path))
    for name, told in (
        ("no_such_module:f", "names the module 'no_such_module', which cannot be found"),
        (f"{HERE}:square", "has no function 'square' .did you mean 'squares'"),
    ):
        with pytest.raises(SpecError, match=told):
            imported(name, "task")
    for setting in ("size", "train_size"):
        with pytest.raises(SpecError, match=f"{setting}: .*squares returns its images as they are trained on"):
            named_images(f"{HERE}:squares", None, **{setting: 4})
    with pytest.raises(SpecError, match="returns dict, not a"):
        named_images(f"{HERE}:wrong", None)


def wrong(root: Any) -> dict[str, int]:
    return {}
