"""Random scale, mirror image and crop of a training batch, the same for images and label maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tune_platform.trainables.zero_label.network import enlarge, nearest
from tune_platform.trainables.zero_label.splits import VOID


def augment(
    images: Tensor,
    labels: tuple[Tensor, ...],
    scale: tuple[float, float],
    crop: tuple[int, int],
    flip: float,
    draws: torch.Generator,
) -> tuple[Tensor, ...]:
    """Scale a batch by a factor from U(scale), mirror it with probability `flip`, and crop all the same at random.

    `labels` are maps of the images' size, which are resized by nearest pixel. What lies outside the image in a crop
    repeats its border, and is VOID in every map.
    """
    height, width = images.shape[-2:]
    factor = scale[0] + (scale[1] - scale[0]) * float(torch.rand((), generator=draws))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    mirrored = float(torch.rand((), generator=draws)) < flip
    images, maps = enlarge(images, size), [nearest(each, size) for each in labels]
    if mirrored:
        images, maps = images.flip(-1), [each.flip(-1) for each in maps]
    below, beside = max(0, crop[0] - size[0]), max(0, crop[1] - size[1])
    if below or beside:
        images = functional.pad(images, (0, beside, 0, below), mode="replicate")
        maps = [functional.pad(each, (0, beside, 0, below), value=VOID) for each in maps]
    top = int(torch.randint(images.shape[-2] - crop[0] + 1, (), generator=draws))
    left = int(torch.randint(images.shape[-1] - crop[1] + 1, (), generator=draws))
    rows, columns = slice(top, top + crop[0]), slice(left, left + crop[1])
    return (images[..., rows, columns], *(each[..., rows, columns] for each in maps))
