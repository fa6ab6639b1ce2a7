"""Distances between classes against brute force, and the classifier that they permit."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch import Tensor

from tune_platform.trainables.data import load_images
from tune_platform.trainables.robustness.attacks import Attack, survives_pgd
from tune_platform.trainables.robustness.lipschitz import local_lipschitz
from tune_platform.trainables.robustness.separation import NearestClass, check_separated, random_labels, separation
from tune_platform.trainables.robustness.trainable import Parts


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def brute_force(x: Tensor, y: Tensor, other: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    apart = (x.flatten(1)[:, None] - other.flatten(1)[None]).abs().amax(2)
    apart[y[:, None] == labels[None]] = torch.inf
    return apart.min(1).values, apart.min(1).indices


def random_set(count: int, seed: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    g = draws(seed)
    return torch.rand(count, 3, 4, 5, generator=g), torch.randint(classes, (count,), generator=g)


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_blocks_do_not_matter(block: int) -> None:
    queries, references = random_set(50, 1), random_set(33, 2)
    expected, nearest = brute_force(*queries, *references)
    found = separation(queries, references, block=block)
    assert torch.allclose(found.distances, expected, atol=1e-6)
    assert torch.equal(found.nearest, nearest)
    assert found.minimum == pytest.approx(float(expected.min()))
    assert found.mean == pytest.approx(float(expected.mean()))


def test_train_to_train_leaves_out_the_whole_class() -> None:
    images = torch.tensor([0.0, 0.1, 0.5, 0.9]).view(4, 1, 1, 1)
    found = separation((images, torch.tensor([0, 0, 1, 1])))
    assert found.distances.tolist() == pytest.approx([0.5, 0.4, 0.4, 0.8])
    assert found.nearest.tolist() == [2, 2, 1, 1]
    assert [(pair.query, pair.reference) for pair in found.closest(2)] == [(1, 2), (2, 1)]
    assert found.closest(1)[0].distance == pytest.approx(0.4)


def test_a_dataset_is_read_in_blocks_and_tells_its_progress() -> None:
    images = load_images("digits", train_size=100)
    heard: list[tuple[int, int]] = []
    found = separation(images.train, block=30, progress=lambda *at: heard.append(at))
    expected, _ = brute_force(*images.tensors("train"), *images.tensors("train"))
    assert torch.equal(found.distances, expected)
    assert heard == [(30, 100), (60, 100), (90, 100), (100, 100)]


def test_label_cleaning_leaves_out_the_smallest() -> None:
    images = torch.tensor([0.0, 0.01, 0.3, 0.8]).view(4, 1, 1, 1)  # the first two: one image, labelled twice
    found = separation((images, torch.tensor([0, 1, 0, 1])))
    assert found.minimum == pytest.approx(0.01)
    assert found.cleaned_minimum(2) == pytest.approx(0.29)
    assert found.cleaned_minimum(0) == found.minimum
    assert found.separates(0.004)
    assert not found.separates(0.0051)  # compared with 2 eps, not with eps
    with pytest.raises(ValueError, match="drop is at least 0 and below the 4 distances, got 4"):
        found.cleaned_minimum(4)


def test_digits_are_separated_and_random_labels_less_so() -> None:
    """The figures of the reference: .4375 apart with true labels, .1875 at random, and means of .71 and .43."""
    train = load_images("digits").tensors("train")
    found = separation(train)
    assert found.minimum == 0.4375
    assert found.mean == pytest.approx(0.7075, abs=0.03)
    for seed in range(3):
        at_random = separation((train[0], random_labels(train[1], 10, draws(seed))))
        assert at_random.minimum < 0.25
        assert at_random.mean < found.mean - 0.2


def test_the_nearest_class_is_right_within_half_the_separation(parts: Parts) -> None:
    """Theorem 1 on 200 digits: every corner and every random point within r of an image is classified rightly."""
    images, labels = parts.train[0][:200], parts.train[1][:200]
    r = separation((images, labels)).minimum / 2
    model = NearestClass(images, labels, 10, r)
    g = draws()
    for _ in range(5):
        delta = 2 * torch.rand(images.shape, generator=g) - 1
        for direction in (delta, delta.sign()):  # inside, and at the corners; the theorem needs no pixel range
            assert torch.equal(model(images + 0.999 * r * direction).argmax(1), labels)
    assert bool(model.astute(images, labels, 0.999 * r).all())
    assert bool(survives_pgd(model, images[:50], labels[:50], Attack(0.99 * r), g).all())


def test_the_proof_is_no_less_than_the_truth(parts: Parts) -> None:
    """Where the proof holds no attack succeeds; at radius zero it is the accuracy."""
    model = NearestClass(parts.train[0][:], parts.train[1], 10)
    images, labels = parts.test[0][:60], parts.test[1][:60]
    sure = model.astute(images, labels, 0.1)
    assert 0.2 < float(sure.float().mean()) < 1
    assert bool(survives_pgd(model, images, labels, Attack(0.1), draws())[sure].all())
    assert torch.equal(model.astute(images, labels, 0.0), model.astute(images, labels, 0.0, block=7))
    assert bool((model.astute(images, labels, 0.0) <= (model(images).argmax(1) == labels)).all())


def test_each_logit_of_the_nearest_class_is_lipschitz(parts: Parts) -> None:
    r = 0.2
    model = NearestClass(parts.train[0][:100], parts.train[1][:100], 10, r)
    images = parts.test[0][:20]
    found = local_lipschitz(model, images, Attack(0.1), draws())
    assert float(found.max()) <= 10 / r * 1.001  # ten logits, each 1/r
    other = images + 0.05 * torch.randn(images.shape, generator=draws())
    rise = (model(other) - model(images)).abs().amax(1)
    assert bool((rise <= (other - images).flatten(1).abs().amax(1) / r * 1.001).all())


def test_an_attack_radius_that_does_not_fit_is_told_before_training() -> None:
    images, labels = torch.tensor([0.1, 0.4, 0.9]).view(3, 1, 1, 1), torch.tensor([3, 5, 5])
    check_separated(images, labels, 0.149)
    with pytest.raises(ValueError, match=r"images 0 and 1 are of classes 3 and 5 and only 0\.3 apart.*below 0\.15"):
        check_separated(images, labels, 0.151)


def test_the_check_sees_all_classes_of_images_in_the_order_of_their_classes() -> None:
    """More images than it looks at; the pair that it names is to be found at its place among all of them."""
    labels = torch.arange(3).repeat_interleave(40)
    images = (0.3 * labels + 0.001 * (torch.arange(120) % 40)).view(120, 1, 1, 1)
    check_separated(images, labels, 0.1, limit=30)
    with pytest.raises(ValueError, match="does not fit these images") as caught:
        check_separated(images, labels, 0.149, limit=30)
    found = re.search(r"images (\d+) and (\d+) are of classes (\d) and (\d) and only ([\d.]+) apart", str(caught.value))
    assert found is not None
    one, other = int(found[1]), int(found[2])
    assert [int(labels[one]), int(labels[other])] == [int(found[3]), int(found[4])]
    assert float((images[one] - images[other]).abs()) == pytest.approx(float(found[5]), abs=1e-5)
    # One class among a thousand others: a sample without it has nothing to say.
    check_separated(torch.rand(1000, 1, 1, 1), torch.zeros(1000).index_fill(0, torch.tensor([7]), 1), 0.4, limit=2)


def test_what_cannot_be_measured() -> None:
    images = torch.rand(4, 1, 2, 2)
    with pytest.raises(ValueError, match="all have one label"):
        separation((images, torch.zeros(4)))
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got .* do not standardise"):
        separation((images - 0.5, torch.arange(4)))
    with pytest.raises(ValueError, match="images of 4 and of 9 values cannot be compared"):
        separation((images, torch.arange(4)), (torch.rand(4, 1, 3, 3), torch.arange(4)))
    with pytest.raises(ValueError, match="no image of class 2"):
        NearestClass(images, torch.tensor([0, 1, 3, 0]), 4)
    with pytest.raises(ValueError, match="r is half the separation, above 0, got 0"):
        NearestClass(images, torch.arange(4), 4, 0.0)


def test_closest_pairs_are_in_order() -> None:
    found = separation(random_set(40, 5))
    pairs = found.closest(40)
    assert all(a.distance <= b.distance for a, b in itertools.pairwise(pairs))
    assert len({pair.query for pair in pairs}) == 40
