"""The loss of self-training: cross-entropy on labels, and on pseudo-labels with a weight."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from tune_platform.trainables.zero_label.splits import VOID

#: How the two terms are averaged: over all pixels together, as the released code does, or each over its own.
NORMALISATIONS = ("pooled", "separate")


def segmentation_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of `scores` (B x c x h x w) over pixels whose target is not VOID; zero if none."""
    total = functional.cross_entropy(scores, targets, ignore_index=VOID, reduction="sum")
    return total / (targets != VOID).sum().clamp(min=1)


def self_training_loss(
    scores: Tensor,
    targets: Tensor,
    pseudo: Tensor,
    weight: float,
    normalisation: str,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return CE(targets) + weight * CE(pseudo) for `scores` over all classes (B x c x h x w).

    `targets` and `pseudo` (B x h x w) hold positions or VOID, never both a position at the same pixel. "pooled" divides
    both sums by the number of labelled and pseudo-labelled pixels together, so that at weight 1 it is one mean over
    both (the effective weight then goes with the number of pixels); "separate" adds two means. `class_weights`
    (classes) weigh the pseudo-labels of each class within their sum. Raises ValueError for a negative weight or another
    normalisation.
    """
    if weight < 0:
        raise ValueError(f"the weight of the pseudo-labels is at least zero, got {weight!r}")
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation is one of {', '.join(NORMALISATIONS)}, got {normalisation!r}")
    labelled, guessed = (
        functional.cross_entropy(scores, labels, weights, ignore_index=VOID, reduction="sum")
        for labels, weights in ((targets, None), (pseudo, class_weights))
    )
    counts = [(labels != VOID).sum().clamp(min=1) for labels in (targets, pseudo)]
    if normalisation == "separate" or weight == 0:
        return labelled / counts[0] + weight * guessed / counts[1]
    return (labelled + weight * guessed) / ((targets != VOID) | (pseudo != VOID)).sum().clamp(min=1)
