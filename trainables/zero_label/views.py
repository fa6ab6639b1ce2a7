"""Views of an image for the consistency filter, each with the exact inverse of its geometry.

A view pads (shift), then scales, then mirrors the image; `restore` undoes these in the opposite order. Scaled maps are
resized with the ratio of the actual sizes in pixels, the same both ways, so a pixel's centre comes back to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trainables.zero_label.network import enlarge, nearest

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

    def apply(self, images: Tensor) -> Tensor:
        """Return the view of `images`: B x C x H' x W'."""
        down, right = self.shift
        if down or right:
            images = functional.pad(images, (right, 0, down, 0), mode="replicate")
        height, width = images.shape[-2:]
        images = enlarge(images, (max(1, round(height * self.scale)), max(1, round(width * self.scale))))
        return images.flip(-1) if self.flip else images

    def restore(self, maps: Tensor, size: Size) -> Tensor:
        """Bring float maps of the view (B x c x h x w, any resolution) back to the pixels of images of `size`."""
        maps = maps.flip(-1) if self.flip else maps
        down, right = self.shift
        return enlarge(maps, (size[0] + down, size[1] + right))[..., down:, right:]

    def restore_labels(self, labels: Tensor, size: Size) -> Tensor:
        """The same for label maps (B x h x w): each pixel takes the label at its centre's place in the view."""
        labels = labels.flip(-1) if self.flip else labels
        down, right = self.shift
        return nearest(labels, (size[0] + down, size[1] + right))[..., down:, right:]


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
