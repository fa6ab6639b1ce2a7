"""Image classification data by name, the same for every trainable: `load_images("cifar10", root)`.

Every dataset comes as three map-style datasets of (image, label): images are float32 of shape C x H x W with values in
[0, 1], neither standardised nor augmented, so that an attack radius or a distance means the same everywhere; `mean` and
`std` of the training images are there for those who standardise. Validation images are split off the training images,
stratified by label; the test images are the dataset's own.

Nothing is downloaded. What is missing, corrupt, of the wrong shape or labelled out of range is one `DataError`, which
shows the files that are expected. Checksums are always checked where torchvision knows them (CIFAR and SVHN): a
CIFAR batch is a pickle, and opening an unknown one runs its code.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np

# scikit-learn and torchvision are imported where they are used: each takes seconds, in every process of a gang.
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tune_platform.extras import require
from tune_platform.trainables import checked
from tune_platform.trainables.pixels import (
    Example,
    Indices,
    Stored,
    TensorImages,
    as_bytes,
    in_memory,
    labels_of,
    length,
    select,
    stack,
)

Split = Literal["train", "val", "test"]
#: What `load_images` knows.
NAMES = ("digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "image_folder")
#: Where the files lie when no `root` is given: this variable, else the folder `data`.
ROOT_VARIABLE = "TUNE_PLATFORM_DATA"
#: GiB that the images of a split may take as one tensor, unless a caller says otherwise.
LIMIT_GIB = 8.0
#: Images that mean and std are taken from, where images are read from disk one by one.
_SAMPLE = 10_000
_MNIST_FILES = "\n".join(
    f"  {{root}}/{{folder}}/raw/{part}-{kind}-ubyte"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
_LAYOUTS = {
    "digits": "  (nothing: it comes with scikit-learn)",
    "cifar10": "  {root}/cifar-10-batches-py/data_batch_1 ... data_batch_5, test_batch, batches.meta",
    "cifar100": "  {root}/cifar-100-python/train, test, meta",
    "mnist": _MNIST_FILES.replace("{folder}", "MNIST"),
    "fashion_mnist": _MNIST_FILES.replace("{folder}", "FashionMNIST"),
    "svhn": "  {root}/train_32x32.mat\n  {root}/test_32x32.mat",
    "image_folder": (
        "  {root}/train/<class>/*.png\n  {root}/val/<class>/*.png   (or test/, or both; the same classes everywhere)"
    ),
}


class DataError(ValueError):
    """Data that is missing, corrupt, of the wrong shape or labelled out of range; says which files are expected."""


@dataclass(frozen=True)
class Images:
    """A dataset in three parts; `shape` is (C, H, W), and labels are 0 ... `classes` - 1."""

    name: str
    train: Dataset[Example]
    val: Dataset[Example]
    test: Dataset[Example]
    classes: int
    shape: tuple[int, int, int]

    def size(self, split: Split) -> int:
        """Return the number of images of `split`."""
        return length(self._split(split))

    def tensors(
        self, split: Split, device: torch.device | str = "cpu", limit_gib: float = LIMIT_GIB
    ) -> tuple[Tensor, Tensor]:
        """Return a whole split as images (n x C x H x W, float32) and labels (n, int64) on `device`.

        Raises ValueError where the images would take more than `limit_gib` GiB: `read` gives those too.
        """
        needed = self._gib(split, 4)
        if needed > limit_gib:
            raise ValueError(
                f"the {split} images of {self.name} take {needed:.1f} GiB as one tensor, more than "
                f"limit_gib={limit_gib:g}: use read(), or raise limit_gib"
            )
        images, labels = stack(self._split(split), range(self.size(split)))
        return images.to(device), labels.to(device)

    def read(
        self, split: Split, device: torch.device | str = "cpu", limit_gib: float | None = None
    ) -> tuple[Tensor | Stored, Tensor]:
        """Return the same; beyond `limit_gib` GiB (default: LIMIT_GIB) with images that become float32 when looked at.

        They are kept as bytes, which takes a quarter; where that is too much as well, they are read from their files
        each time. What is looked at is the same.
        """
        limit_gib = LIMIT_GIB if limit_gib is None else limit_gib
        if self._gib(split, 4) <= limit_gib:
            return self.tensors(split, device, limit_gib)
        dataset, place = self._split(split), torch.device(device)
        if not in_memory(dataset) and self._gib(split, 1) <= limit_gib:
            dataset = as_bytes(dataset, self.shape)
        return Stored(dataset, place), labels_of(dataset).to(place)

    def _gib(self, split: Split, width: int) -> float:
        return width * self.size(split) * int(np.prod(self.shape)) / 2**30

    @property
    def mean(self) -> Tensor:
        """Mean of each channel over the training images, shape C."""
        return self._moments[0]

    @property
    def std(self) -> Tensor:
        """Standard deviation of each channel over the training images, shape C."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        # All images where they are in memory; 10,000, evenly spaced, where each is a file.
        count = self.size("train")
        sample = count if in_memory(self.train) else min(count, _SAMPLE)
        indices = np.linspace(0, count - 1, sample).round().astype(int).tolist()
        total, squares, pixels = torch.zeros(self.shape[0]).double(), torch.zeros(self.shape[0]).double(), 0
        for start in range(0, sample, 1000):
            images = stack(self.train, indices[start : start + 1000])[0].double()
            total += images.sum((0, 2, 3))
            squares += images.square().sum((0, 2, 3))
            pixels += images.numel() // self.shape[0]
        mean = total / pixels
        return mean.float(), (squares / pixels - mean.square()).clamp(min=0).sqrt().float()

    def _split(self, split: Split) -> Dataset[Example]:
        if split not in ("train", "val", "test"):
            raise ValueError(f"split is 'train', 'val' or 'test', got {split!r}")
        return cast("Dataset[Example]", getattr(self, split))


def load_images(
    name: str,
    root: str | Path | None = None,
    seed: int = 0,
    val: float | None = None,
    train_size: int | None = None,
    size: int | None = None,
) -> Images:
    """Load a dataset by `name` (one of `NAMES`) from the files under `root`.

    `val` is the share of the training images that is held out to choose by (0.1 if None), drawn by `seed` and
    stratified by label. "digits" has no test images of its own: 300 are drawn by `seed` too, and `val` is 300 images
    if None. `train_size` keeps only so many training images, stratified; validation and test images stay the same.
    "image_folder" uses the folders train/, val/ and test/ as they are; where one of the last two is missing, the other
    holds the test images and validation images are split off train/. Its images must be of one size, unless `size` asks
    for a resized and central crop of that many pixels.

    `root` is the environment's TUNE_PLATFORM_DATA if None, else the folder `data`. Raises ValueError for an argument
    out of range and DataError for bad data.
    """
    if name not in NAMES:
        raise ValueError(f"the dataset is one of {', '.join(NAMES)}, got {name!r}")
    if val is not None and not 0 < val < 1:
        raise ValueError(f"val is a share of the training images between 0 and 1, got {val!r}")
    if size is not None and (size < 1 or name != "image_folder"):
        raise ValueError(f"size is a number of pixels, and only for image_folder, got {size!r} for {name}")
    folder = Path(root if root is not None else os.environ.get(ROOT_VARIABLE, "data")).expanduser().absolute()
    source = _SOURCES[name](name, folder, seed, size)
    train = np.arange(length(source.train))
    if source.val is not None:
        held_out = source.val
    else:
        share: float | int = source.val_images if val is None and source.val_images else (val or 0.1)
        train, chosen = _stratified(name, train, source.labels, share, seed)
        held_out = select(source.train, chosen)
    if train_size is not None and train_size != len(train):
        train = _fewer(name, train, source.labels, train_size, source.classes, seed)
    return Images(name, select(source.train, train), held_out, source.test, source.classes, source.shape)


class _Source(NamedTuple):
    """What a reader hands over, checked; `val` is there where the files have validation images of their own."""

    train: Dataset[Example]
    labels: Indices  # of train
    test: Dataset[Example]
    classes: int
    shape: tuple[int, int, int]
    val: Dataset[Example] | None = None
    val_images: int = 0  # how many are held out if the caller does not say; 0: a share


# ---------------------------------------------------------------------------------------- readers


def _read_digits(name: str, folder: Path, seed: int, size: int | None) -> _Source:
    require("data set 'digits'", "sklearn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8)
    whole = _checked(name, folder, images, torch.tensor(labels), 16.0, 10, (1, 8, 8))
    rest, chosen = train_test_split(np.arange(len(labels)), test_size=300, stratify=labels, random_state=seed)
    train = cast(TensorImages, select(whole, rest))
    return _Source(train, train.labels.numpy(), select(whole, chosen), 10, (1, 8, 8), val_images=300)


def _read_torchvision(name: str, folder: Path, seed: int, size: int | None) -> _Source:
    from torchvision import datasets

    shape = (1, 28, 28) if "mnist" in name else (3, 32, 32)
    kinds = {
        "cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion_mnist": "FashionMNIST", "svhn": "SVHN",
    }  # fmt: skip
    kind, classes = getattr(datasets, kinds[name]), 100 if name == "cifar100" else 10
    parts = []
    for part in ("train", "test"):
        choice = {"split": part} if name == "svhn" else {"train": part == "train"}
        try:
            read = kind(folder, **choice, download=False)
            images = torch.as_tensor(np.asarray(read.data))
            labels = torch.as_tensor(np.asarray(read.labels if name == "svhn" else read.targets))
        # What torchvision's readers raise on truncated, foreign or missing files; the cause stays in the traceback.
        except (
            RuntimeError,
            OSError,
            ValueError,
            TypeError,
            AssertionError,
            LookupError,
            EOFError,
            pickle.PickleError,
        ) as e:
            raise _bad(name, folder, f"the {part} files are missing or corrupt ({_first_line(e)})") from e
        if name.startswith("cifar"):  # torchvision keeps the channels last
            images = images.permute(0, 3, 1, 2)
        elif images.ndim == 3:
            images = images.unsqueeze(1)
        parts.append(_checked(name, folder, images, labels, 255.0, classes, shape))
    train, test = parts
    return _Source(train, train.labels.numpy(), test, classes, shape)


def _read_folder(name: str, folder: Path, seed: int, size: int | None) -> _Source:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps: list[Any] = [] if size is None else [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
    transform = v2.Compose([v2.ToImage(), *steps, v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()])
    present = [part for part in ("train", "val", "test") if (folder / part).is_dir()]
    if "train" not in present or len(present) == 1:
        raise _bad(name, folder, f"found {', '.join(f'{part}/' for part in present) or 'none'} of train/, val/, test/")
    found: dict[str, Any] = {}
    for part in present:
        try:
            found[part] = ImageFolder(str(folder / part), transform=transform, loader=partial(_read_image, folder))
        except (OSError, RuntimeError) as e:
            raise _bad(name, folder, f"{part}/ has no images or an empty class ({_first_line(e)})") from e
        found[part].in_threads = True  # nothing is shared between two reads
        if found[part].classes != found["train"].classes:
            odd = set(found[part].classes) ^ set(found["train"].classes)
            raise _bad(name, folder, f"train/ and {part}/ have different classes: {', '.join(sorted(odd)[:5])}")
    classes = len(found["train"].classes)
    if classes < 2:
        raise _bad(
            name, folder, f"there is only one class, {found['train'].classes[0]!r}; a classifier takes two or more"
        )
    shape = _common_shape(folder, [path for each in found.values() for path, _ in each.samples], size)
    both = "val" in found and "test" in found
    return _Source(
        found["train"],
        np.asarray(found["train"].targets),
        found["test"] if "test" in found else found["val"],
        classes,
        shape,
        val=found["val"] if both else None,
    )


#: What PIL raises for a file that is no image, or only the beginning of one.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError)


def _read_image(folder: Path, path: str) -> Any:
    """Open one image of an image folder as RGB. Raises DataError, which names the file, where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UNREADABLE as e:
        raise _bad("image_folder", folder, f"{path} cannot be read ({_first_line(e)})") from e


def _common_shape(folder: Path, paths: Sequence[str], size: int | None) -> tuple[int, int, int]:
    """Open each image (its header only) so that an unreadable one, or one of another size, is told now.

    In threads, and once: what was found good is not opened again while the files stay as they are (see `checked`).
    """
    note = checked.note_of(map(Path, paths), b"one size" if size is None else b"any size")
    if (known := checked.kept(note)) is None:
        first: tuple[int, int] | None = None
        for path, here in zip(paths, checked.each(_image_size, paths, "image_folder"), strict=True):
            if isinstance(here, Exception):
                raise _bad("image_folder", folder, f"{path} is not an image ({_first_line(here)})") from here
            first = first or here
            if size is None and here != first:
                raise _bad(
                    "image_folder",
                    folder,
                    f"{path} is {here[0]} x {here[1]} pixels, {paths[0]} is {first[0]} x {first[1]}: "
                    "give a `size` in pixels (of the robustness trainables it is `image_size`) to resize and crop all "
                    "to it",
                )
        assert first is not None
        known = f"{first[0]} {first[1]}"
        checked.keep(note, known)
    width, height = map(int, known.split())
    return (3, size, size) if size is not None else (3, height, width)


def _image_size(path: str) -> tuple[int, int] | OSError:
    """Return width and height of an image, or what it cannot be opened for."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except OSError as e:
        return e


_SOURCES: dict[str, Callable[[str, Path, int, int | None], _Source]] = {
    "digits": _read_digits,
    "cifar10": _read_torchvision,
    "cifar100": _read_torchvision,
    "mnist": _read_torchvision,
    "fashion_mnist": _read_torchvision,
    "svhn": _read_torchvision,
    "image_folder": _read_folder,
}


# ---------------------------------------------------------------------------------------- checks and parts


def _checked(
    name: str, folder: Path, images: Tensor, labels: Tensor, scale: float, classes: int, shape: tuple[int, int, int]
) -> TensorImages:
    """Return the images and labels as a dataset. Raises DataError where they are not as they should be."""
    if tuple(images.shape[1:]) != shape:
        raise _bad(name, folder, f"images are {_times(images.shape[1:])}, expected {_times(shape)}")
    if len(images) != len(labels) or len(images) == 0:
        raise _bad(name, folder, f"there are {len(images)} images and {len(labels)} labels")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise _bad(name, folder, f"labels go from {low} to {high}, allowed are 0 to {classes - 1}")
    if float(images.min()) < 0 or float(images.max()) > scale:
        raise _bad(
            name, folder, f"pixels go from {float(images.min()):g} to {float(images.max()):g}, not 0 to {scale:g}"
        )
    return TensorImages(images.contiguous(), labels.long(), scale)


def _bad(name: str, folder: Path, what: str) -> DataError:
    layout = _LAYOUTS[name].replace("{root}", str(folder))
    how = f"nothing is downloaded; give the folder as `root` or in {ROOT_VARIABLE}"
    return DataError(f"{name}: {what}. Expected files ({how}):\n{layout}")


def _stratified(name: str, indices: Indices, labels: Indices, share: float | int, seed: int) -> tuple[Indices, Indices]:
    """Split `indices` in two; the second part is `share` of them, each label in proportion."""
    require(f"a split of data set {name!r}", "sklearn")
    from sklearn.model_selection import train_test_split

    try:
        return cast(
            "tuple[Indices, Indices]",
            tuple(train_test_split(indices, test_size=share, stratify=labels[indices], random_state=seed)),
        )
    except ValueError as e:
        raise DataError(
            f"{name}: {len(indices)} training images cannot give {share:g} of them ({_first_line(e)})"
        ) from e


def _fewer(name: str, train: Indices, labels: Indices, count: int, classes: int, seed: int) -> Indices:
    if not classes <= count <= len(train) - classes:
        raise ValueError(
            f"train_size is between the number of classes ({classes}) and {len(train) - classes} for {name}, "
            f"or all {len(train)} training images, got {count!r}"
        )
    return _stratified(name, train, labels, count, seed)[1]


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _first_line(error: BaseException) -> str:
    # torchvision's advice to download is cut off: nothing is downloaded here.
    lines = str(error).split("You can use download")[0].splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
