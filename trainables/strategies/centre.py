"""What EASGD, EAMSGD and DOWNPOUR share: a set of parameters, the centre, that no worker trains but all move.

Together (`asynchronous` false): every `period` steps all workers meet in one all-reduce, and each keeps the same copy
of the centre. Asynchronously: worker 0 holds the centre (in float32 on its CPU) and answers one worker at a time; a
worker comes every `period` steps of its own, and waits for nobody.

One exchange is one message there and one back, N values each, so that what a worker reads and what it adds belong
together. The authors' code sends fetch and push apart, without a lock: same bytes, but others may come in between.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tune_platform.distributed.strategy import (
    Flat,
    Strategy,
    option_flag,
    option_number,
    option_period,
)
from tune_platform.trainables.strategies.averaging import widened
from tune_platform.trainables.strategies.batchnorm import standing_in
from tune_platform.trainables.strategies.pricing import steps_of

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


#: The share of its time that a worker spends at most on asking whether the run is over.
_PATIENCE = 0.01


class CentreStrategy(Strategy):
    """Base class of the strategies with a centre, which is what they evaluate.

    Options that all have:

    - `period`: steps of a worker between its exchanges (below 1: a share of the training);
    - `asynchronous`: whether each worker exchanges in its own time;
    - `batchnorm_batches`: training batches to record BatchNorm's statistics for the centre on, None: an epoch. The
      centre consists of parameters only; running statistics are never exchanged.

    When a worker is lost, what it did since its last exchange is lost with it and the centre stays; the others go on.
    One that joins begins at the centre.

    Asynchronously a run ends for all when the first worker has come to the step `until`: a slow worker is not waited
    for, it just takes fewer steps. The others hear of it with an exchange, or by a question to worker 0 (4 bytes, and
    an answer as long), which a worker asks before a step where its waiting for answers takes at most `_PATIENCE` of
    its time.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "period": 16,
        "asynchronous": False,
        "batchnorm_batches": None,
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self.asynchronous = option_flag(self.name, self.options, "asynchronous")
        self._batches: int | None = None
        if self.options["batchnorm_batches"] is not None:
            self._batches = int(option_number(self.name, self.options, "batchnorm_batches", 1, integer=True))
        option_period(self.name, self.options, "period", 1)  # a mistake is found before any worker starts
        self._furthest = 0  # step of the worker that is furthest, as far as this one has heard
        self._request: Callable[[Tensor], Tensor] | None = None
        self._next_question = 0.0  # on the worker's clock

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        super().setup(worker)
        self.period = option_period(self.name, self.options, "period", worker.total_updates)
        self.flat = Flat(self.parameters)
        self.centre = widened(self.flat.read())  # a low precision would swallow the small steps of a mean
        if not worker.place.fresh:
            self._open()

    def _open(self) -> None:
        if self.asynchronous:
            self.centre = self.centre.to("cpu", torch.float32)
            self._request = self.worker.comm.open_centre(self._handle)

    # the exchange

    @abstractmethod
    def together(self, vector: Tensor) -> Tensor:
        """Exchange `vector` with all workers and move the centre; return the reply. May change `vector`.

        Both are in at least single precision.
        """

    @abstractmethod
    def serve(self, vector: Tensor) -> Tensor:
        """Move the centre, here on worker 0, by what one worker sent; return the reply, which must not be the centre.

        Both are vectors of N values in float32 on the CPU.
        """

    def exchange(self, vector: Tensor) -> Tensor:
        """Send `vector` to the centre, or to all, as the strategy is; return the reply."""
        if self._request is None:
            return self.together(widened(vector))
        return self._ask(vector, 0).to(widened(vector))

    def _ask(self, vector: Tensor, step: int) -> Tensor:
        assert self._request is not None
        reply = self._request(torch.cat([vector.to("cpu", torch.float32), torch.tensor([float(step)])]))
        self._furthest = int(reply[-1])
        return reply[:-1]

    def _handle(self, rank: int, request: Tensor) -> Tensor:
        """Answer a request on worker 0: N values and a 0, or the step that a worker has come to, alone."""
        self._furthest = max(self._furthest, int(request[-1]))
        reply = self.serve(request[:-1]) if len(request) > 1 else request[:0]
        return torch.cat([reply, torch.tensor([float(self._furthest)])])

    def go_on(self, until: int) -> bool:
        """See `Strategy.go_on`."""
        if self._request is None:
            return self.worker.updates < until
        clock, step = self.worker.comm.clock, self.worker.updates
        if step >= until or clock() >= self._next_question:
            began = clock()
            self._ask(self.centre.new_empty(0), step)
            self._next_question = clock() + (clock() - began) / _PATIENCE
        return self._furthest < until

    # the centre

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module | None]:
        """Give the model with the centre's parameters, on worker 0."""
        if self.worker.comm.rank:
            yield None
            return
        with standing_in(self.worker, self.centre.to(self.flat.tensors[0]), self._batches) as model:
            yield model

    def state_dict(self) -> dict[str, Any]:
        """Return the centre, where it is."""
        held = not self.asynchronous or self.worker.comm.rank == 0
        return {"centre": self.centre.clone() if held else None, "furthest": self._furthest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Strategy.load_state_dict`; asynchronously, only worker 0 has use for a centre."""
        self._furthest = int(state["furthest"])
        if state["centre"] is not None:
            self.centre = state["centre"].to(self.centre)

    def shared_tensors(self) -> list[Tensor]:
        """Return the centre, of which there is one copy with each worker, unless it is worker 0's."""
        return [] if self.asynchronous else [self.centre]

    def on_membership_change(self, newest: int) -> None:
        """Keep the centre: that of worker 0, or of `newest`. Who joined begins at it."""
        super().on_membership_change(newest)
        if self.asynchronous:
            # Only worker 0 has the centre, and it is never the one that joined.
            self.centre = self.worker.comm.broadcast(self.centre.to("cpu", torch.float32), 0)
            self._open()
        if self.worker.place.fresh:
            self.flat.write(self.centre.to(self.flat.tensors[0]))
            self._furthest = self.worker.updates

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """Return 8 N (W - 1) / period for the all-reduce; as much for N values to the centre and back, and little more.

        Asynchronously one value goes along, and a worker's step is told and answered before each step at most. Worker
        0 has the centre with it, and sends nothing. For a `period` that is a share of the training, `options` hold its
        inner steps as `updates`.
        """
        given = {**cls.DEFAULTS, **options}
        period = steps_of(cls.name, given)
        if given["asynchronous"]:
            return 8.0 * (workers - 1) * ((parameters + 1) / period + 1)
        return 8.0 * parameters * (workers - 1) / period
