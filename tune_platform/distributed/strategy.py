"""How the workers of a gang agree: the one interface behind all-reduce, local SGD, leader SGD, codistillation ...

Every method is an inner step, now and then an exchange, and perhaps a further term of the loss. A strategy is told
of each and holds the state that goes with it; the training loop (`TrainingWorker`) knows no method.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tune_platform.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class Strategy:
    """Base class, and the strategy that never exchanges anything: each worker trains on its own.

    `DEFAULTS` are the hyperparameters of a strategy; `options` override them. Raises SpecError for an unknown one.
    Methods with a default here are hooks; those that communicate are called on all workers together, unless the
    strategy is `asynchronous`.
    """

    #: The name under which a config chooses it.
    name: ClassVar[str] = "independent"
    #: Its hyperparameters with their defaults.
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    #: Whether model and optimizer are the same on all workers after each step: one copy is saved.
    replicated: ClassVar[bool] = False
    #: Whether the trial goes on when a worker is lost (else it starts again from its checkpoint).
    survives: ClassVar[bool] = True
    #: Whether a checkpoint of W workers can be loaded by another number of them.
    elastic: ClassVar[bool] = True
    #: Whether each worker holds a part of the model, so that only together they have one.
    divided: ClassVar[bool] = False
    #: Whether workers go on without waiting for each other: no run repeats another bit for bit.
    asynchronous: bool = False

    worker: TrainingWorker

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        unknown = [name for name in options or {} if name not in self.DEFAULTS]
        if unknown:
            hint = did_you_mean(unknown[0], self.DEFAULTS)
            known = ", ".join(self.DEFAULTS) or "none"
            raise SpecError(f"strategy {self.name!r} has no option {unknown[0]!r}{hint}; it has: {known}")
        self.options: dict[str, Any] = {**self.DEFAULTS, **(options or {})}

    # What a strategy may look at, once it is set up.

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters of this worker's model."""
        return [p for p in self.worker.model.parameters() if p.requires_grad]

    def setup(self, worker: TrainingWorker) -> None:
        """Take the worker, whose model, optimizer and `comm` are ready; begin. Called once, before any step.

        On all workers together, except where one joins later: `worker.place.fresh` is true there, and what needs the
        others has to wait for `on_membership_change`.
        """
        self.worker = worker

    def data_share(self, rank: int, size: int) -> tuple[int, int]:
        """Return the (rank, world_size) for which a worker's data are built. Default: its slot in the gang.

        Ranks change when a worker is lost, slots do not: one that joins takes the data of the one that was lost.
        Asked before `setup`, as `seed_purpose` is: of the worker, only `place` and `comm` are there then.
        """
        return self.worker.place.slot, self.worker.place.slots

    def seed_purpose(self, rank: int) -> str:
        """Return what the initial parameters of a worker are drawn for: equal text, equal parameters."""
        return "model"

    @property
    def module(self) -> nn.Module:
        """What the loss calls: the model, or a wrapper around it."""
        return self.worker.model

    def go_on(self, until: int) -> bool:
        """Whether this worker should take another step of the run that ends at the step `until`."""
        return self.worker.updates < until

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hook: the context of all inner steps of a run; a wrapper's error for a lost worker becomes PeerLost here."""
        yield

    def steps_done(self) -> int:
        """Return how far the training is in inner steps of a worker; asynchronous, it may be the mean of them."""
        return self.worker.updates

    def before_step(self) -> None:
        """Hook: before the batch is drawn."""

    def extra_loss(self, batch: Any, output: Any) -> Tensor | None:
        """Return what is added to the loss; `output` is what the model returned for the batch."""
        return None

    def after_backward(self) -> None:
        """Hook: gradients are there, the optimizer has not moved yet."""

    def after_step(self, loss: Tensor) -> None:
        """Hook: the optimizer has moved, `worker.updates` counts this step. The exchange belongs here."""

    def finish_run(self) -> None:
        """Hook: a run is over, all workers are here; before evaluation and checkpoint."""

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module | None]:
        """Give the model that is evaluated and deployed, or None on workers that have none to evaluate.

        Default: the model of worker 0. Called on all workers together.
        """
        yield self.worker.model if self.worker.comm.rank == 0 else None

    def state_dict(self) -> dict[str, Any]:
        """Return all that this worker's strategy needs to go on: tensors, numbers, and dicts and lists of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned."""

    def packed(self, state: Any) -> Any:
        """Return a state dict of model or optimizer as this worker's checkpoint holds it."""
        return state

    def unpacked_model(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state dict of the model, of what `packed` returned."""
        return dict(state)

    def unpacked_optimizer(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state dict of the optimizer, of what `packed` returned."""
        return dict(state)

    def merged(self, states: Sequence[bytes]) -> Sequence[bytes]:
        """Return the saved states of all workers in a form that another number of workers can load.

        Asked of a strategy that was not set up. Default: as they are; one that is `divided` puts the parts together.
        """
        return states

    def sources(self, state: Mapping[str, Any], saved: int, workers: int) -> list[int]:
        """Return by rank which of the `saved` workers' states each of the `workers` takes.

        Asked of a strategy that was not set up; `state` is what the first saved worker's `state_dict` returned.
        """
        return [rank % saved for rank in range(workers)]

    def shared_tensors(self) -> list[Tensor]:
        """Return the state on which all workers must agree (anchor, outer buffer): sent anew when one is lost."""
        return []

    def on_membership_change(self, newest: int) -> None:
        """Hook: workers were lost or joined, `worker.comm` is new. All then hold what rank `newest` holds.

        Default: `shared_tensors` are taken from `newest`.
        """
        for tensor in self.shared_tensors():
            self.worker.comm.broadcast(tensor, newest)

    def let_go(self) -> None:
        """Hook: drop what holds `comm.group` (a DDP wrapper), so that peers notice that this worker has failed."""

    def metrics(self) -> dict[str, float]:
        """Return this worker's own figures for the report; the report has their mean over the workers."""
        return {}

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """Return the bytes over all links per inner step, float32, by the formula of the method."""
        return 0.0


class Flat:
    """A list of tensors seen as one vector: what is exchanged, in one collective."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)
        self.numel = sum(tensor.numel() for tensor in self.tensors)

    def read(self) -> Tensor:
        """Return a copy as one vector."""
        return torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors])

    def pairs(self, vector: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Give each tensor with its part of `vector`, in its shape."""
        start = 0
        for tensor in self.tensors:
            yield tensor, vector[start : start + tensor.numel()].view_as(tensor)
            start += tensor.numel()

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Put the values of `vector` into the tensors."""
        for tensor, part in self.pairs(vector):
            tensor.copy_(part)


def option_number(
    strategy: str, options: Mapping[str, Any], name: str, low: float, high: float = math.inf, integer: bool = False
) -> float:
    """Return a numeric option. Raises SpecError unless low <= value <= high (and whole, where `integer`)."""
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        reach = f"of at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise SpecError(f"strategy {strategy!r}: {name} is a number {reach}, got {value!r}")
    if integer and value != int(value):
        raise SpecError(f"strategy {strategy!r}: {name} is a whole number, got {value!r}")
    return int(value) if integer else float(value)


def option_period(strategy: str, options: Mapping[str, Any], name: str, total: int) -> int:
    """Return a period in inner steps, given as their number, or below 1 as a share of the `total` of a training.

    Raises SpecError for another value.
    """
    value = option_number(strategy, options, name, 0)
    if 0 < value < 1:
        return max(1, round(value * total))
    if value < 1 or value != int(value):
        raise SpecError(
            f"strategy {strategy!r}: {name} is a whole number of steps, or a share of the training between 0 and 1, "
            f"got {options[name]!r}"
        )
    return int(value)


def option_choice(strategy: str, options: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """Return an option that is one of several names. Raises SpecError for another."""
    value = options[name]
    if value not in known:
        hint = did_you_mean(str(value), known)
        raise SpecError(f"strategy {strategy!r}: {name} is one of {', '.join(known)}, got {value!r}{hint}")
    return str(value)


def option_flag(strategy: str, options: Mapping[str, Any], name: str) -> bool:
    """Return an option that is true or false. Raises SpecError for anything else."""
    value = options[name]
    if not isinstance(value, bool):
        raise SpecError(f"strategy {strategy!r}: {name} is true or false, got {value!r}")
    return value
