"""Several models in one gang: which worker trains which, and the communicators inside and between their groups."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tune_platform.trainables.strategies.data_parallel import GradientAverage
from tune_platform.trainables.strategies.peer_copies import pack, packed_size

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class Seat(NamedTuple):
    """What a worker does: it trains `model`, as one of its group, on the `share`-th part of the group's data."""

    model: int
    share: int


def spread(models: Sequence[int], workers: int) -> list[Seat]:
    """Return the seats by rank: neighbours train the same model, so that a group lies within as few hosts as can be."""
    seats: list[Seat] = []
    taken: Counter[int] = Counter()
    for rank in range(workers):
        model = models[rank * len(models) // workers]
        seats.append(Seat(model, taken[model]))
        taken[model] += 1
    return seats


def admit(seats: Sequence[Seat | None], models: Iterable[int], width: int) -> list[Seat]:
    """Return the seats with each None given one: of the model with the fewest workers, on a share not yet taken."""
    found = list(seats)
    for rank, seat in enumerate(found):
        if seat is None:
            workers = Counter(seat.model for seat in found if seat is not None)
            model = min(models, key=lambda model: (workers[model], model))
            taken = {seat.share for seat in found if seat is not None and seat.model == model}
            free = [share for share in range(width) if share not in taken]
            found[rank] = Seat(model, free[0] if free else workers[model] % width)
    return [seat for seat in found if seat is not None]


def groups(seats: Sequence[Seat]) -> dict[int, list[int]]:
    """Return the ranks that train each model, by model; the first of each is its leader."""
    models = sorted({seat.model for seat in seats})
    return {model: [rank for rank, seat in enumerate(seats) if seat.model == model] for model in models}


def leaders(seats: Sequence[Seat]) -> list[list[int]]:
    """Divide the ranks: the leaders of all groups in one part, everybody else alone."""
    first = [ranks[0] for ranks in groups(seats).values()]
    return [sorted(first), *([rank] for rank in range(len(seats)) if rank not in first)]


def columns(seats: Sequence[Seat]) -> list[list[int]]:
    """Divide the ranks: the workers of different models that see the same share of the data are together."""
    parts: dict[int, dict[int, int]] = {}
    alone = []
    for rank, seat in enumerate(seats):
        column = parts.setdefault(seat.share, {})
        if seat.model in column:
            alone.append([rank])
        else:
            column[seat.model] = rank
    return [*(sorted(column.values()) for column in parts.values()), *alone]


class ModelGroups:
    """The groups of a gang by its `seats`. To be made on all workers together, anew when `worker.comm` has changed.

    `average` takes the mean of the gradients inside this worker's group.
    """

    def __init__(self, worker: TrainingWorker, seats: Sequence[Seat]) -> None:
        self._worker, self.seats = worker, tuple(seats)
        self.rank = worker.comm.rank
        self.ranks = groups(seats)
        #: The models that have a worker.
        self.living = tuple(self.ranks)
        self._leaders = sorted(ranks[0] for ranks in self.ranks.values())
        self.average = GradientAverage(worker, list(self.ranks.values()))
        self._between = worker.comm.subgroup(leaders(seats))
        parts = columns(seats)
        self._column_ranks = next(part for part in parts if self.rank in part)
        self._column = worker.comm.subgroup(parts)
        #: Bytes that this worker has sent to other groups.
        self.crossed = 0.0

    @property
    def seat(self) -> Seat:
        """This worker's model and share."""
        return self.seats[self.rank]

    def leads(self, model: int) -> bool:
        """Whether this worker is the leader of the model's group."""
        return self.ranks[model][0] == self.rank

    def send(self, model: int) -> Tensor | None:
        """Send a model's parameters and buffers to the leaders of the other groups: the vector there, else None."""
        if len(self.living) < 2 or self.rank not in self._leaders:
            return None
        vector = pack(self._worker.model) if self.seat.model == model else self._empty()
        source = self._leaders.index(self.ranks[model][0])
        return self._across(lambda: self._between.broadcast(vector, source))

    def publish(self, model: int) -> Tensor | None:
        """Send a model to all workers of the other groups, which get the vector; None for its own and where alone.

        From leader to leader, then inside each group: the links between groups are crossed once each.
        """
        vector = self.send(model)
        if self.seat.model == model or len(self.living) < 2:
            return None
        return self.average.comm.broadcast(vector if vector is not None else self._empty(), 0)

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return what the workers with the same share of the data in the other groups gave."""
        gathered = self._across(lambda: self._column.all_gather(values.contiguous()))
        return [given for rank, given in zip(self._column_ranks, gathered, strict=True) if rank != self.rank]

    def same(self, batch: Any) -> bool:
        """Return whether those who see the same share of the data have the same batch."""
        own = torch.tensor([digest(batch)])
        return all(bool(other == own) for other in self.gather(own))

    def close(self) -> None:
        """Let the worker's model go, before other groups are made."""
        self.average.close()

    def _empty(self) -> Tensor:
        return torch.empty(packed_size(self._worker.model), dtype=torch.uint8, device=self._worker.device)

    def _across(self, collective: Callable[[], Tensor]) -> Tensor:
        before = self._worker.comm.traffic.total
        found = collective()
        self.crossed += self._worker.comm.traffic.total - before
        return found


def digest(batch: Any) -> int:
    """Return a hash of the tensors in a batch."""
    found = hashlib.blake2b(digest_size=7)

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            found.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(part, Mapping):
            add(list(part.values()))
        elif isinstance(part, Sequence) and not isinstance(part, str):
            for each in part:
                add(each)

    add(batch)
    return int.from_bytes(found.digest(), "big")
