"""Random crops and flips of image batches, drawn anew each epoch: a training that is resumed sees the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tune_platform.distributed.data import reading
from tune_platform.protocol.seeds import derive


class Augmented:
    """Batches of (images, labels) whose images are moved by up to `crop` pixels and mirrored with chance `flip`.

    `batches` are those of one worker, images n x C x H x W. A moved image is filled with its own border's reflection,
    as a random crop of a padded image is. Each image has its own draws, from a generator of `seed`, `rank` and the
    epoch: the global one is left alone. Raises ValueError for a crop below 0 or a flip that is no chance.
    """

    def __init__(self, batches: Iterable[Any], crop: int, flip: float, seed: int, rank: int) -> None:
        if crop < 0:
            raise ValueError(f"crop is a number of pixels, 0 or more, got {crop!r}")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is a chance between 0 and 1, got {flip!r}")
        self.batches, self.crop, self.flip, self.seed, self.rank = batches, crop, flip, seed, rank
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Choose order and draws: each epoch has its own."""
        self.epoch = epoch
        for part in (self.batches, getattr(self.batches, "sampler", None)):
            if (choose := getattr(part, "set_epoch", None)) is not None:
                choose(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        draws = torch.Generator().manual_seed(derive(self.seed, "augment", self.epoch, self.rank))
        with reading(self.batches) as batches:
            for images, *rest in batches:
                yield (mirrored(shifted(images, self.crop, draws), self.flip, draws), *rest)


def shifted(images: Tensor, most: int, draws: torch.Generator) -> Tensor:
    """Return each image moved by up to `most` pixels down or up and right or left. Raises ValueError for too many."""
    if most == 0:
        return images
    count, _, height, width = images.shape
    if most >= min(height, width):
        raise ValueError(f"crop is below the {min(height, width)} pixels of the images' shorter side, got {most}")
    padded = functional.pad(images, (most,) * 4, mode="reflect")
    down, right = torch.randint(2 * most + 1, (2, count), generator=draws).to(images.device)
    rows = down.view(-1, 1, 1) + torch.arange(height, device=images.device).view(1, -1, 1)
    columns = right.view(-1, 1, 1) + torch.arange(width, device=images.device).view(1, 1, -1)
    each = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[each, rows, columns].permute(0, 3, 1, 2)


def mirrored(images: Tensor, chance: float, draws: torch.Generator) -> Tensor:
    """Return each image mirrored left to right, with that chance."""
    if chance == 0:
        return images
    turned = (torch.rand(len(images), generator=draws) < chance).to(images.device)
    return torch.where(turned.view(-1, 1, 1, 1), images.flip(3), images)
