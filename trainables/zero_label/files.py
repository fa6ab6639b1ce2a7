"""Images and label maps on disk, read as they are needed and brought to one size."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tune_platform.trainables import checked
from tune_platform.trainables.data import UNREADABLE, DataError
from tune_platform.trainables.zero_label.network import enlarge, nearest
from tune_platform.trainables.zero_label.splits import VOID

#: Pixels or labels of one image, one byte each.
Array = np.ndarray[Any, np.dtype[np.uint8]]


class ImageFiles:
    """Pairs of an RGB image and a grey or palette label image; `table` maps a label's value (0 ... 255) to our labels.

    A value that `table` marks None does not occur in good data. Images are warped to `size` pixels, as the paper does;
    labels take the nearest pixel. Raises DataError for a pair whose sizes differ, or that cannot be read; `check` looks
    at all of them beforehand.
    """

    channels = 3

    def __init__(self, pairs: Sequence[tuple[Path, Path]], table: Sequence[int | None], size: tuple[int, int]) -> None:
        if len(table) != 256:
            raise ValueError(f"the table has 256 entries, one for each value of a label image, got {len(table)}")
        self.pairs, self.size = list(pairs), size
        self._allowed = np.array([value is not None for value in table])
        self._table = torch.tensor([VOID if value is None else value for value in table])

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (n x 3 x H x W in [0, 1]) and labels (n x H x W: class ids, VOID or BACKGROUND).

        They are read in as many threads as torch has, the trial's CPUs.
        """
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            read = list(pool.map(lambda index: self._read(*self.pairs[index]), indices.tolist()))
        return torch.stack([image for image, _ in read]), torch.stack([labels for _, labels in read])

    def check(self, part: str) -> None:
        """Open every pair once, in as many threads as torch has, so that a bad one is told before training.

        Files that were found good are not opened again while their sizes and dates stay: a note of it is kept in
        `cache_folder()`. Raises one DataError with the number of bad pairs and the first few of them.
        """
        note = checked.note_of((path for pair in self.pairs for path in pair), self._allowed.tobytes())
        if checked.kept(note) is not None:
            return
        bad = [wrong for wrong in checked.each(self._fault, self.pairs, part) if wrong]
        if bad:
            more = f"\n  ... and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise DataError(
                f"{len(bad)} of the {len(self.pairs)} {part} images cannot be used:\n  " + "\n  ".join(bad[:5]) + more
            )
        checked.keep(note)

    def _fault(self, pair: tuple[Path, Path]) -> str | None:
        """Return what is wrong with a pair, or None; the image is decoded at the lowest resolution that it offers."""
        try:
            _, size = _open(pair[0], small=True)
            self._labels(pair[0], pair[1], size)
        except DataError as error:
            return str(error)
        return None

    def _read(self, image_path: Path, label_path: Path) -> tuple[Tensor, Tensor]:
        pixels, size = _open(image_path)
        labels = torch.from_numpy(self._labels(image_path, label_path, size)).long()
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        return enlarge(image, self.size)[0], nearest(self._table[labels], self.size)

    def _labels(self, image_path: Path, label_path: Path, size: tuple[int, int]) -> Array:
        """Return the values of a label image, checked against the image's size (width, height) and the table."""
        values, own = _open(label_path, modes=("L", "P"))
        if own != size:
            raise DataError(
                f"{image_path} is {size[1]} x {size[0]} pixels and its labels {label_path} are "
                f"{own[1]} x {own[0]}: they must agree"
            )
        present = np.unique(values)
        wrong = present[~self._allowed[present]].tolist()
        if wrong:
            raise DataError(f"{label_path} has the labels {wrong[:8]}, which stand for no class")
        return values


def _open(path: Path, *, modes: tuple[str, ...] = (), small: bool = False) -> tuple[Array, tuple[int, int]]:
    """Return the pixels of an image, and its width and height; RGB, or as they are in one of `modes`.

    With `small` a JPEG is decoded at an eighth of its size, which reads the whole file all the same.
    """
    from PIL import Image

    mode = ""
    try:
        with Image.open(path) as file:
            size, mode = file.size, file.mode
            if not modes or mode in modes:
                if small:
                    file.draft("RGB", (1, 1))
                return np.array(file if modes else file.convert("RGB")), size
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    raise DataError(f"{path} has mode {mode}: label images are grey or palette, one byte a pixel")


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
