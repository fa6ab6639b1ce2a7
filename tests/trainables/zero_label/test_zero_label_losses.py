"""The loss of self-training against its formula, and calibrated stacking against its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tune_platform.trainables.zero_label.calibration import GAMMAS, calibrated, choose_gamma
from tune_platform.trainables.zero_label.losses import segmentation_loss, self_training_loss
from tune_platform.trainables.zero_label.metrics import confusion_matrix
from tune_platform.trainables.zero_label.metrics import scores as scores_of
from tune_platform.trainables.zero_label.splits import VOID

SEEN, CLASSES = 3, 5


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, CLASSES, 4, 6, generator=draws, dtype=torch.double)
    kind = torch.randint(0, 3, (2, 4, 6), generator=draws)
    targets = torch.where(kind == 0, torch.randint(0, SEEN, kind.shape, generator=draws), VOID)
    pseudo = torch.where(kind == 1, torch.randint(SEEN, CLASSES, kind.shape, generator=draws), VOID)
    return logits, targets, pseudo


def by_hand(logits: Tensor, labels: Tensor) -> tuple[float, int]:
    logs = logits.log_softmax(1)
    picked = [-float(logs[b, labels[b, y, x], y, x]) for b, y, x in (labels != VOID).nonzero().tolist()]
    return sum(picked), len(picked)


@pytest.mark.parametrize("weight", [0.3, 1.0, 2.0])
def test_both_ways_of_averaging(weight: float) -> None:
    logits, targets, pseudo = case()
    (a, n), (b, m) = by_hand(logits, targets), by_hand(logits, pseudo)
    assert float(self_training_loss(logits, targets, pseudo, weight, "pooled")) == pytest.approx(
        (a + weight * b) / (n + m)
    )
    assert float(self_training_loss(logits, targets, pseudo, weight, "separate")) == pytest.approx(
        a / n + weight * b / m
    )


def test_pooled_at_weight_one_is_one_mean_as_released() -> None:
    logits, targets, pseudo = case()
    both = torch.where(pseudo == VOID, targets, pseudo)
    expected = functional.cross_entropy(logits, both, ignore_index=VOID)
    torch.testing.assert_close(self_training_loss(logits, targets, pseudo, 1.0, "pooled"), expected)


@pytest.mark.parametrize("normalisation", ["pooled", "separate"])
def test_weight_zero_is_the_supervised_loss_over_all_classes(normalisation: str) -> None:
    logits, targets, pseudo = case()
    expected = functional.cross_entropy(logits, targets, ignore_index=VOID)
    torch.testing.assert_close(self_training_loss(logits, targets, pseudo, 0.0, normalisation), expected)


@pytest.mark.parametrize("normalisation", ["pooled", "separate"])
def test_gradients(normalisation: str) -> None:
    logits, targets, pseudo = (part[:1, ..., :2, :4] for part in case())
    assert (targets != VOID).any()
    assert (pseudo != VOID).any()
    logits = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: self_training_loss(x, targets, pseudo, 0.7, normalisation), (logits,))


def test_nothing_to_learn_from_is_zero_not_nan() -> None:
    logits, targets, _ = case()
    empty = torch.full_like(targets, VOID)
    assert float(segmentation_loss(logits, empty)) == 0
    for normalisation in ("pooled", "separate"):
        assert float(self_training_loss(logits, empty, empty, 1.0, normalisation)) == 0
        alone = self_training_loss(logits, targets, empty, 1.0, normalisation)
        torch.testing.assert_close(alone, segmentation_loss(logits, targets))


def test_bad_arguments() -> None:
    logits, targets, pseudo = case()
    with pytest.raises(ValueError, match="weight of the pseudo-labels is at least zero, got -1"):
        self_training_loss(logits, targets, pseudo, -1.0, "pooled")
    with pytest.raises(ValueError, match="normalisation is one of pooled, separate, got 'mean'"):
        self_training_loss(logits, targets, pseudo, 1.0, "mean")
    with pytest.raises(ValueError, match=r"gamma is at least zero, got -0\.1"):
        calibrated(logits, SEEN, -0.1)


def test_calibration_by_hand() -> None:
    # Probabilities 0.6, 0.3, 0.1 with one seen class: a gamma above 0.3 turns the answer over.
    logits = torch.tensor([0.6, 0.3, 0.1]).log().reshape(1, 3, 1, 1)
    assert [int(calibrated(logits, 1, gamma)) for gamma in (0.0, 0.29, 0.31, 2.0)] == [0, 0, 1, 1]


def test_calibration_takes_from_seen_classes_only_and_after_the_softmax() -> None:
    logits, _, _ = case(1)
    assert torch.equal(calibrated(logits, SEEN, 0.0), logits.argmax(1))
    counts = [int((calibrated(logits, SEEN, gamma) < SEEN).sum()) for gamma in (0.0, 0.1, 0.3, 0.5, 0.9, 1.01)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0
    # Taken off the scores before the softmax it would be something else.
    before = logits.clone()
    before[:, :SEEN] -= 0.3
    assert not torch.equal(calibrated(logits, SEEN, 0.3), before.argmax(1))


def test_gamma_is_chosen_by_the_harmonic_mean() -> None:
    logits, targets, pseudo = case(2)
    truth = torch.where(pseudo == VOID, targets, pseudo)
    batches = [(logits[:1], truth[:1]), (logits[1:], truth[1:])]
    gamma, found = choose_gamma(batches, SEEN, CLASSES)
    brute = {g: scores_of(confusion_matrix(truth, calibrated(logits, SEEN, g), CLASSES), SEEN).harmonic for g in GAMMAS}
    assert {g: score.harmonic for g, score in found.items()} == pytest.approx(brute)
    assert brute[gamma] == max(brute.values())
    assert gamma == min(g for g in GAMMAS if brute[g] == brute[gamma])
