"""How the workers of a gang talk: collectives that count their bytes and their time.

Strategies see a `Communicator` and nothing else, so that the same code runs over `torch.distributed` and, for
debugging and for studies on a virtual clock, between threads of one process.

Bytes are those that cross all links together, as gloo's algorithms send them (N bytes of payload, W workers):

    all_reduce  2 (W - 1) N        broadcast  (W - 1) N        all_gather  W (W - 1) N        request  N
    all_to_all  (W - 1) N

Each worker counts its W-th part, so that the sum over the workers is the total.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tune_platform.trainable import WorkerDied

Reduction = Literal["sum", "mean", "max", "min"]
#: Answers a request to the centre: (rank of the asking worker, what it sent) -> reply. Runs where the centre is.
Handler = Callable[[int, Tensor], Tensor]


class PeerLost(WorkerDied):
    """A collective did not come about: a worker of the group is gone, or did not come within the time-out."""


@dataclass(slots=True)
class Traffic:
    """What a worker has sent (its part, in bytes, by collective) and the time that took, in seconds."""

    bytes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    communication_s: float = 0.0
    waiting_s: float = 0.0
    #: Whether collectives first wait until all have come, to tell waiting from sending; the same for all workers.
    measure_waiting: bool = False

    def count(self, collective: str, amount: float) -> None:
        """Add one call that sent `amount` bytes."""
        self.bytes[collective] += amount
        self.calls[collective] += 1

    @property
    def total(self) -> float:
        """All bytes of this worker's part."""
        return sum(self.bytes.values())


class Communicator(ABC):
    """The workers of a group as one of them sees it: its `rank` among `size`, on `hosts`.

    All workers of the group make the same calls in the same order; each raises PeerLost where one of them is gone.
    Tensors are changed in place where that is said; all must be contiguous.
    """

    def __init__(self, rank: int, size: int, hosts: Sequence[str], traffic: Traffic | None = None) -> None:
        self.rank, self.size, self.hosts = rank, size, tuple(hosts)
        self.traffic = traffic if traffic is not None else Traffic()

    def all_reduce(self, tensor: Tensor, op: Reduction = "mean") -> Tensor:
        """Replace `tensor` by the sum, mean, maximum or minimum over the workers; return it."""
        if self.size > 1:
            self._count("all_reduce", 2 * (self.size - 1) * payload(tensor))
            self._all_reduce(tensor, op)
        return tensor

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """Replace `tensor` by that of the worker `source`; return it."""
        if self.size > 1:
            self._count("broadcast", (self.size - 1) * payload(tensor))
            self._broadcast(tensor, source)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all workers, stacked by rank: shape (size, *tensor.shape)."""
        if self.size == 1:
            return tensor.clone().unsqueeze(0)
        self._count("all_gather", self.size * (self.size - 1) * payload(tensor))
        return self._all_gather(tensor)

    def all_to_all(self, tensor: Tensor) -> Tensor:
        """Send the r-th part of `tensor` to each worker r; return the parts that came from all, stacked by rank.

        The first dimension has `size` parts, here and there.
        """
        if self.size == 1:
            return tensor.clone()
        self._count("all_to_all", (self.size - 1) * payload(tensor))
        return self._all_to_all(tensor)

    def barrier(self) -> None:
        """Wait until all workers have come here."""
        if self.size > 1:
            self._barrier()

    @abstractmethod
    def subgroup(self, parts: Sequence[Sequence[int]]) -> Communicator:
        """Divide the workers; return the part that this one is in.

        `parts` are disjoint lists of ranks that cover all, the same for every worker, and all call this together.
        """

    @abstractmethod
    def open_centre(self, handler: Handler) -> Callable[[Tensor], Tensor]:
        """Set up a centre with worker 0; return the function that sends it a request and returns the reply.

        A request is a flat float32 tensor on the CPU, so is the reply; `handler` answers one request at a time,
        in the process of worker 0 (all workers give one, only that of worker 0 is used). All call this together;
        requests need no other worker to take part.
        """

    @abstractmethod
    def clock(self) -> float:
        """Return this worker's clock, in seconds; on a virtual clock, the virtual ones."""

    def tick(self) -> None:  # noqa: B027 (only a virtual clock has to be moved)
        """Tell that an inner step is over."""

    def _count(self, collective: str, total: float) -> None:
        self.traffic.count(collective, total / self.size)

    @abstractmethod
    def _all_reduce(self, tensor: Tensor, op: Reduction) -> None: ...

    @abstractmethod
    def _broadcast(self, tensor: Tensor, source: int) -> None: ...

    @abstractmethod
    def _all_gather(self, tensor: Tensor) -> Tensor: ...

    @abstractmethod
    def _all_to_all(self, tensor: Tensor) -> Tensor: ...

    @abstractmethod
    def _barrier(self) -> None: ...


def payload(tensor: Tensor) -> int:
    """Return the bytes of the tensor's values."""
    return tensor.numel() * tensor.element_size()


def check_parts(parts: Sequence[Sequence[int]], size: int) -> None:
    """Raise ValueError unless `parts` are disjoint lists of ranks that cover 0 .. size - 1."""
    if sorted(rank for part in parts for rank in part) != list(range(size)):
        raise ValueError(f"the parts must hold each of the ranks 0 .. {size - 1} once, got {list(map(list, parts))}")


def blocks(size: int, width: int) -> list[list[int]]:
    """Divide the ranks 0 .. size - 1 into blocks of `width` neighbours; the last may be smaller."""
    return [list(range(start, min(start + width, size))) for start in range(0, size, width)]


def by_host(hosts: Sequence[str]) -> list[list[int]]:
    """Divide the ranks by the host that they are on, in the order of the first rank of each."""
    groups: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        groups.setdefault(host, []).append(rank)
    return list(groups.values())


def share_bytes(comm: Communicator, data: bytes, source: int) -> bytes:
    """Return the bytes that worker `source` gave; what the others give is not looked at."""
    length = comm.broadcast(torch.tensor([len(data)], dtype=torch.int64), source)
    own = comm.rank == source
    buffer = (
        torch.frombuffer(bytearray(data), dtype=torch.uint8) if own else torch.empty(int(length), dtype=torch.uint8)
    )
    return bytes(comm.broadcast(buffer, source).numpy().tobytes())
