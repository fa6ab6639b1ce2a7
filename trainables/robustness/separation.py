"""How far apart are images of different classes? Exact L-infinity distances, and the classifier that they permit.

Yang et al. (2020), section 3: where every two images of different classes are 2r apart, the scaled nearest neighbour
classifier of theorem 1 is accurate *and* robust within r. So the smallest distance is to be compared with 2 eps (not
eps), on pixels in [0, 1] that are neither standardised nor augmented.

All distances are exact: every pair is compared, in blocks, on the CPU or a GPU; memory is that of two blocks, whatever
the dataset's size. Images are compared in float32, where the difference of two 8-bit pixels is exact to 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tune_platform.trainables.pixels import Example, Stored, stack

#: Images (n x C x H x W) with labels (n), or a dataset that is read in blocks.
Source = tuple[Tensor, Tensor] | Dataset[Example]


class Pair(NamedTuple):
    """Two images of different classes: positions among the queries and the references, and their distance."""

    query: int
    reference: int
    distance: float


@dataclass(frozen=True)
class Separation:
    """For each query image, the L-infinity distance to the nearest reference of another class, and which one it is."""

    distances: Tensor  # n, float32
    nearest: Tensor  # n, int64

    @property
    def minimum(self) -> float:
        """The smallest distance between two classes."""
        return float(self.distances.min())

    @property
    def mean(self) -> float:
        """The mean over the query images of the distance to another class."""
        return float(self.distances.double().mean())

    def cleaned_minimum(self, drop: int) -> float:
        """Return the smallest distance after the `drop` smallest are left out, as mislabelled or doubled images.

        The paper drops 5 for SVHN and 6 for Restricted ImageNet. Raises ValueError where none would be left.
        """
        if not 0 <= drop < len(self.distances):
            raise ValueError(f"drop is at least 0 and below the {len(self.distances)} distances, got {drop!r}")
        return float(self.distances.sort().values[drop])

    def closest(self, count: int) -> list[Pair]:
        """Return the `count` smallest distances with their images, smallest first: look at these for wrong labels."""
        order = self.distances.argsort(stable=True)[:count].tolist()
        return [Pair(i, int(self.nearest[i]), float(self.distances[i])) for i in order]

    def separates(self, eps: float) -> bool:
        """Whether balls of radius `eps` around images of different classes do not touch: 2 eps below the minimum."""
        return 2 * eps < self.minimum


def separation(
    queries: Source,
    references: Source | None = None,
    *,
    block: int = 1024,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Separation:
    """Return the distance of each query image to the nearest reference image of another class.

    `references` are the queries themselves if None (train-train). Time is n x m x pixels; memory on `device` two
    blocks of images and one of distances. `progress` hears (queries done, queries in all). Raises ValueError where an
    image has no counterpart of another class, where shapes differ, or where pixels leave [0, 1].
    """
    references = queries if references is None else references
    found: list[tuple[Tensor, Tensor]] = []
    total = _count(queries)
    for start, x, y in _blocks(queries, block, device):
        best = torch.full((len(x),), torch.inf, device=device)
        nearest = torch.zeros(len(x), dtype=torch.long, device=device)
        for offset, other, labels in _blocks(references, block, device):
            if x.shape[1] != other.shape[1]:
                raise ValueError(f"images of {x.shape[1]} and of {other.shape[1]} values cannot be compared")
            apart = torch.cdist(x, other, p=torch.inf)
            apart.masked_fill_(y[:, None] == labels[None, :], torch.inf)
            value, index = apart.min(dim=1)
            closer = value < best
            best = torch.where(closer, value, best)
            nearest = torch.where(closer, index + offset, nearest)
        found.append((best.cpu(), nearest.cpu()))
        if progress is not None:
            progress(start + len(x), total)
    distances, positions = (torch.cat(parts) for parts in zip(*found, strict=True))
    if not bool(distances.isfinite().all()):
        raise ValueError("an image has no image of another class to be compared with: all have one label")
    return Separation(distances, positions)


def random_labels(labels: Tensor, classes: int, draws: torch.Generator) -> Tensor:
    """Return labels (n) drawn uniformly: the control, whose separation should be smaller than the true labels'."""
    return torch.randint(classes, labels.shape, generator=draws, device=draws.device)


class NearestClass(nn.Module):
    """The classifier of theorem 1: logits -d(x, X_i) / r, scaled L-infinity distances to the nearest of each class.

    On 2r-separated images it is right everywhere within r of any of them; each logit is 1/r-Lipschitz. As a module it
    can be attacked and measured like any network.
    """

    images: Tensor
    labels: Tensor

    def __init__(self, images: Tensor, labels: Tensor, classes: int, r: float = 1.0) -> None:
        super().__init__()
        if r <= 0:
            raise ValueError(f"r is half the separation, above 0, got {r!r}")
        missing = set(range(classes)) - set(labels.tolist())
        if missing:
            raise ValueError(f"there is no image of class {', '.join(map(str, sorted(missing)))}")
        self.register_buffer("images", images.flatten(1))
        self.register_buffer("labels", labels)
        self.classes, self.r = classes, r

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n x classes)."""
        apart = torch.cdist(x.flatten(1), self.images, p=torch.inf)
        nearest = [apart[:, self.labels == label].amin(1) for label in range(self.classes)]
        return -torch.stack(nearest, 1) / self.r

    def astute(self, x: Tensor, y: Tensor, eps: float, block: int = 256) -> Tensor:
        """Return which images (n, bool) are certainly classified rightly within `eps`: no attack, a proof.

        A distance changes by at most eps within the ball, so the right class stays the nearest where the next one is
        more than 2 eps farther.
        """
        sure = []
        with torch.no_grad():
            for images, labels in zip(torch.split(x, block), torch.split(y, block), strict=True):
                distances = -self(images) * self.r
                own = distances.gather(1, labels[:, None]).squeeze(1)
                other = distances.scatter(1, labels[:, None], torch.inf).amin(1)
                sure.append(other - own > 2 * eps)
        return torch.cat(sure)


def check_separated(images: Tensor | Stored, labels: Tensor, eps: float, limit: int = 2000) -> None:
    """Raise ValueError where `eps` does not fit the images: balls around two of different classes overlap.

    Looks at `limit` images only, so that it takes seconds for any dataset: what it finds is there, but it may miss the
    closest pair. They are a fixed random sample: files may be in the order of their classes.
    """
    chosen = torch.arange(len(labels))
    if len(labels) > limit:
        chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:limit].sort().values
    seen = chosen.to(labels.device)
    if bool((labels[seen] == labels[seen][:1]).all()):
        return  # nothing to compare
    found = separation((images[seen], labels[seen]))
    if not found.separates(eps):
        closest = found.closest(1)[0]
        pair = Pair(int(chosen[closest.query]), int(chosen[closest.reference]), closest.distance)
        raise ValueError(
            f"eps={eps:g} does not fit these images: training images {pair.query} and {pair.reference} are of classes "
            f"{int(labels[pair.query])} and {int(labels[pair.reference])} and only {pair.distance:g} apart, so no "
            f"classifier is right on both balls. Use eps below {pair.distance / 2:g}, "
            "or allow_overlap: true if that is meant"
        )


def _blocks(source: Source, block: int, device: torch.device | str) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (offset, flat images, labels) block by block."""
    count = _count(source)
    for start in range(0, count, block):
        if isinstance(source, tuple):
            x, y = source[0][start : start + block], source[1][start : start + block]
        else:
            x, y = stack(source, range(start, min(start + block, count)))
        x = x.flatten(1).to(device, torch.float32)
        if float(x.min()) < 0 or float(x.max()) > 1:
            raise ValueError(
                f"distances are measured on pixels in [0, 1], got {float(x.min()):g} to {float(x.max()):g}: "
                "do not standardise the images"
            )
        yield start, x, y.to(device)


def _count(source: Source) -> int:
    return len(source[1]) if isinstance(source, tuple) else len(source)  # type: ignore[arg-type]
