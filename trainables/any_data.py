"""Data sets that `trainables/data.py` does not name: any of torchvision's, or of a function of your own."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.trainables.data import ROOT_VARIABLE, DataError, Images
from tune_platform.trainables.pixels import Example


def imported(name: str, what: str) -> Callable[..., Any]:
    """Return the function of "module:function". Raises SpecError, in terms of the setting `what`, for one that is not.

    A mistake inside the module itself is raised as it is.
    """
    module, _, function = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or not module.startswith(e.name):
            raise
        raise SpecError(f"{what}: {name!r} names the module {module!r}, which cannot be found") from e
    made = getattr(found, function, None)
    if not callable(made):
        hint = did_you_mean(function, [each for each in vars(found) if not each.startswith("_")])
        raise SpecError(f"{what}: {module} has no function {function!r}{hint}")
    return cast("Callable[..., Any]", made)


def named_images(
    name: str, root: str | None, seed: int = 0, size: int | None = None, val: float = 0.1, train_size: int | None = None
) -> Images:
    """Return "torchvision:NAME" or what "module:function" returns, called with `root`: an `Images`.

    Of a torchvision data set a share `val` of the training images, drawn by `seed`, is held out; images become RGB, or
    grey where they are, and with `size` are resized and centrally cropped; `train_size` keeps so many of the training
    images. Nothing is downloaded. Raises SpecError for a name that there is not, and for a size that a function decides
    itself; DataError for files that are not there.
    """
    if not name.startswith("torchvision:"):
        for setting, value in (("size", size), ("train_size", train_size)):
            if value is not None:
                raise SpecError(f"{setting}: {name} returns its images as they are trained on; leave it out")
        made = imported(name, "task")(root)
        if not isinstance(made, Images):
            raise SpecError(f"task: {name} returns {type(made).__name__}, not a tune_platform.trainables.data.Images")
        return made
    from torchvision import datasets

    kind = getattr(datasets, name.partition(":")[2], None)
    if not inspect.isclass(kind) or not issubclass(kind, Dataset):
        hint = did_you_mean(name.partition(":")[2], list(datasets.__all__))
        raise SpecError(f"task: torchvision has no data set {name.partition(':')[2]!r}{hint}")
    folder = Path(root if root is not None else os.environ.get(ROOT_VARIABLE, "data")).expanduser().absolute()
    train, test = (_part(kind, folder, first, size) for first in (True, False))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = max(1, round(val * len(train)))
    if train_size is not None and not 1 <= train_size <= len(train) - held_out:
        raise SpecError(f"train_size: 1 to {len(train) - held_out} of {name}, got {train_size!r}")
    kept = order[held_out:] if train_size is None else order[held_out : held_out + train_size]
    first_image, _ = train[0]
    labels = {int(train[index][1]) for index in order[: min(len(train), 2000)]} | {int(test[0][1])}
    classes = len(getattr(kind, "classes", ())) or max(labels) + 1
    shape = cast("tuple[int, int, int]", tuple(first_image.shape))
    return Images(name, Subset(train, kept), Subset(train, order[:held_out]), test, classes, shape)


def _part(kind: Any, folder: Path, first: bool, size: int | None) -> Any:
    """Open the training or the test part, whichever way this data set names them."""
    from torchvision.transforms import v2

    steps: list[Any] = [] if size is None else [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
    transform = v2.Compose([v2.ToImage(), *steps, v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()])
    known = inspect.signature(kind.__init__).parameters
    given: dict[str, Any] = {"transform": transform}
    if "download" in known:
        given["download"] = False
    if "train" in known:
        given["train"] = first
    elif "split" in known:
        given["split"] = "train" if first else "test"
    else:
        raise SpecError(f"task: {kind.__name__} of torchvision has no parts to train and to test on: write a function")
    try:
        return _Labelled(kind(folder, **given))
    except (RuntimeError, OSError, ValueError, LookupError) as e:
        part = "training" if first else "test"
        raise DataError(
            f"torchvision:{kind.__name__}: the {part} files are not under {folder}, or corrupt (nothing is downloaded; "
            f"give the folder as `root` or in {ROOT_VARIABLE}): {str(e).splitlines()[0] if str(e) else e!r}"
        ) from e


class _Labelled(Dataset[Example]):
    """A data set of torchvision with whole numbers as labels."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Example:
        image, label = self.data[index]
        return image, int(np.asarray(label))

    @property
    def targets(self) -> Any:
        """All labels, where the data set has them apart from the images; else None."""
        found = getattr(self.data, "targets", None)
        return found if found is not None and len(found) == len(self) else None
