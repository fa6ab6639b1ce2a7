"""Images and label maps on disk, read as they are needed and brought to one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.data import DataError
from trainables.zero_label.network import enlarge, nearest
from trainables.zero_label.splits import VOID


class ImageFiles:
    """Pairs of an RGB image and a grey or palette label image; `table` maps a label's value (0 ... 255) to our labels.

    A value that `table` marks None does not occur in good data. Images are warped to `size` pixels, as the paper does;
    labels take the nearest pixel. Raises DataError for a pair whose sizes differ, or that cannot be read.
    """

    channels = 3

    def __init__(self, pairs: Sequence[tuple[Path, Path]], table: Sequence[int | None], size: tuple[int, int]) -> None:
        if len(table) != 256:
            raise ValueError(f"the table has 256 entries, one for each value of a label image, got {len(table)}")
        self.pairs, self.size = list(pairs), size
        self._allowed = torch.tensor([value is not None for value in table])
        self._table = torch.tensor([VOID if value is None else value for value in table])

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (n x 3 x H x W in [0, 1]) and labels (n x H x W: class ids, VOID or BACKGROUND)."""
        read = [self._read(*self.pairs[index]) for index in indices.tolist()]
        return torch.stack([image for image, _ in read]), torch.stack([labels for _, labels in read])

    def _read(self, image_path: Path, label_path: Path) -> tuple[Tensor, Tensor]:
        from PIL import Image

        try:
            with Image.open(image_path) as file:
                pixels = np.array(file.convert("RGB"))
            with Image.open(label_path) as file:
                if file.mode not in ("L", "P"):
                    raise DataError(
                        f"{label_path} has mode {file.mode}: label images are grey or palette, one byte a pixel"
                    )
                values = np.array(file)
        except OSError as error:
            raise DataError(f"{image_path} or {label_path} cannot be read: {error}") from error
        if pixels.shape[:2] != values.shape:
            raise DataError(
                f"{image_path} is {pixels.shape[0]} x {pixels.shape[1]} pixels and its labels {label_path} are "
                f"{values.shape[0]} x {values.shape[1]}: they must agree"
            )
        labels = torch.from_numpy(values).long()
        if not self._allowed[labels].all():
            worst = sorted(set(labels[~self._allowed[labels]].tolist()))
            raise DataError(f"{label_path} has the labels {worst[:8]}, which stand for no class")
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        return enlarge(image, self.size)[0], nearest(self._table[labels], self.size)


def require(files: Sequence[Path], what: str, layout: str) -> None:
    """Raise DataError, with the layout that is expected, where one of `files` is missing."""
    missing = [path for path in files if not path.exists()]
    if missing:
        raise DataError(
            f"{what}: {len(missing)} of {len(files)} files are missing, the first is {missing[0]}. "
            f"Nothing is downloaded; expected under `root`:\n{layout}"
        )


def held_out(items: Sequence[str], part: str, every: int = 10) -> list[str]:
    """Return every tenth of the training items as "val", the rest as "train": to choose by, without the test images."""
    return [item for index, item in enumerate(items) if (index % every == 0) == (part == "val")]
