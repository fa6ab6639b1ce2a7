"""Calibrated stacking (Chao et al. 2016; SPNet-C): take a constant off the probability of every seen class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tune_platform.trainables.zero_label.metrics import Scores, confusion_matrix, scores

#: What `choose_gamma` tries unless told otherwise: fine near 1, where sharp probabilities need it.
GAMMAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def calibrated(class_scores: Tensor, seen: int, gamma: float) -> Tensor:
    """Return argmax over c of P(c | x) - gamma * 1[c is seen], for scores of all classes (B x c x h x w).

    The softmax is over all classes and comes first, so gamma is a probability: at 0 this is the plain argmax, above 1
    no seen class is ever predicted. Raises ValueError for a negative gamma.
    """
    if gamma < 0:
        raise ValueError(f"gamma is at least zero, got {gamma!r}")
    if gamma == 0:
        return class_scores.argmax(1)  # the softmax keeps the order, but may tie what it rounds
    probabilities = class_scores.softmax(1)
    probabilities[:, :seen] -= gamma
    return probabilities.argmax(1)


def choose_gamma(
    batches: Iterable[tuple[Tensor, Tensor]], seen: int, classes: int, gammas: Sequence[float] = GAMMAS
) -> tuple[float, dict[float, Scores]]:
    """Return the gamma with the best harmonic mean, and the scores of each, over batches of (scores, truth).

    Give it images of the tuning stage, where classes that are labelled play the unseen; never the hidden classes.
    Of several with the best mean the smallest is taken.
    """
    counts = {gamma: torch.zeros(classes, classes, dtype=torch.long) for gamma in gammas}
    for class_scores, truth in batches:
        for gamma in gammas:
            counts[gamma] += confusion_matrix(truth, calibrated(class_scores, seen, gamma), classes).cpu()
    found = {gamma: scores(count, seen) for gamma, count in counts.items()}
    return max(sorted(found), key=lambda gamma: found[gamma].harmonic), found
