"""Where a worker's batches come from, and how the place in them is kept so that a resumed training sees the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tune_platform.protocol.seeds import derive


@runtime_checkable
class Stateful(Protocol):
    """Data that keep their own place, as `torchdata`'s loaders do."""

    def state_dict(self) -> dict[str, Any]:
        """Return the place."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place."""


@contextmanager
def reading(batches: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Give the iterator of `batches`, which is closed after use where it can be: the threads that read ahead end."""
    iterator = iter(batches)
    try:
        yield iterator
    finally:
        _close(iterator)


def _close(iterator: Any) -> None:
    if (close := getattr(iterator, "close", None)) is not None:
        close()


class ShardedBatches:
    """Batches of tensors that lie in memory: each worker draws from its own part, shuffled anew each epoch.

    `tensors` have the examples in their first dimension; what only looks like one, and lies in files, may have a
    `read_ahead(batches)`, an iterator of `tensor[batch]` for each of them, which is closed with the epoch. Of each
    epoch's order, which is the same for all workers, worker `rank` takes every `world_size`-th example (`shard`), or
    all of them in an order of its own (not `shard`). What does not fill a last batch for every worker is left out.
    Raises ValueError where no batch can be filled.
    """

    def __init__(
        self, tensors: tuple[Tensor, ...], batch_size: int, rank: int = 0, world_size: int = 1, seed: int = 0,
        *, shard: bool = True,
    ) -> None:  # fmt: skip
        self.tensors, self.batch_size, self.seed = tensors, int(batch_size), seed
        self.rank, self.world_size, self.shard = rank, world_size, shard
        self.epoch = 0
        share = len(tensors[0]) // (world_size if shard else 1)
        if self.batch_size < 1 or share < self.batch_size:
            raise ValueError(
                f"batch_size: {batch_size!r} does not fit: each of {world_size} workers has {share} of the "
                f"{len(tensors[0])} examples; choose 1 .. {share}"
            )
        self._length = share // self.batch_size

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: each epoch has its own."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        purpose = 0 if self.shard else self.rank
        generator = torch.Generator().manual_seed(derive(self.seed, "batches", self.epoch, purpose))
        order = torch.randperm(len(self.tensors[0]), generator=generator)
        if self.shard:
            order = order[self.rank :: self.world_size]
        with ExitStack() as read:
            parts: list[Iterable[Tensor]] = []
            for tensor in self.tensors:
                batches = torch.split(order.to(tensor.device), self.batch_size)[: self._length]
                if (read_ahead := getattr(tensor, "read_ahead", None)) is not None:
                    parts.append(read.enter_context(reading(read_ahead(batches))))
                elif tensor.is_contiguous():
                    parts.append(map(partial(tensor.index_select, 0), batches))  # faster than tensor[batch], and equal
                else:  # which keeps the layout
                    parts.append(map(tensor.__getitem__, batches))
            yield from zip(*parts, strict=True)


class Position:
    """Draws batches without end from any iterable of batches, epoch after epoch, and can go back to a place.

    `set_epoch` of the data, or of its sampler (DistributedSampler), is called before each epoch. Data that are
    `Stateful` keep their place themselves; of others, the batches before the place are drawn again and dropped,
    with torch's generator as it was when the epoch began.
    """

    def __init__(self, data: Iterable[Any]) -> None:
        self.data = data
        self.epoch = 0
        self.batch = 0  # drawn in this epoch
        self._iterator: Iterator[Any] | None = None
        self._generator: Tensor | None = None  # torch's, when the epoch began

    def next(self) -> Any:
        """Return the next batch. Raises ValueError where the data have none."""
        if self._iterator is None:
            self._begin()
        assert self._iterator is not None
        try:
            batch = next(self._iterator)
        except StopIteration:
            if self.batch == 0:
                raise ValueError(
                    "build_data returned data without a single batch: is the batch size too large?"
                ) from None
            self.epoch, self.batch = self.epoch + 1, 0
            self._iterator = None
            return self.next()
        self.batch += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place."""
        state: dict[str, Any] = {"epoch": self.epoch, "batch": self.batch, "generator": self._generator}
        if isinstance(self.data, Stateful):
            state["data"] = self.data.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place; torch's generator is left as it is."""
        self.close()
        self.epoch, self.batch = state["epoch"], 0
        now = torch.get_rng_state()
        if state["generator"] is not None:
            torch.set_rng_state(state["generator"])
        if isinstance(self.data, Stateful) and "data" in state:
            self.data.load_state_dict(state["data"])
            self.batch = state["batch"]
            if self.batch > 0:  # an iterator may draw when it is made, which was done before the place was saved
                self._generator, self._iterator = torch.get_rng_state(), iter(self.data)
        else:
            for _ in range(state["batch"]):
                self.next()
        torch.set_rng_state(now)

    def move(self, state: Mapping[str, Any], examples: float, per_batch: float) -> None:
        """Go near a place that another number of workers saved: `examples` into its epoch, `per_batch` at a time.

        Data that cannot be drawn again, such as what a policy has collected, have a `begin_near(state)`: it takes what
        `state_dict` returned there, and returns the epoch and the batch of it with which they begin.
        """
        if (begin_near := getattr(self.data, "begin_near", None)) is not None:
            self.epoch, self.batch = begin_near(state)
            self._iterator = iter(self.data) if self.batch else None
            return
        self.load_state_dict({"epoch": state["epoch"], "batch": int(examples // per_batch), "generator": None})

    def close(self) -> None:
        """Let the epoch go; with it end the processes, or threads, that were in the middle of reading it."""
        iterator, self._iterator = self._iterator, None
        _close(iterator)

    def _begin(self) -> None:
        self._generator = torch.get_rng_state()
        for part in (self.data, getattr(self.data, "sampler", None), getattr(self.data, "batch_sampler", None)):
            set_epoch = getattr(part, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(self.epoch)
        self._iterator = iter(self.data)
