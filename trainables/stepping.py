"""An inner step with what real trainings want of it: parts of a batch, clipping, float16, averaged weights.

`SteppingWorker` reads these of the config, whatever the strategy: `accumulate`, `max_grad_norm`, `precision`, `ema`,
`deterministic`, `evaluation`, `lean_checkpoints`. With none of them set, its step is that of `TrainingWorker`,
bit for bit.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tune_platform.distributed.member import Place
from tune_platform.distributed.strategy import Flat, Strategy
from tune_platform.distributed.worker import TrainingWorker, count_examples
from tune_platform.errors import SpecError
from tune_platform.trainables.runtime import check_step_options, deterministic

#: The options and what they are where the config does not say.
STEP_DEFAULTS: Mapping[str, Any] = {
    "accumulate": 1,
    "max_grad_norm": 0.0,
    "precision": "float32",
    "ema": 0.0,
    "deterministic": False,
    "evaluation": "first",
    "lean_checkpoints": False,
}


def check_step(config: Mapping[str, Any], strategy: Strategy) -> None:
    """Raise SpecError for an option that cannot be, or one that the strategy has no place for."""
    given = {**STEP_DEFAULTS, **config}
    check_step_options(given)
    if given["evaluation"] not in ("first", "sharded"):
        raise SpecError(f"evaluation: 'first' or 'sharded', got {given['evaluation']!r}")
    if given["evaluation"] == "sharded" and strategy.divided:
        raise SpecError(
            f"evaluation: strategy {strategy.name!r} has the whole model on worker 0 alone: leave it 'first'"
        )
    if given["accumulate"] > 1 and type(strategy).extra_loss is not Strategy.extra_loss:
        raise SpecError(
            f"accumulate: strategy {strategy.name!r} compares outputs of whole batches; use a smaller batch_size"
        )
    if given["ema"] and not strategy.replicated:
        raise SpecError(
            f"ema: takes a strategy whose workers are equal at every step, such as all_reduce, got {strategy.name!r}"
        )


class SteppingWorker(TrainingWorker):
    """Trains one worker's model with the options of `STEP_DEFAULTS`."""

    def __init__(self, recipe: Any, place: Place) -> None:
        self.options: dict[str, Any] = {**STEP_DEFAULTS, **self.given(recipe)}
        super().__init__(recipe, place)
        kind = torch.device(self.device).type
        self.scaler = torch.amp.GradScaler(kind, enabled=self.options["precision"] == "float16")
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._averages = Averages(self.model, float(self.options["ema"]))
        #: Whether a step differs from that of `TrainingWorker`.
        changed = (name for name in ("accumulate", "max_grad_norm", "ema") if self.options[name] != STEP_DEFAULTS[name])
        self._special = self.scaler.is_enabled() or any(changed)

    def given(self, recipe: Any) -> Mapping[str, Any]:
        """Return the options that are not the defaults: the config's."""
        config: Mapping[str, Any] = recipe.config
        return config

    def run(self, until: int) -> dict[str, Any]:
        """See `TrainingWorker.run`; with `deterministic`, an operation that is not raises RuntimeError."""
        with deterministic(bool(self.options["deterministic"])):
            return super().run(until)

    def train_on(self, batch: Any) -> Tensor:
        """Take one inner step on a batch, in as many parts as `accumulate` says; return its mean loss."""
        if not self._special:
            return super().train_on(batch)
        strategy, optimizer, scaler = self.strategy, self.optimizer, self.scaler
        optimizer.zero_grad(set_to_none=True)
        parts = list(self.parts(batch))
        mean = torch.zeros((), device=self.device)
        for number, (part, share) in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else _no_exchange(strategy.module):
                loss, whole = self.losses(part)
                scaler.scale(whole * share).backward()  # type: ignore[no-untyped-call]
            mean += loss.detach() * share
        strategy.after_backward()
        if self.options["max_grad_norm"]:
            scaler.unscale_(optimizer)
            self.clip(float(self.options["max_grad_norm"]))
        scaler.step(optimizer)
        scaler.update()
        self._averages.update()
        return mean

    def parts(self, batch: Any) -> Iterator[tuple[Any, float]]:
        """Give a batch in as many parts as `accumulate` says, each with its share of the loss."""
        examples = count_examples(batch)
        return ((part, count_examples(part) / examples) for part in split(batch, int(self.options["accumulate"])))

    def clip(self, norm: float) -> None:
        """Scale the gradients down to a `norm`, where theirs is larger."""
        nn.utils.clip_grad_norm_(self._parameters, norm)

    # evaluation

    def evaluate(self) -> dict[str, Any] | None:
        """Return the metrics: of averaged weights where there are any; each worker a share, where `sharded`."""
        self.recipe.at_end = self.updates >= self.total_updates  # type: ignore[attr-defined]
        with self._averages.standing_in():
            if self.options["evaluation"] == "first" or self.comm.size == 1:
                return super().evaluate()
            with self._stream(self.context.seed, "evaluate"), self.strategy.evaluated() as model:
                return self._evaluate_together(model)

    def _evaluate_together(self, model: nn.Module | None) -> dict[str, Any] | None:
        """Give the model to all workers, have each judge a share of the data, and add up."""
        comm = self.comm
        have = comm.all_gather(torch.tensor([float(model is not None)]))[:, 0]
        source = int(have.argmax())
        own = self.model if model is None else model
        values = Flat([t for t in own.state_dict().values() if t.is_floating_point()])
        before = values.read()
        values.write(comm.broadcast(before.clone(), source))
        training = own.training
        own.eval()
        try:
            sums: Mapping[str, tuple[float, float]] = self.recipe.evaluate_share(own, comm.rank, comm.size)  # type: ignore[attr-defined]
        finally:
            own.train(training)
            values.write(before)
        totals = comm.all_reduce(torch.tensor(list(sums.values()), dtype=torch.float64), "sum")
        if comm.rank != source:
            return None
        return {name: float(total / count) for name, (total, count) in zip(sums, totals.tolist(), strict=True)}

    # checkpoints

    @property
    def keeps_optimizer(self) -> bool:
        """See `TrainingWorker.keeps_optimizer`: after the last step, only a longer training has use for it."""
        return not self.options["lean_checkpoints"] or self.updates < self.total_updates

    def state(self) -> bytes:
        """See `TrainingWorker.state`; the scale of float16 and the averaged weights are part of it."""
        plain = super().state()
        if not self._averages.decay and not self.scaler.is_enabled():
            return plain
        state = torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
        state["stepping"] = {"scaler": self.scaler.state_dict(), "averages": self._averages.state()}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    def load(self, own: bytes, model: bytes | None, exact: bool) -> None:
        """See `TrainingWorker.load`."""
        super().load(own, model, exact)
        state = torch.load(io.BytesIO(own), map_location="cpu", weights_only=True).get("stepping")
        if state is not None and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self._averages.load(state["averages"] if state is not None else [])


class Averages:
    """An exponential average of a model's trained parameters; with a `decay` of 0 there is none."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._values = [p.detach().clone() for p in self._parameters] if decay else []

    def update(self) -> None:
        """Take a step towards the parameters as they are."""
        if self._values:
            torch._foreach_lerp_(self._values, [p.detach() for p in self._parameters], 1 - self.decay)

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Have the model hold the averages, where there are any."""
        if not self._values:
            yield
            return
        before = [p.detach().clone() for p in self._parameters]
        _put(self._parameters, self._values)
        try:
            yield
        finally:
            _put(self._parameters, before)

    def stay(self) -> None:
        """Give the model the averages for good."""
        _put(self._parameters[: len(self._values)], self._values)

    def state(self) -> list[Tensor]:
        """Return the averages, for a checkpoint."""
        return self._values

    def load(self, values: Sequence[Tensor]) -> None:
        """Go on from what `state` returned; without any, from the parameters as they are."""
        if self._values:
            _put(self._values, values or self._parameters)


def split(batch: Any, parts: int) -> list[Any]:
    """Return a batch in `parts` (fewer, where it has not as many examples), along the first axis of its tensors."""
    if parts == 1:
        return [batch]
    if isinstance(batch, Tensor):
        return list(batch.tensor_split(min(parts, len(batch))))
    if isinstance(batch, Mapping):
        pieces = {key: split(value, parts) for key, value in batch.items()}
        return [dict(zip(pieces, each, strict=True)) for each in zip(*pieces.values(), strict=True)]
    if isinstance(batch, Sequence):
        return [list(each) for each in zip(*(split(value, parts) for value in batch), strict=True)]
    raise TypeError(f"a batch that is computed in parts is of tensors in lists or dicts, got {type(batch).__name__}")


def _no_exchange(module: nn.Module) -> AbstractContextManager[Any]:
    """Return the context in which DDP keeps gradients to itself, where the module is one of it."""
    context: AbstractContextManager[Any] = getattr(module, "no_sync", nullcontext)()
    return context


@torch.no_grad()
def _put(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for target, value in zip(into, values, strict=True):
        target.copy_(value)
