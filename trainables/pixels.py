"""Images with labels in memory, as bytes or floats, or in files: how they are kept, and read as batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

#: One example: float32 image of C x H x W in [0, 1], and its label.
Example = tuple[Tensor, int]
#: Positions in a dataset, or labels: n integers.
Indices = np.ndarray[Any, np.dtype[np.int64]]
#: Batches that are read ahead of the one that is trained on: as many as one of torch's own readers has.
AHEAD = 2


class TensorImages(Dataset[Example]):
    """A dataset in memory: `images` (n x C x H x W, any dtype) are divided by `scale` when they are read."""

    def __init__(self, images: Tensor, labels: Tensor, scale: float) -> None:
        self.images, self.labels, self.scale = images, labels, scale

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return self.pixels(index), int(self.labels[index])

    def pixels(self, chosen: int | Tensor) -> Tensor:
        """Return one image, or some of them, as float32 in [0, 1]."""
        return self.images[chosen].to(torch.float32) / self.scale


class ByteImages(TensorImages):
    """Images of 8 bits in memory, whose floats are those that torchvision makes of them, bit for bit."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(images, labels, 255.0)

    def pixels(self, chosen: int | Tensor) -> Tensor:
        """Return one image, or some of them, as float32 in [0, 1]."""
        return self.images[chosen].to(torch.float32).mul_(1.0 / self.scale)


class Stored:
    """Images as they lie, in bytes or in files: `stored[indices]` or a slice of them, n x C x H x W, is float32."""

    def __init__(self, dataset: Dataset[Example], device: torch.device) -> None:
        self.device = device
        self._dataset = dataset

    def __len__(self) -> int:
        return length(self._dataset)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        indices = torch.arange(len(self))[chosen.cpu() if isinstance(chosen, Tensor) else chosen]
        return stack(self._dataset, indices)[0].to(self.device)

    def read_ahead(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Give `self[chosen]` for each of `batches`; files that threads may read are read ahead, see `read_ahead`."""
        if in_threads(self._dataset):
            with closing(read_ahead(self._dataset, batches)) as read:
                for images, _ in read:
                    yield images.to(self.device)
        else:
            yield from map(self.__getitem__, batches)

    def to(self, device: torch.device) -> Stored:
        """Return the same images, to be read onto another device."""
        return Stored(self._dataset, device)

    def some(self, chosen: Tensor) -> Stored:
        """Return some of them, as they lie."""
        return Stored(select(self._dataset, chosen.cpu().numpy()), self.device)


def stack(dataset: Dataset[Example], indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Read some examples as one batch: images (n x C x H x W, float32) and labels (n); at once where in memory.

    Images of a folder are read in as many threads as torch has, the trial's CPUs.
    """
    if isinstance(dataset, TensorImages):
        chosen = torch.as_tensor(indices)
        return dataset.pixels(chosen), dataset.labels[chosen]
    with ThreadPoolExecutor(torch.get_num_threads() if in_threads(dataset) else 1) as pool:
        return _batch_of(pool.map(lambda index: dataset[int(index)], indices))


def read_ahead(
    dataset: Dataset[Example], batches: Iterable[Iterable[int] | Tensor], ahead: int = AHEAD
) -> Generator[tuple[Tensor, Tensor]]:
    """Give `stack(dataset, indices)` for each of `batches`, while the next `ahead` of them are read.

    By as many threads as torch has, the trial's CPUs. They end with the iterator: at its end, where an image cannot be
    read, and when it is closed or forgotten, as soon as the images at hand are done. Only for a dataset that threads
    may read (`in_threads`), and whose images draw nothing: what is read early would else be another image.
    """
    pool = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="images")
    waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
    try:
        for indices in batches:
            examples = [pool.submit(dataset.__getitem__, int(index)) for index in indices]
            # Taken up after its images were, so that it waits for no other than those that are at hand.
            waiting.append(pool.submit(_gathered, examples))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class ThreadedLoader(DataLoader[Example]):
    """torch's DataLoader, reading by threads of this process and ahead, see `read_ahead`: the same batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        # As torch's own begins an epoch: what is drawn after it, dropout for one, stays the same.
        torch.empty((), dtype=torch.int64).random_()
        return read_ahead(self.dataset, cast("Iterable[list[int]]", self.batch_sampler))


def _gathered(examples: Sequence[Future[Example]]) -> tuple[Tensor, Tensor]:
    return _batch_of(example.result() for example in examples)


def _batch_of(examples: Iterable[Example]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*examples, strict=True)
    return torch.stack(images), torch.tensor(labels)


def select(dataset: Dataset[Example], indices: Indices) -> Dataset[Example]:
    """Return some of the examples as a dataset."""
    if isinstance(dataset, TensorImages):
        chosen = torch.as_tensor(indices)
        return TensorImages(dataset.images[chosen], dataset.labels[chosen], dataset.scale)
    return Subset(dataset, indices.tolist())


def as_bytes(dataset: Dataset[Example], shape: tuple[int, int, int]) -> ByteImages:
    """Read images of 8 bits into memory."""
    count = length(dataset)
    images, labels = torch.empty((count, *shape), dtype=torch.uint8), torch.empty(count, dtype=torch.int64)
    for start in range(0, count, 256):
        block = range(start, min(start + 256, count))
        pixels, labels[start : block.stop] = stack(dataset, block)
        images[start : block.stop] = (pixels * 255).round().to(torch.uint8)
    return ByteImages(images, labels)


def labels_of(dataset: Dataset[Example]) -> Tensor:
    """Return all labels (n, int64); images are read for them only where nothing else knows."""
    if isinstance(dataset, TensorImages):
        return dataset.labels.long()
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(dataset.indices)]
    known = getattr(dataset, "targets", None)
    return torch.as_tensor([dataset[at][1] for at in range(length(dataset))] if known is None else known).long()


def in_threads(dataset: Dataset[Example]) -> bool:
    """Whether two threads may read from a dataset at once: ours say so, one of a user's own may share a file."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return bool(getattr(dataset, "in_threads", False))


def in_memory(dataset: Dataset[Example]) -> bool:
    """Whether all images are in memory."""
    return isinstance(dataset, TensorImages)


def length(dataset: Dataset[Example]) -> int:
    """Return the number of examples."""
    return len(cast(Any, dataset))
