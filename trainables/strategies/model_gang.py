"""Several models in one gang: who trains which, what each worker holds of the others, and how a model survives.

What the models learn from each other is a subclass's (see `codistillation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tune_platform.distributed.data import Position
from tune_platform.distributed.strategy import Strategy
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.model_groups import ModelGroups, Seat, admit, spread
from tune_platform.trainables.strategies.peer_copies import PeerCopies, pack, unpack

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker

#: In place of a step: a model was not sent to the others yet.
NEVER = -1


class ModelGang(Strategy):
    """A gang of groups, each of which trains a model data-parallel; every worker may hold copies of other models.

    A subclass calls `form` in its `__init__`.
    """

    def form(self, models: int, *, evaluate: int = 0, common: bool = False, batch_statistics: bool = False) -> None:
        """Have so many models, of which `evaluate` is the one to deploy.

        `common`: each model sees all data and the workers of a group their shares, else each worker its own share of
        all. `batch_statistics`: see `PeerCopies`.
        """
        self.models, self._evaluate, self._common = models, evaluate, common
        self._batch_statistics = batch_statistics
        #: Of each model, the step at which it was last sent to the others.
        self.published = [NEVER] * models
        self.groups: ModelGroups | None = None
        self._width = 0  # shares that the data of a group are divided into
        self._checked = False  # whether the models were seen to have the same batches

    # the gang and its groups

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`. Raises SpecError where the workers cannot be divided among the models."""
        super().setup(worker)
        self.copies = PeerCopies(self._new_model, self._batch_statistics)
        if not worker.place.fresh:
            self._width = worker.comm.size // self.models
            self._sit(self._first_seats())

    def _first_seats(self) -> list[Seat]:
        size = self.worker.comm.size
        if size % self.models and not self.worker.place.fresh:
            raise SpecError(
                f"strategy {self.name!r}: {size} workers cannot be divided among {self.models} models; choose workers "
                f"as a multiple of models, such as workers={max(1, round(size / self.models)) * self.models}"
            )
        return spread(range(self.models), size)

    def _sit(self, seats: Sequence[Seat]) -> None:
        """Form the groups. On all workers together."""
        if self.groups is not None:
            self.groups.close()
        self.groups = ModelGroups(self.worker, seats)
        self._checked = False

    @property
    def _at(self) -> ModelGroups:
        assert self.groups is not None, "a worker that joins has its place after on_membership_change"
        return self.groups

    @property
    def evaluated_model(self) -> int:
        """The model that is evaluated: the named one, or the lowest that lives where that is lost."""
        return self._evaluate if self._evaluate in self._at.living else min(self._at.living)

    def seed_purpose(self, rank: int) -> str:
        """Equal within a group; model 0 begins as it would under any other strategy."""
        model = self._first_seats()[rank].model
        return f"model-{model}" if model else "model"

    def data_share(self, rank: int, size: int) -> tuple[int, int]:
        """See `Strategy.data_share`; a group's shares where the data are common."""
        if not self._common:
            return super().data_share(rank, size)
        seats = self.groups.seats if self.groups is not None else self._first_seats()
        return seats[rank].share, self._width or max(1, size // self.models)

    @property
    def module(self) -> nn.Module:
        """See `Strategy.module`."""
        return self._at.average.module

    @contextmanager
    def running(self) -> Iterator[None]:
        """See `Strategy.running`."""
        with self._at.average.running():
            yield

    def after_backward(self) -> None:
        """See `Strategy.after_backward`."""
        self._at.average.after_backward()

    def let_go(self) -> None:
        """See `Strategy.let_go`."""
        if self.groups is not None:
            self.groups.close()

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module | None]:
        """Give one named model, on the leader of its group."""
        yield self.worker.model if self._at.leads(self.evaluated_model) else None

    # state

    def state_dict(self) -> dict[str, Any]:
        """See `Strategy.state_dict`: the seats, and the copies with the steps that they are of."""
        return {
            "seats": [list(seat) for seat in self._at.seats],
            "rank": self._at.rank,
            "width": self._width,
            "published": list(self.published),
            "checked": self._checked,
            "copies": {str(model): pack(self.copies[model]) for model in self.copies},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned; of another number of workers, models are spread over them anew.

        Copies are then exchanged at the next step, and a model that was lost begins again from its copy.
        """
        saved = [Seat(*seat) for seat in state["seats"]]
        exact = len(saved) == self.worker.comm.size
        seats = saved if exact else self._new_seats(state, self.worker.comm.size)
        if self._at.seats != tuple(seats):
            self._sit(seats)
        self._width = state["width"] if exact else self._width
        self._checked = state["checked"] and exact
        self.published = list(state["published"]) if exact else [NEVER] * self.models
        self.copies.clear()
        if exact:
            for model, vector in state["copies"].items():
                self.copies.put(int(model), vector)
        elif saved[state["rank"]].model != self._at.seat.model:
            unpack(state["copies"][str(self._at.seat.model)], self.worker.model)
            self.worker.optimizer.state.clear()
        if self._common:
            self._build_data()

    def sources(self, state: Mapping[str, Any], saved: int, workers: int) -> list[int]:
        """See `Strategy.sources`. Raises SpecError for fewer workers than models."""
        groups: dict[int, list[int]] = {}
        for rank, (model, _) in enumerate(state["seats"]):
            groups.setdefault(model, []).append(rank)
        found = []
        for seat in self._new_seats(state, workers):
            ranks = groups.get(seat.model, [0])  # a lost one's copy is with all of them
            found.append(ranks[seat.share % len(ranks)])
        return found

    def _new_seats(self, state: Mapping[str, Any], workers: int) -> list[Seat]:
        models = sorted({model for model, _ in state["seats"]} | {int(model) for model in state["copies"]})
        if workers < len(models):
            raise SpecError(
                f"strategy {self.name!r}: the checkpoint holds {len(models)} models, this trial has {workers} workers; "
                f"set workers to at least {len(models)}"
            )
        return spread(models, workers)

    def _build_data(self) -> None:
        share = self.data_share(self.worker.comm.rank, self.worker.comm.size)
        with self._generator("data"):
            self.worker.position = Position(self.worker.recipe.build_data(self.worker.config, *share))

    # membership

    def on_membership_change(self, newest: int) -> None:
        """Give those that joined a model, make groups equal in themselves, and have all copies exchanged anew."""
        worker, comm = self.worker, self.worker.comm
        seat = Seat(NEVER, NEVER) if worker.place.fresh else self._at.seat
        held = [self.published[model] if model in self.copies else NEVER for model in range(self.models)]
        own = [*seat, self._width, worker.position.epoch, worker.position.batch, *held]
        table: list[list[int]] = comm.all_gather(torch.tensor(own)).tolist()
        known = [Seat(*row[:2]) if row[0] != NEVER else None for row in table]
        lost = set(range(self.models)) - {seat.model for seat in known if seat is not None}
        holders = {model: max(range(comm.size), key=lambda rank: table[rank][5 + model]) for model in sorted(lost)}
        holders = {model: rank for model, rank in holders.items() if table[rank][5 + model] != NEVER}
        _, _, self._width, epoch, batch, *_ = table[newest]
        models = [*{seat.model for seat in known if seat is not None}, *holders]
        seats = admit(known, models, self._width)
        steps = {model: table[rank][5 + model] for model, rank in holders.items()}
        seated = {seat.model for seat in seats}
        self.published = [NEVER if model in seated else steps.get(model, NEVER) for model in range(self.models)]
        self._pass_on(holders, seats)
        self._sit(seats)
        self._at.average.align()
        if self._common:
            if worker.place.fresh:
                self._build_data()
            if (worker.position.epoch, worker.position.batch) != (epoch, batch):
                worker.position.load_state_dict({"epoch": epoch, "batch": batch, "generator": None})

    def _pass_on(self, holders: Mapping[int, int], seats: Sequence[Seat]) -> None:
        """Give all workers the same copies of the lost models; to who takes one's place, its parameters."""
        comm, vectors = self.worker.comm, {}
        for model, holder in holders.items():
            vector = pack(self.copies[model] if comm.rank == holder else self.worker.model)
            vectors[model] = comm.broadcast(vector, holder)
        self.copies.clear()
        for model, vector in vectors.items():
            if seats[comm.rank].model == model:
                unpack(vector, self.worker.model)
            elif model not in {seat.model for seat in seats}:
                self.copies.put(model, vector)

    def _new_model(self) -> nn.Module:
        with self._generator("copy"):  # its parameters are overwritten: only the architecture counts
            return self.worker.recipe.build_model(self.worker.config).to(self.worker.device)

    @contextmanager
    def _generator(self, purpose: str) -> Iterator[None]:
        with self.worker._stream(self.worker.context.seed, purpose):
            yield
