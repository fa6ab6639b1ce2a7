from __future__ import annotations

import pytest
import torch

from tune_platform.distributed import ShardedBatches
from tune_platform.trainables.augment import Augmented, mirrored, shifted


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int = 200, side: int = 5) -> torch.Tensor:
    """Images whose pixel at row r and column c is 10 r + c."""
    row, column = torch.arange(side).view(-1, 1) * 10.0, torch.arange(side).view(1, -1)
    return (row + column).expand(count, 1, side, side).clone()


def test_each_image_is_moved_by_its_own_draw_and_every_move_comes() -> None:
    images = shifted(numbered(), 1, draws())
    # The middle pixel tells the move: 22 where there was none; a border is the reflection of its neighbour.
    assert set(images[:, 0, 2, 2].tolist()) == {10.0 * row + column for row in (1, 2, 3) for column in (1, 2, 3)}
    down = images[images[:, 0, 2, 2] == 12][0, 0]
    assert down[0].tolist() == [10, 11, 12, 13, 14]
    assert down[1].tolist() == [0, 1, 2, 3, 4]


def test_moving_by_nothing_and_mirroring_never_change_nothing() -> None:
    images = numbered()
    assert shifted(images, 0, draws()) is images
    assert mirrored(images, 0.0, draws()) is images


def test_about_half_of_the_images_are_mirrored_and_wholly() -> None:
    images = mirrored(numbered(1000), 0.5, draws())
    turned = images[:, 0, 0, 0] == 4
    assert 420 < int(turned.sum()) < 580
    assert torch.equal(images[turned][0, 0], numbered(1)[0, 0].flip(1))
    assert torch.equal(images[~turned][0, 0], numbered(1)[0, 0])


def test_draws_repeat_by_seed_rank_and_epoch_and_labels_stay_with_their_images() -> None:
    images, labels = torch.randn(64, 3, 8, 8), torch.arange(64)

    def epoch(number: int, seed: int = 1, rank: int = 0) -> torch.Tensor:
        data = Augmented(ShardedBatches((images, labels), 16, rank, 2, seed=9), 2, 0.5, seed, rank)
        data.set_epoch(number)
        assert len(data) == 2
        return torch.cat([batch for batch, _ in data])

    state = torch.get_rng_state()
    assert torch.equal(epoch(0), epoch(0))
    assert not torch.equal(epoch(0), epoch(1))
    assert not torch.equal(epoch(0), epoch(0, seed=2))
    assert not torch.equal(epoch(0), epoch(0, rank=1))
    assert torch.equal(state, torch.get_rng_state())
    order = Augmented(ShardedBatches((images, labels), 16, seed=9), 0, 1.0, 1, 0)
    for batch, names in order:
        assert torch.equal(batch, images[names].flip(3))


@pytest.mark.parametrize(("crop", "flip"), [(-1, 0.0), (0, 1.5), (0, -0.1)])
def test_mistakes(crop: int, flip: float) -> None:
    with pytest.raises(ValueError, match=r"crop is a number of pixels|flip is a chance"):
        Augmented([], crop, flip, 0, 0)
