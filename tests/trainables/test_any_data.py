"""Data sets by torchvision's names and by a function of one's own; models by a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainable import TrialContext
from tune_platform.trainables.any_data import imported, named_images
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.data import DataError, Images
from tune_platform.trainables.pixels import TensorImages

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
    with pytest.raises(SpecError, match="returns dict, not a"):
        named_images(f"{HERE}:wrong", None)


def wrong(root: Any) -> dict[str, int]:
    return {}
