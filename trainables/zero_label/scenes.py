"""Scenes of real handwritten digits with a label for every pixel: a zero-label task that needs no download.

A scene has 2 x 2 cells; digits of randomly drawn classes lie in some of them, each at a random place of its cell, over
uniform noise. A pixel has the label of a digit where the digit's ink is dark enough, else BACKGROUND. The three parts
are composed from different handwritten digits, so nothing of a test scene has been seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tune_platform.trainables.data import Split as Part
from tune_platform.trainables.data import load_images
from tune_platform.trainables.runtime import generator
from tune_platform.trainables.zero_label.splits import BACKGROUND, Task

#: Number of scenes of each part.
COUNTS = {"train": 800, "val": 200, "test": 200}


class LabelledImages(Protocol):
    """Images of one size with labels: what the training needs of any dataset."""

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (n x C x H x W, float32 in [0, 1]) and labels (n x H x W: class ids, VOID or BACKGROUND)."""
        ...


@dataclass(frozen=True)
class Scenes:
    """Scenes in memory: `images` n x 1 x H x W, `labels` n x H x W (digit, or BACKGROUND)."""

    images: Tensor
    labels: Tensor

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        return self.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.images.shape[-2], self.images.shape[-1])

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and labels at `indices`."""
        return self.images[indices], self.labels[indices]


def compose(
    digits: Tensor,
    labels: Tensor,
    count: int,
    draws: torch.Generator,
    *,
    cell: int = 16,
    side: int = 14,
    per_scene: int = 3,
    noise: float = 0.25,
    ink: float = 0.35,
) -> Scenes:
    """Compose `count` scenes of 2 x 2 cells of `cell` pixels from `digits` (n x 1 x h x w in [0, 1]) and their labels.

    In each scene `per_scene` cells get a digit, enlarged to `side` pixels; the noise is below `noise`; a pixel belongs
    to a digit where its ink is above `ink`, which must be more than `noise`. Raises ValueError for impossible sizes.
    """
    if not 0 < side <= cell or not 1 <= per_scene <= 4 or not 0 <= noise < ink < 1 or not len(digits):
        raise ValueError(
            "scenes need 0 < side <= cell, 1 <= per_scene <= 4, 0 <= noise < ink < 1 and at least one digit, got "
            f"side={side}, cell={cell}, per_scene={per_scene}, noise={noise}, ink={ink}, {len(digits)} digits"
        )
    large = functional.interpolate(digits, size=(side, side), mode="bilinear", align_corners=False)[:, 0].clamp(0, 1)
    images = noise * torch.rand(count, 2 * cell, 2 * cell, generator=draws)
    truth = torch.full(images.shape, BACKGROUND)
    for scene in range(count):
        cells = torch.randperm(4, generator=draws)[:per_scene].tolist()
        chosen = torch.randint(len(digits), (per_scene,), generator=draws).tolist()
        places = torch.randint(cell - side + 1, (per_scene, 2), generator=draws).tolist()
        for where, which, (down, right) in zip(cells, chosen, places, strict=True):
            top, left = cell * (where // 2) + down, cell * (where % 2) + right
            rows, columns = slice(top, top + side), slice(left, left + side)
            images[scene, rows, columns] = torch.maximum(images[scene, rows, columns], large[which])
            truth[scene, rows, columns][large[which] > ink] = labels[which]
    return Scenes(images[:, None], truth)


def digit_scenes(task: Task, part: Part, count: int | None = None, seed: int = 0, images: str = "digits") -> Scenes:
    """Return the scenes of `part` ("train", "val" or "test") for `task`, of digits from `images` (or "mnist").

    Only digits of the task's classes occur: while tuning, the hidden classes are in no scene. The handwritten digits
    of the three parts are always the same, whatever the `seed`, which draws the scenes.
    """
    source = load_images(images)
    if source.shape[0] != 1 or source.classes != 10:
        raise ValueError(f"digit scenes are made of grey digits, got {images!r}")
    digits, labels = source.tensors(part)
    usable = torch.isin(labels, torch.tensor(task.ids))
    draws = generator("cpu", seed, "scenes", part)
    return compose(digits[usable], labels[usable], COUNTS[part] if count is None else count, draws)
