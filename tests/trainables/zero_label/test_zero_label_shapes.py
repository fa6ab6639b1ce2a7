"""Scenes of textured shapes: mirror images keep the class, parts are apart, unseen pairs have seen parts."""

from __future__ import annotations

import pytest
import torch

from tune_platform.trainables.zero_label.shapes import ATTRIBUTES, CLASSES, SHAPES, TEXTURES, ink, inside, shape_scenes
from tune_platform.trainables.zero_label.splits import BACKGROUND, load_split


def test_every_shape_and_texture_is_its_own_mirror_image() -> None:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 21), indexing="ij")
    for shape in SHAPES:
        mask = inside(shape, rows, columns)
        assert torch.equal(mask, inside(shape, rows, -columns))
        assert 20 < int(mask.sum()) < mask.numel()
    for texture in TEXTURES:
        dark = ink(texture, 10 * rows, 10 * columns)
        assert torch.equal(dark, ink(texture, 10 * rows, -10 * columns))
        assert 0 < int(dark.sum()) < dark.numel()
    with pytest.raises(ValueError, match="shape is one of circle"):
        inside("star", rows, columns)
    with pytest.raises(ValueError, match="texture is one of striped"):
        ink("plain", rows, columns)


@pytest.mark.parametrize("name", ["shapes_a", "shapes_b", "shapes_c"])
def test_unseen_classes_are_new_pairs_of_parts_that_are_seen(name: str) -> None:
    task = load_split(name).task("final")
    seen, unseen = task.names[: task.seen], task.names[task.seen :]
    parts = {part for each in seen for part in each.split()}
    assert all(set(each.split()) <= parts for each in unseen)
    assert len({each.split()[0] for each in unseen}) == len({each.split()[1] for each in unseen}) == 3
    assert len(set(ATTRIBUTES.values())) == len(CLASSES)


def test_scenes_hold_the_classes_of_the_stage_and_repeat_themselves() -> None:
    task = load_split("shapes_a").task("tune")
    scenes = shape_scenes(task, "train", 40, seed=3)
    again, other = shape_scenes(task, "train", 40, seed=3), shape_scenes(task, "test", 40, seed=3)
    assert torch.equal(scenes.images, again.images)
    assert torch.equal(scenes.labels, again.labels)
    assert not torch.equal(scenes.images, other.images)
    assert set(scenes.labels.flatten().tolist()) == {*task.ids, BACKGROUND}
    assert scenes.channels == 3
    assert float(scenes.images.min()) >= 0
    assert float(scenes.images.max()) <= 1
