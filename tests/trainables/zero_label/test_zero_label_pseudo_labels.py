"""The consistency filter: unseen classes only, agreement of all views, candidates only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tune_platform.trainables.zero_label.pseudo_labels import pseudo_labels
from tune_platform.trainables.zero_label.splits import VOID
from tune_platform.trainables.zero_label.views import IDENTITY, VIEW_SETS, View

SEEN, UNSEEN = 4, 3


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, UNSEEN, 3, padding=1)).eval()


def scenes(seed: int = 0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(3, 1, 16, 16, generator=draws), torch.rand(3, 16, 16, generator=draws) < 0.6


def test_one_view_is_plain_self_training() -> None:
    net, (images, candidates) = network(), scenes()
    found = pseudo_labels(net, images, candidates, SEEN, [IDENTITY])
    assert torch.equal(found.labels, found.proposed)
    with torch.no_grad():
        expected = torch.where(candidates, net(images).argmax(1) + SEEN, VOID)
    assert torch.equal(found.labels, expected)
    assert torch.equal(pseudo_labels(net, images, candidates, SEEN, [IDENTITY], "labels").labels, expected)


@pytest.mark.parametrize("inverse", ["scores", "labels"])
def test_agreement_by_brute_force(inverse: str) -> None:
    """Pixel by pixel, for views whose inverse moves whole pixels."""
    net, (images, candidates) = network(), scenes()
    found = pseudo_labels(net, images, candidates, SEEN, [IDENTITY, View(flip=True), View(shift=(2, 3))], inverse)
    with torch.no_grad():
        plain = net(images).argmax(1)
        mirrored = net(images.flip(-1)).argmax(1)
        moved = net(functional.pad(images, (3, 0, 2, 0), mode="replicate")).argmax(1)
    for b in range(3):
        for y in range(16):
            for x in range(16):
                votes = {int(plain[b, y, x]), int(mirrored[b, y, 15 - x]), int(moved[b, y + 2, x + 3])}
                agree = len(votes) == 1 and bool(candidates[b, y, x])
                assert int(found.labels[b, y, x]) == (votes.pop() + SEEN if agree else VOID)
    assert (found.labels != VOID).any()
    assert (found.labels != found.proposed).any()


@pytest.mark.parametrize("name", VIEW_SETS)
def test_a_view_more_never_keeps_a_pixel_more(name: str) -> None:
    net, (images, candidates) = network(1), scenes(1)
    kept_before: Tensor | None = None
    for count in range(1, len(VIEW_SETS[name]) + 1):
        labels = pseudo_labels(net, images, candidates, SEEN, VIEW_SETS[name][:count]).labels
        kept = labels != VOID
        assert not (kept & ~candidates).any()  # labelled pixels stay as they are
        chosen = labels[kept]
        assert int(chosen.min()) >= SEEN
        assert int(chosen.max()) < SEEN + UNSEEN
        if kept_before is not None:
            assert not (kept & ~kept_before).any()
        kept_before = kept


@pytest.mark.parametrize("inverse", ["scores", "labels"])
def test_an_equivariant_network_loses_nothing(inverse: str) -> None:
    pixelwise = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Tanh(), nn.Conv2d(6, UNSEEN, 1)).eval()
    images, candidates = scenes()
    views = [IDENTITY, View(flip=True), View(shift=(3, 1)), View(3.0), View(3.0, True), View(5.0, True, (1, 2))]
    found = pseudo_labels(pixelwise, images, candidates, SEEN, views, inverse)
    assert torch.equal(found.labels, found.proposed)
    assert torch.equal(found.labels != VOID, candidates)


def test_seen_classes_would_claim_the_pixels() -> None:
    """Why the generator scores the unseen classes alone: a network that was trained on seen ones prefers those."""
    images, candidates = scenes()

    class Biased(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen = torch.ones(len(x), SEEN, *x.shape[-2:]) * 5
            return torch.cat([seen, x, 1 - x, x * 0], 1)

    net = Biased()
    assert int((net(images).argmax(1) >= SEEN).sum()) == 0
    labels = pseudo_labels(lambda x: net(x)[:, SEEN:], images, candidates, SEEN, [IDENTITY]).labels
    assert torch.equal(labels != VOID, candidates)


def test_labels_and_scores_may_come_back_differently_but_both_agree_with_the_first_view() -> None:
    net, (images, candidates) = network(2), scenes(2)
    views = VIEW_SETS["up"]
    by_scores = pseudo_labels(net, images, candidates, SEEN, views, "scores")
    by_labels = pseudo_labels(net, images, candidates, SEEN, views, "labels")
    assert torch.equal(by_scores.proposed, by_labels.proposed)
    for found in (by_scores, by_labels):
        kept = found.labels != VOID
        assert torch.equal(found.labels[kept], found.proposed[kept])


def test_no_gradient_and_no_trace() -> None:
    net, (images, candidates) = network(), scenes()
    before = [p.clone() for p in net.parameters()]
    pseudo_labels(net, images, candidates, SEEN, VIEW_SETS["scale_shift"])
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, net.parameters(), strict=True))


def test_bad_arguments() -> None:
    net, (images, candidates) = network(), scenes()
    with pytest.raises(ValueError, match="at least one view"):
        pseudo_labels(net, images, candidates, SEEN, [])
    with pytest.raises(ValueError, match="inverse is 'scores' or 'labels', got 'logits'"):
        pseudo_labels(net, images, candidates, SEEN, [IDENTITY], "logits")
