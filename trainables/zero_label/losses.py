"""The loss of self-training: cross-entropy on labels, and on pseudo-labels with a weight; of whole batches or parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional

from tune_platform.trainables.zero_label.network import nearest
from tune_platform.trainables.zero_label.splits import VOID

#: How the two terms are averaged: over all pixels together, as the released code does, or each over its own.
NORMALISATIONS = ("pooled", "separate")


@dataclass(frozen=True, slots=True)
class Batch:
    """Images (B x C x H x W) and what is learnt of them: `targets` and `pseudo` (B x H x W), positions or VOID.

    In a round of labelled pixels alone there is no `pseudo`. Of a part, `whole` is the batch that it is a part of: the
    loss is a mean over labelled pixels, and those of the whole batch are counted.
    """

    images: Tensor
    targets: Tensor
    pseudo: Tensor | None = None
    whole: Batch | None = None

    def parts(self, count: int) -> Iterator[Batch]:
        """Yield it in `count` parts (fewer, where it has not as many images), whose losses add up to its own."""
        count = min(count, len(self.images))
        if count == 1:
            yield self
            return
        none = [None] * count
        pseudo = none if self.pseudo is None else self.pseudo.tensor_split(count)
        pieces = zip(self.images.tensor_split(count), self.targets.tensor_split(count), pseudo, strict=True)
        for images, targets, guessed in pieces:
            yield Batch(images, targets, guessed, self)

    def mapped(self, size: tuple[int, int]) -> Batch:
        """Return it with labels of another size (h, w), the nearest ones."""
        return replace(
            self,
            targets=nearest(self.targets, size),
            pseudo=None if self.pseudo is None else nearest(self.pseudo, size),
            whole=None if self.whole is None else self.whole.mapped(size),
        )


def segmentation_loss(scores: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of `scores` (B x c x h x w) over pixels whose target is not VOID; zero if none.

    Of a part of a batch, `counted` are the targets of the whole: the losses of the parts add up to its own.
    """
    total = functional.cross_entropy(scores, targets, ignore_index=VOID, reduction="sum")
    return total / ((targets if counted is None else counted) != VOID).sum().clamp(min=1)


def self_training_loss(
    scores: Tensor,
    targets: Tensor,
    pseudo: Tensor,
    weight: float,
    normalisation: str,
    class_weights: Tensor | None = None,
    counted: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return CE(targets) + weight * CE(pseudo) for `scores` over all classes (B x c x h x w).

    `targets` and `pseudo` (B x h x w) hold positions or VOID, never both a position at the same pixel. "pooled" divides
    both sums by the number of labelled and pseudo-labelled pixels together, so that at weight 1 it is one mean over
    both (the effective weight then goes with the number of pixels); "separate" adds two means. `class_weights`
    (classes) weigh the pseudo-labels of each class within their sum. Of a part of a batch, `counted` are both labels of
    the whole. Raises ValueError for a negative weight or another normalisation.
    """
    if weight < 0:
        raise ValueError(f"the weight of the pseudo-labels is at least zero, got {weight!r}")
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation is one of {', '.join(NORMALISATIONS)}, got {normalisation!r}")
    labelled, guessed = (
        functional.cross_entropy(scores, labels, weights, ignore_index=VOID, reduction="sum")
        for labels, weights in ((targets, None), (pseudo, class_weights))
    )
    known, proposed = (targets, pseudo) if counted is None else counted
    counts = [(labels != VOID).sum().clamp(min=1) for labels in (known, proposed)]
    if normalisation == "separate" or weight == 0:
        return labelled / counts[0] + weight * guessed / counts[1]
    return (labelled + weight * guessed) / ((known != VOID) | (proposed != VOID)).sum().clamp(min=1)
