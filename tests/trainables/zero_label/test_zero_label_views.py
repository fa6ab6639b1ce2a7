"""Views and their inverses: exact round trips, in pixels and in geometry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tune_platform.trainables.zero_label.network import DeepLab, cell_side, small_backbone
from tune_platform.trainables.zero_label.views import IDENTITY, VIEW_SETS, View, views_of

SIZE = (12, 10)


def images() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (2, 5)])
@pytest.mark.parametrize("flip", [False, True])
def test_flips_and_shifts_come_back_bit_for_bit(flip: bool, shift: tuple[int, int]) -> None:
    view, x = View(flip=flip, shift=shift), images()
    there = view.apply(x)
    assert there.shape[-2:] == (SIZE[0] + shift[0], SIZE[1] + shift[1])  # nothing has left the picture
    assert torch.equal(view.restore(there, SIZE), x)
    labels = torch.randint(0, 9, (2, *SIZE))
    assert torch.equal(view.restore_labels(view.apply(labels[:, None].float())[:, 0].long(), SIZE), labels)


@pytest.mark.parametrize("factor", [3, 5])
@pytest.mark.parametrize("flip", [False, True])
def test_odd_scales_come_back_in_the_middle_of_each_block(factor: int, flip: bool) -> None:
    view, x = View(scale=factor, flip=flip), images()
    torch.testing.assert_close(view.restore(view.apply(x), SIZE), x)
    labels = torch.randint(0, 9, (2, *SIZE))
    large = labels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    large = large.flip(-1) if flip else large
    assert torch.equal(view.restore_labels(large, SIZE), labels)


@pytest.mark.parametrize("view", [v for name in VIEW_SETS for v in VIEW_SETS[name]], ids=str)
def test_every_centre_comes_back_to_its_place(view: View) -> None:
    """A picture of its own coordinates: where the interpolation does not clamp at the border, it returns unchanged."""
    size = (32, 32)
    rows = torch.arange(32.0)[:, None].expand(size)
    columns = torch.arange(32.0)[None, :].expand(size)
    coordinates = torch.stack([rows, columns])[None]
    back = view.restore(view.apply(coordinates), size)
    inner = slice(2, -2)
    torch.testing.assert_close(back[..., inner, inner], coordinates[..., inner, inner], atol=1e-4, rtol=0)
    # The labels of the view, taken at the nearest pixel, are of a place at most half a view's pixel away.
    marked = view.restore_labels(view.apply(coordinates)[:, 0], size)
    assert float((marked - rows).abs()[..., inner, inner].max()) <= 0.5 / min(1.0, view.scale) + 1e-4


def test_maps_of_a_lower_resolution_come_back_too() -> None:
    view = View(scale=1.5, flip=True, shift=(3, 3))
    x = torch.rand(1, 2, 32, 32)
    half = torch.nn.functional.avg_pool2d(view.apply(x), 2)
    assert view.restore(half, (32, 32)).shape == x.shape
    constant = torch.full((1, 4, 26, 26), 2.5)
    torch.testing.assert_close(view.restore(constant, (32, 32)), torch.full((1, 4, 32, 32), 2.5))


@pytest.mark.parametrize("name", VIEW_SETS)
def test_a_network_of_stride_two_comes_back_exactly(name: str) -> None:
    """Its cells are means over 2 x 2 pixels; straight lines pass through all of it unchanged, but at the borders."""
    size, inner = (32, 32), slice(6, -6)
    ramp = torch.arange(32.0)[None, :].expand(size)
    # Lines whose upper envelope changes at 2.25, 6.25, ...: labels in stripes four columns wide.
    centres = 0.25 + 4 * torch.arange(8.0)
    stripes = 2 * centres[:, None, None] * ramp - centres[:, None, None] ** 2
    images = torch.cat([ramp[None], ramp.T[None], stripes, stripes.mT])[None]
    labels = stripes.argmax(0)
    assert labels[0, [2, 3, 6, 7]].tolist() == [0, 1, 1, 2]
    for view in VIEW_SETS[name]:
        seen = view.apply(images, 2)
        assert all(side % 2 == 0 for side in seen.shape[-2:])
        back = view.restore(functional.avg_pool2d(seen, 2), size, 2)
        assert back.shape == images.shape
        torch.testing.assert_close(back[0, 0, inner, inner], ramp[inner, inner], atol=1e-4, rtol=0)
        torch.testing.assert_close(back[0, 1, inner, inner], ramp.T[inner, inner], atol=1e-4, rtol=0)
        assert torch.equal(back[0, 2:10].argmax(0)[inner, inner], labels[inner, inner])
        assert torch.equal(back[0, 10:].argmax(0)[inner, inner], labels.T[inner, inner])
        coarse = view.restore_labels(functional.avg_pool2d(seen[:, 2:10], 2).argmax(1), size, 2)
        wrong = (coarse[0] != labels)[inner, inner]
        middle = [i for i in range(20) if i % 4 in (2, 3)]  # columns beside no edge of a stripe
        assert view.scale < 1 or not wrong[:, middle].any()
        # No more is seen than the stride asks for.
        least = [(32 + shift) * view.scale for shift in view.shift]
        assert all(abs(side - wanted) <= 2 * view.scale for side, wanted in zip(seen.shape[-2:], least, strict=True))


@pytest.mark.parametrize("stride", [2, 8])
@pytest.mark.parametrize("size", [(31, 45), (33, 32)])
def test_views_of_odd_images_are_multiples_of_the_stride(stride: int, size: tuple[int, int]) -> None:
    images = torch.rand(1, 1, *size)
    for views in (*VIEW_SETS.values(), views_of("random", torch.Generator().manual_seed(0))):
        for view in views:
            seen = view.apply(images, stride)
            assert all(side % stride == 0 for side in seen.shape[-2:])
            assert view.restore(functional.avg_pool2d(seen, stride), size, stride).shape == images.shape
            if view.scale == 1:
                assert torch.equal(view.restore(seen, size, stride), images)


def test_cells_of_the_networks() -> None:
    assert cell_side(small_backbone(1, 4, 3)) == 2
    assert cell_side(DeepLab(3)) == 1


def test_sets_of_views() -> None:
    for views in VIEW_SETS.values():
        assert views[0] == IDENTITY
        assert len(set(views)) == len(views)
    # The paper's: identity, flip, and each of two scales without and with the flip.
    assert len(VIEW_SETS["mirror_up"]) == 6
    assert {view.scale for view in VIEW_SETS["mirror_up"]} == {1.0, 1.5, 1.75}
    assert {view.scale for view in VIEW_SETS["mirror_down"]} == {1.0, 0.5, 0.75}
    # A digit is no digit, or another one, in the mirror.
    assert not any(view.flip for name in ("shift", "scale", "scale_shift") for view in VIEW_SETS[name])


def test_random_views_are_drawn_by_their_generator() -> None:
    first, second = (views_of("random", torch.Generator().manual_seed(5)) for _ in range(2))
    assert first == second
    assert len(first) == 6
    assert all(0.5 <= view.scale <= 1.75 for view in first)
    assert first != views_of("random", torch.Generator().manual_seed(6))


def test_bad_views() -> None:
    with pytest.raises(ValueError, match="views is one of identity, mirror"):
        views_of("sideways")
    for bad in ({"scale": 0.0}, {"shift": (-1, 0)}):
        with pytest.raises(ValueError, match="a view has a scale above zero"):
            View(**bad)
