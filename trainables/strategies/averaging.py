"""What local SGD, SlowMo and DiLoCo have in common: rounds of inner steps, closed by an average over the workers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tune_platform.distributed.strategy import Flat, Strategy, option_choice, option_period
from tune_platform.trainables.strategies.data_parallel import float_buffers
from tune_platform.trainables.strategies.pricing import steps_of

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class Rounds(Strategy):
    """Base: each worker takes `period` inner steps on its own, then all `exchange`; the training's last step as well.

    Averaged are the trained parameters and the floating-point buffers (BatchNorm's statistics, not its counts), and
    by `inner_state` what the inner optimizer keeps for each parameter (momentum, Adam's moments): "local" to each
    worker (the default), their "average" too, or a "reset" to none.

    A worker that is lost in a round is not part of its average: those that are left exchange as soon as they have
    found each other, where its period is over, and at its end else. One that joins takes the parameters of another
    and begins with no inner state.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"period": 16, "inner_state": "local"}

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        option_period(self.name, self.options, "period", 1)
        self._inner_state = option_choice(self.name, self.options, "inner_state", ("local", "average", "reset"))

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        super().setup(worker)
        self.period = option_period(self.name, self.options, "period", worker.total_updates)
        self._flat = Flat([*self.parameters, *float_buffers(worker.model)])
        self._closed = worker.updates  # the inner step at which the last round ended
        self._distance: Tensor | None = None

    @abstractmethod
    def exchange(self, mean: Tensor) -> Tensor:
        """Return the parameters and buffers, as one vector, that all workers begin the next round with."""

    def before_step(self) -> None:
        """Close a round that a lost worker has left open."""
        self._close()

    def after_step(self, loss: Tensor) -> None:
        """Close the round after `period` steps."""
        self._close()

    def finish_run(self) -> None:
        """Close a round that a lost worker has left open."""
        self._close()

    def _close(self) -> None:
        steps, last = self.worker.updates - self._closed, self.worker.updates == self.worker.total_updates
        if steps >= self.period or (steps > 0 and last):
            own = self._flat.read()
            mean = self._average()
            self._distance = torch.linalg.vector_norm(mean - own)
            self._flat.write(self.exchange(mean))
            self._closed = self.worker.updates

    def _average(self) -> Tensor:
        """Return the mean over the workers, in at least single precision; treat the inner state as is chosen."""
        optimizer = self.worker.optimizer
        inner = Flat(optimizer_tensors(optimizer) if self._inner_state == "average" else [])
        own = self._flat.read()
        sent = torch.cat([own, inner.read()]) if inner.tensors else own
        mean = self.mean_of(widened(sent))
        if inner.tensors:
            inner.write(mean[self._flat.numel :])
        if self._inner_state == "reset":
            optimizer.state.clear()
        return mean[: self._flat.numel]

    def mean_of(self, vector: Tensor) -> Tensor:
        """Return the mean over the workers of what a round exchanges: parameters first, then the rest."""
        return self.worker.comm.all_reduce(vector)

    @property
    def agreed(self) -> bool:
        """Whether all workers have the same parameters and buffers at this step."""
        return self._closed == self.worker.updates or self.worker.updates == 0

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module | None]:
        """Give the mean of the workers."""
        mean = None if self.agreed else self.worker.comm.all_reduce(widened(self._flat.read()))
        with lent(self._flat, mean if self.worker.comm.rank == 0 else None):
            yield self.worker.model if self.worker.comm.rank == 0 else None

    def state_dict(self) -> dict[str, Any]:
        """Return when the last round ended."""
        return {"closed": self._closed, "distance": self._distance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self._closed, self._distance = int(state["closed"]), state["distance"]

    def on_membership_change(self, newest: int) -> None:
        """Agree on the round; where `newest` has just closed one, all begin the next with its parameters."""
        super().on_membership_change(newest)
        comm = self.worker.comm
        self._closed = int(comm.broadcast(torch.tensor([self._closed]), newest))
        if self.agreed:
            self._flat.write(comm.broadcast(self._flat.read(), newest))

    def metrics(self) -> dict[str, float]:
        """Return `distance_to_mean`: how far this worker was from the mean when the last round ended."""
        return {} if self._distance is None else {"distance_to_mean": float(self._distance)}

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """Return 8 N (W - 1) / H; with the average of one buffer per parameter (SGD's momentum) twice as much.

        For a period that is a share of the training, `options` hold its inner steps as `updates`.
        """
        options = {**cls.DEFAULTS, **options}
        period = steps_of(cls.name, options)
        return 8.0 * parameters * (workers - 1) * (2 if options["inner_state"] == "average" else 1) / period


class Anchored(Rounds):
    """Base: rounds that move an anchor, from which all workers begin each of them, and which is evaluated.

    `outer` is a vector of the parameters' size: a momentum that all workers agree on. Both are in at least single
    precision, and lost with no worker: each has them.
    """

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        super().setup(worker)
        self._anchor = widened(self._flat.read())
        self._trained = sum(p.numel() for p in self.parameters)
        self._outer = torch.zeros_like(self._anchor[: self._trained])

    def exchange(self, mean: Tensor) -> Tensor:
        """Move the anchor; its buffers are the workers' mean."""
        moved = self.move(self._anchor[: self._trained], mean[: self._trained])
        self._anchor = torch.cat([moved, mean[self._trained :]])
        return self._anchor

    @abstractmethod
    def move(self, anchor: Tensor, mean: Tensor) -> Tensor:
        """Return where the anchor goes, given the mean of the workers that began from it; update `_outer`."""

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module | None]:
        """Give the anchor, as it was when the last round ended."""
        first = self.worker.comm.rank == 0
        with lent(self._flat, self._anchor if first and not self.agreed else None):
            yield self.worker.model if first else None

    def shared_tensors(self) -> list[Tensor]:
        """Return the anchor and the outer buffer."""
        return [self._anchor, self._outer]

    def state_dict(self) -> dict[str, Any]:
        """Return the round, the anchor and the outer buffer."""
        return {**super().state_dict(), "anchor": self._anchor, "outer": self._outer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned."""
        super().load_state_dict(state)
        self._anchor, self._outer = state["anchor"].to(self._anchor.device), state["outer"].to(self._outer.device)

    def metrics(self) -> dict[str, float]:
        """Return also `outer_norm`, of the outer buffer."""
        found = super().metrics()
        return {**found, "outer_norm": float(torch.linalg.vector_norm(self._outer))} if found else {}


def widened(vector: Tensor) -> Tensor:
    """Return the vector in at least single precision, to add up in."""
    return vector.to(torch.promote_types(vector.dtype, torch.float32))


def towards(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Return start + share (end - start); `end` itself, bit for bit, where `share` is 1."""
    return end if share == 1 else torch.lerp(start, end, share)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return what the optimizer keeps for each entry of each parameter; counts of steps are left out."""
    return [
        value
        for group in optimizer.param_groups
        for parameter in group["params"]
        for name, value in sorted(optimizer.state.get(parameter, {}).items())
        if isinstance(value, Tensor) and name != "step" and value.shape == parameter.shape
    ]


@contextmanager
def lent(flat: Flat, values: Tensor | None) -> Iterator[None]:
    """Have the tensors of `flat` hold other values, if there are any; then, bit for bit, what they held before."""
    if values is None:
        yield
        return
    before = [tensor.detach().clone() for tensor in flat.tensors]
    flat.write(values)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, own in zip(flat.tensors, before, strict=True):
                tensor.copy_(own)
