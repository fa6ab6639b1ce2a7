"""Scores from one confusion matrix: against brute force and torchmetrics; pitfalls of the released code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from tune_platform.trainables.zero_label.metrics import as_released, confusion_matrix, harmonic_mean, iou, scores

CLASSES, SEEN = 5, 3


def maps(seed: int, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    truth = torch.randint(-1, classes, (4, 9, 7), generator=draws)
    guess = torch.randint(0, classes, truth.shape, generator=draws)
    right = torch.rand(truth.shape, generator=draws) < 0.5
    return truth, torch.where(right & (truth >= 0), truth, guess)


def places(mask: Tensor) -> set[tuple[int, ...]]:
    return {tuple(place) for place in mask.nonzero().tolist()}


def test_iou_by_hand() -> None:
    truth = torch.tensor([0, 0, 1, 1, 2, -1])
    predicted = torch.tensor([0, 1, 1, 1, 0, 2])
    confusion = confusion_matrix(truth, predicted, 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert iou(confusion).tolist() == pytest.approx([1 / 3, 2 / 3, 0])
    found = scores(confusion, seen=2)
    assert found == pytest.approx((0.5, 0.0, 0.0))


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_brute_force_and_torchmetrics(seed: int) -> None:
    truth, predicted = maps(seed)
    confusion = confusion_matrix(truth, predicted, CLASSES)
    sets = [(places(truth == c), places((predicted == c) & (truth >= 0))) for c in range(CLASSES)]
    brute = [len(a & b) / len(a | b) for a, b in sets]
    assert iou(confusion).tolist() == pytest.approx(brute)
    oracle = MulticlassConfusionMatrix(CLASSES, ignore_index=-1)
    assert torch.equal(confusion, oracle(predicted, truth))
    jaccard = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=-1)
    assert jaccard(predicted, truth).tolist() == pytest.approx(brute, abs=1e-6)


def test_counts_add_up_over_images() -> None:
    truth, predicted = maps(3)
    parts = [confusion_matrix(t, p, CLASSES) for t, p in zip(truth, predicted, strict=True)]
    assert torch.equal(torch.stack(parts).sum(0), confusion_matrix(truth, predicted, CLASSES))


def test_total_is_the_number_of_judged_pixels_and_the_released_evaluation_breaks_it() -> None:
    truth, predicted = maps(1)
    confusion = confusion_matrix(truth, predicted, CLASSES)
    judged = int((truth >= 0).sum())
    assert int(confusion.sum()) == judged
    released = as_released(confusion, truth.numel())
    assert int(released.sum()) == judged + truth.numel()
    # The copy of zeros lifts class 0 towards 1, and the seen mean with it; nothing else changes.
    assert iou(released)[0] > iou(confusion)[0]
    assert torch.equal(iou(released)[1:], iou(confusion)[1:])
    lift = float(iou(released)[0] - iou(confusion)[0]) / SEEN
    assert scores(released, SEEN).seen - scores(confusion, SEEN).seen == pytest.approx(lift)
    assert scores(released, SEEN).unseen == scores(confusion, SEEN).unseen


def test_order_of_classes_does_not_matter() -> None:
    truth, predicted = maps(2)
    order = torch.tensor([2, 0, 1, 4, 3])  # within the groups
    moved = torch.where(truth >= 0, order[truth], -1)
    before = scores(confusion_matrix(truth, predicted, CLASSES), SEEN)
    assert scores(confusion_matrix(moved, order[predicted], CLASSES), SEEN) == pytest.approx(before)


def test_a_class_that_occurs_nowhere_is_left_out() -> None:
    truth, predicted = torch.tensor([0, 0, 3]), torch.tensor([0, 0, 3])
    confusion = confusion_matrix(truth, predicted, 5)
    assert torch.isnan(iou(confusion)).tolist() == [False, True, True, False, True]
    assert scores(confusion, 3) == (1.0, 1.0, 1.0)
    assert math.isnan(scores(confusion_matrix(truth[:2], predicted[:2], 5), 3).unseen)
    assert math.isnan(scores(confusion_matrix(truth[:2], predicted[:2], 5), 3).harmonic)


@given(st.floats(0, 1), st.floats(0, 1))
def test_harmonic_mean_lies_between_and_near_the_smaller(s: float, u: float) -> None:
    found = harmonic_mean(s, u)
    assert min(s, u) - 1e-9 <= found <= max(s, u) + 1e-9
    assert found <= 2 * min(s, u) + 1e-9
    assert harmonic_mean(s, 0.0) == 0.0


def test_harmonic_mean_of_the_papers_row() -> None:
    assert harmonic_mean(82.7, 35.6) == pytest.approx(49.8, abs=0.05)


def test_bad_labels() -> None:
    with pytest.raises(ValueError, match="they must agree"):
        confusion_matrix(torch.zeros(2, 3).long(), torch.zeros(2, 2).long(), 3)
    with pytest.raises(ValueError, match="truth has labels from 1 to 7, allowed are 0 to 4"):
        confusion_matrix(torch.tensor([1, 7]), torch.tensor([1, 1]), 5)
    with pytest.raises(ValueError, match="the prediction has labels from -1 to 1"):
        confusion_matrix(torch.tensor([1, 1]), torch.tensor([-1, 1]), 5)
