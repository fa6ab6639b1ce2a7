from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from tune_platform.distributed.data import Position, ShardedBatches


def seen(batches: list[Any]) -> list[int]:
    return [int(value) for batch in batches for value in batch[0]]


def sharded(rank: int = 0, world: int = 2, shard: bool = True, batch: int = 3) -> ShardedBatches:
    return ShardedBatches((torch.arange(20), torch.arange(20)), batch, rank, world, seed=5, shard=shard)


def test_shards_share_no_example_and_change_with_the_epoch() -> None:
    data = [sharded(rank) for rank in range(2)]
    parts = [seen(list(each)) for each in data]
    assert len(parts[0]) == len(parts[1]) == 9  # 10 examples each, the last does not fill a batch
    assert not set(parts[0]) & set(parts[1])
    data[0].set_epoch(1)
    assert seen(list(data[0])) != parts[0]
    data[0].set_epoch(0)
    assert seen(list(data[0])) == parts[0]


def test_without_shards_each_worker_has_all_in_an_order_of_its_own() -> None:
    parts = [seen(list(sharded(rank, shard=False))) for rank in range(2)]
    assert len(parts[0]) == 18
    assert parts[0] != parts[1]


def test_a_batch_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"batch_size: 11 does not fit: each of 2 workers has 10 .* choose 1 \.\. 10"):
        sharded(batch=11)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batches_are_those_of_indexing_in_values_and_layout(layout: torch.memory_format) -> None:
    images, labels = torch.randn(20, 3, 4, 4).to(memory_format=layout), torch.arange(20)
    for found, chosen in ShardedBatches((images, labels), 3, 1, 2, seed=5):
        assert torch.equal(found, images[chosen])
        assert found.stride() == images[chosen].stride()


def loader() -> DataLoader[Any]:
    dataset = TensorDataset(torch.arange(20))
    return DataLoader(dataset, 4, sampler=DistributedSampler(dataset, 2, 0, seed=3))


def shuffled() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(20)), 4, shuffle=True)


@pytest.mark.parametrize("make", [sharded, loader, shuffled])
@pytest.mark.parametrize("before", [0, 2, 3, 5, 7])
def test_going_back_to_a_place_gives_the_same_batches(make: Any, before: int) -> None:
    torch.manual_seed(1)
    position = Position(make())
    for _ in range(before):
        position.next()
    state, generator = position.state_dict(), torch.get_rng_state()
    expected = seen([position.next() for _ in range(8)])

    torch.manual_seed(99)
    other = Position(make())
    other.next()
    other.load_state_dict(state)
    torch.set_rng_state(generator)
    assert seen([other.next() for _ in range(8)]) == expected


class Counting:
    """Data that keep their own place."""

    def __init__(self) -> None:
        self.at = 0
        self.started = 0

    def __iter__(self) -> Any:
        self.started += 1
        while self.at < 10:
            self.at += 1
            yield (torch.tensor([self.at]),)
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def test_data_that_keep_their_own_place_are_not_drawn_again() -> None:
    position = Position(Counting())
    for _ in range(4):
        position.next()
    state = position.state_dict()
    data = Counting()
    other = Position(data)
    other.load_state_dict(state)
    assert seen([other.next() for _ in range(3)]) == [5, 6, 7]
    assert data.started == 1
    assert (other.epoch, other.batch) == (0, 7)


def test_data_without_a_batch_are_an_error() -> None:
    with pytest.raises(ValueError, match="without a single batch"):
        Position([]).next()
