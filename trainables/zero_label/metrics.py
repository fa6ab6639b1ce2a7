"""Mean IoU over seen and over unseen classes and their harmonic mean, all from one confusion matrix.

IoU is taken from counts summed over the whole set, not averaged over images; a class that occurs neither in the truth
nor in a prediction has no IoU (NaN) and is left out of the means.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


def confusion_matrix(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count pixels by true class (row) and predicted class (column): `classes` x `classes`, int64.

    Pixels with a negative `truth` are left out, whatever is predicted there, so the sum of the matrix is the number of
    judged pixels. Raises ValueError for shapes that differ or labels out of range.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth is {tuple(truth.shape)}, the prediction {tuple(predicted.shape)}: they must agree")
    judged = truth >= 0
    rows, columns = truth[judged], predicted[judged]
    for what, values in (("truth", rows), ("the prediction", columns)):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise ValueError(
                f"{what} has labels from {int(values.min())} to {int(values.max())}, allowed are 0 to {classes - 1}"
            )
    return torch.bincount(rows * classes + columns, minlength=classes * classes).reshape(classes, classes)


def iou(confusion: Tensor) -> Tensor:
    """Return the intersection over union of each class, float64; NaN for a class that occurs nowhere."""
    counts = confusion.double()
    both = counts.diag()
    return both / (counts.sum(0) + counts.sum(1) - both)


class Scores(NamedTuple):
    """Mean IoU over seen and unseen classes, and 2SU / (S + U); between 0 and 1, NaN where a group never occurs."""

    seen: float
    unseen: float
    harmonic: float


def scores(confusion: Tensor, seen: int) -> Scores:
    """Return the scores of a confusion matrix whose first `seen` classes are the seen ones.

    The harmonic mean is that of the two means (not a mean of harmonic means), and zero where one of them is zero.
    """
    each = iou(confusion)
    s, u = (float(torch.nanmean(part)) for part in (each[:seen], each[seen:]))
    return Scores(s, u, harmonic_mean(s, u))


def harmonic_mean(s: float, u: float) -> float:
    """Return 2su / (s + u) of two numbers of at least zero; zero where both are zero."""
    if math.isnan(s) or math.isnan(u):
        return math.nan
    return 2 * s * u / (s + u) if s + u > 0 else 0.0


def as_released(confusion: Tensor, pixels: int) -> Tensor:
    """Return the matrix that STRICT's released evaluation computes when it runs as one process.

    Its gathering step appends, for each batch, a copy of predictions and labels that are all zero: as many pixels as
    there are in the images (`pixels`, the ignored ones too) are counted as class 0 found right. Only for showing what
    that does to the seen mean; nothing here is judged by it.
    """
    counted = confusion.clone()
    counted[0, 0] += pixels
    return counted
