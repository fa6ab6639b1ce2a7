"""Scenes of textured shapes: mirror images keep the class, parts are apart, unseen pairs have seen parts."""

from __future__ import annotations

import pytest
import torch

from tune_platform.trainables.zero_label.shapes import (
    ATTRIBUTES,
    CLASSES,
    SHAPES,
    TEXTURES,
    Clutter,
    compose_shapes,
    ink,
    inside,
    shape_scenes,
)
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


@pytest.mark.parametrize("name", ["shapes_d", "shapes_e", "shapes_f"])
def test_unseen_classes_of_these_share_parts_with_each_other(name: str) -> None:
    task = load_split(name).task("final")
    first, middle, last = (set(each.split()) for each in task.names[task.seen :])
    assert len(first & middle) == len(middle & last) == 1
    assert not first & last
    seen = {part for each in task.names[: task.seen] for part in each.split()}
    assert seen == {*SHAPES, *TEXTURES}


def test_what_is_hidden_has_no_label_and_the_ground_is_not_plain() -> None:
    one, draws = torch.tensor([CLASSES.index("square banded")]), torch.Generator
    plain, hidden = (
        compose_shapes(one, 30, draws().manual_seed(1), per_scene=1, clutter=Clutter(noise=0, hidden=hidden))
        for hidden in (0.0, 0.5)
    )
    whole, left = ((scenes.labels >= 0).sum((1, 2)) for scenes in (plain, hidden))
    assert int(whole.min()) > 90  # 0.85 of a radius of 6.4 pixels at least
    assert int(left.min()) < 80
    for clutter, same in ((Clutter(noise=0), True), (Clutter(noise=0, ground=0.3), False)):
        scenes = compose_shapes(one, 5, draws().manual_seed(1), per_scene=1, clutter=clutter)
        for image, labels in zip(scenes.images, scenes.labels, strict=True):
            ground = image[:, labels < 0]
            assert torch.equal(ground, ground[:, :1].expand_as(ground)) == same
    shaded = compose_shapes(one, 5, draws().manual_seed(1), per_scene=1, clutter=Clutter(noise=0, shade=0.9)).images
    assert all(float((image[:, 0, 0] - image[:, -1, -1]).abs().max()) > 0.01 for image in shaded)


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
