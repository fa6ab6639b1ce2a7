"""Digit scenes: real digits, a label for every pixel, parts that share no digit."""

from __future__ import annotations

import pytest
import torch

from tune_platform.trainables.data import load_images
from tune_platform.trainables.runtime import generator
from tune_platform.trainables.zero_label.scenes import compose, digit_scenes
from tune_platform.trainables.zero_label.splits import BACKGROUND, load_split


def test_labels_are_where_the_ink_is() -> None:
    digits, labels = load_images("digits").tensors("train")
    scenes = compose(digits, labels, 20, generator("cpu", 0, "test"))
    assert scenes.images.shape == (20, 1, 32, 32)
    assert scenes.images.dtype == torch.float32
    assert float(scenes.images.min()) >= 0
    assert float(scenes.images.max()) <= 1
    inked = scenes.images[:, 0] > 0.35  # above the noise
    assert torch.equal(scenes.labels != BACKGROUND, inked)
    for truth in scenes.labels:
        cells = truth.reshape(2, 16, 2, 16).permute(0, 2, 1, 3).reshape(4, -1)
        held = [set(cell.tolist()) - {BACKGROUND} for cell in cells]
        assert sorted(len(cell) for cell in held) == [0, 1, 1, 1]  # three digits, each in a cell of its own


def test_hidden_digits_are_in_no_scene_while_tuning() -> None:
    split = load_split("digits_069")
    tune = digit_scenes(split.task("tune"), "train", 60)
    final = digit_scenes(split.task("final"), "train", 60)
    hidden = [split.classes.index(name) for name in split.unseen]
    assert not torch.isin(tune.labels, torch.tensor(hidden)).any()
    for digit in range(10):
        assert (final.labels == digit).any()


def test_seed_draws_the_scenes_and_parts_differ() -> None:
    task = load_split("digits_248").task("final")
    one, same, other = (digit_scenes(task, "train", 5, seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(one.images, digit_scenes(task, "val", 5, 1).images)
    images, labels = one.take(torch.tensor([3, 1]))
    assert torch.equal(images[1], one.images[1])
    assert torch.equal(labels[0], one.labels[3])
    assert (one.channels, one.size, len(one)) == (1, (32, 32), 5)


def test_parts_share_no_digit() -> None:
    source = load_images("digits")
    rows = [{tuple(image.flatten().tolist()) for image in source.tensors(part)[0]} for part in ("train", "val", "test")]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]
    assert not rows[0] & rows[1]


@pytest.mark.parametrize("bad", [{"side": 20}, {"per_scene": 5}, {"noise": 0.5}, {"ink": 1.0}])
def test_impossible_scenes(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="scenes need 0 < side <= cell"):
        compose(torch.rand(3, 1, 8, 8), torch.arange(3), 2, torch.Generator(), **bad)  # type: ignore[arg-type]


def test_scenes_take_grey_digits_only() -> None:
    with pytest.raises(ValueError, match="the dataset is one of"):
        digit_scenes(load_split("digits_248").task("final"), "train", 5, images="letters")
