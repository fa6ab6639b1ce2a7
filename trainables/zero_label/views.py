"""Views of an image for the consistency filter, each with the exact inverse of its geometry.

A view pads (shift), then scales, then mirrors the image; `restore` undoes these in the opposite order. Scaled maps are
resized with the ratio of the actual sizes in pixels, the same both ways, so a pixel's centre comes back to itself.

The cells of a network of stride 2 are 2 x 2 pixels: of 35 pixels they cover 34, and stretched over all 35 they would
drift off by up to a pixel. So views are padded on the far side too, and scaled to a multiple of the stride.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tune_platform.trainables.zero_label.network import enlarge, nearest

Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """`shift`: rows and columns put before the image (its border repeated), so that nothing leaves the picture."""

    scale: float = 1.0
    flip: bool = False
    shift: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.scale <= 0 or min(self.shift) < 0:
            raise ValueError(f"a view has a scale above zero and a shift of at least zero, got {self}")

    def apply(self, images: Tensor, stride: int = 1) -> Tensor:
        """Return the view of `images`: B x C x H' x W', both multiples of the network's `stride`."""
        height, width = images.shape[-2:]
        down, right = self.shift
        whole = self._padded((height, width), stride)
        if whole != (height, width):
            padding = (right, whole[1] - right - width, down, whole[0] - down - height)
            images = functional.pad(images, padding, mode="replicate")
        images = enlarge(images, (self._scaled(whole[0], stride), self._scaled(whole[1], stride)))
        return images.flip(-1) if self.flip else images

    def restore(self, maps: Tensor, size: Size, stride: int = 1) -> Tensor:
        """Bring float maps of the view (B x c x h x w, any resolution) back to the pixels of images of `size`."""
        maps = maps.flip(-1) if self.flip else maps
        return self._cut(enlarge(maps, self._padded(size, stride)), size)

    def restore_labels(self, labels: Tensor, size: Size, stride: int = 1) -> Tensor:
        """The same for label maps (B x h x w): each pixel takes the label at its centre's place in the view."""
        labels = labels.flip(-1) if self.flip else labels
        return self._cut(nearest(labels, self._padded(size, stride)), size)

    def _padded(self, size: Size, stride: int) -> Size:
        """Return the size with the shift, and on the far side what makes it a multiple of `stride`."""
        height, width = (-(-(side + extra) // stride) * stride for side, extra in zip(size, self.shift, strict=True))
        return height, width

    def _scaled(self, side: int, stride: int) -> int:
        return max(1, round(side * self.scale / stride)) * stride

    def _cut(self, maps: Tensor, size: Size) -> Tensor:
        down, right = self.shift
        return maps[..., down : down + size[0], right : right + size[1]]


IDENTITY = View()


def with_each(views: Sequence[View], scales: Sequence[float], flip: bool, shift: tuple[int, int]) -> list[View]:
    """Return `views` and, for each scale, the scaled view without and with the flip or shift."""
    extra = [view for scale in scales for view in (View(scale), View(scale, flip, shift))]
    return [*views, *extra]


_MIRROR, _SHIFT = View(flip=True), View(shift=(3, 3))
#: The sets of views by name; the identity always comes first. "up" and "down" are the paper's scales; a flip does not
#: keep the label of a digit, so the digit scenes use shifts and smaller scales, within what training has shown.
VIEW_SETS: Mapping[str, Sequence[View]] = {
    "identity": [IDENTITY],
    "mirror": [IDENTITY, _MIRROR],
    "up": [IDENTITY, View(1.5), View(1.75)],
    "down": [IDENTITY, View(0.5), View(0.75)],
    "mirror_up": with_each([IDENTITY, _MIRROR], (1.5, 1.75), True, (0, 0)),
    "mirror_down": with_each([IDENTITY, _MIRROR], (0.5, 0.75), True, (0, 0)),
    "shift": [IDENTITY, _SHIFT],
    "scale": [IDENTITY, View(1.25), View(1.5)],
    "mirror_scale": with_each([IDENTITY, _MIRROR], (1.25, 1.5), True, (0, 0)),
    "scale_shift": with_each([IDENTITY, _SHIFT], (1.25, 1.5), False, (3, 3)),
}


def views_of(name: str, generator: torch.Generator | None = None) -> Sequence[View]:
    """Return the views of a set by name; "random" draws two scales from U(0.5, 1.75), mirrored too, by `generator`.

    Raises ValueError for a name that there is not.
    """
    if name == "random":
        low, high = 0.5, 1.75
        scales = (low + (high - low) * torch.rand(2, generator=generator)).tolist()
        return with_each([IDENTITY, _MIRROR], scales, True, (0, 0))
    if name not in VIEW_SETS:
        raise ValueError(f"views is one of {', '.join([*VIEW_SETS, 'random'])}, got {name!r}")
    return VIEW_SETS[name]


#: What turns a batch of images into scores on the network's own map, such as a ProjectionNet among unseen classes.
Scorer = Callable[[Tensor], Tensor]
