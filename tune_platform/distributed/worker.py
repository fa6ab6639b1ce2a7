"""The training loop of one worker of a gang; the same for every strategy."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tune_platform.distributed.communicator import Communicator, share_bytes
from tune_platform.distributed.data import Position
from tune_platform.distributed.member import Place
from tune_platform.distributed.parts import is_here, write_part
from tune_platform.distributed.strategy import Flat, Strategy
from tune_platform.protocol.seeds import derive
from tune_platform.trainable import TrialContext

if TYPE_CHECKING:
    from tune_platform.distributed.trainable import DistributedTrainable


class TrainingWorker:
    """Trains one worker's model: batch, loss, gradient, inner step, and what the strategy makes of it.

    `updates` counts the inner steps of this worker. All random draws come from torch's generators, which the worker
    has to itself while it runs: it leaves the process's as they were.
    """

    def __init__(self, recipe: DistributedTrainable, place: Place) -> None:
        self.recipe, self.place = recipe, place
        self.config: Mapping[str, Any] = recipe.config
        self.context: TrialContext = recipe.context
        self.updates = 0
        #: Bytes of this training that its communicator has not counted; less those of the trials before.
        self.bytes_before = -place.comm.traffic.total
        self._state: list[Tensor] = []  # of torch's generators
        self._examples = 0
        self._loss: Tensor | None = None
        self._steps = 0
        self._started: tuple[float, float, float, float] | None = None  # clock, communication, waiting, bytes
        self.strategy: Strategy = recipe.build_strategy(self.config)
        # Where workers meet at each step, a message more would cost as much as it tells.
        place.comm.traffic.measure_waiting = not self.strategy.replicated
        self.strategy.worker = self
        seed, rank = self.context.seed, self.comm.rank
        with self._stream(seed, self.strategy.seed_purpose(rank)):
            self.model = recipe.build_model(self.config).to(self.device)
        # By rank, not by number: what a gang has gone through before is nothing to the trial.
        own = ("joined", place.worker) if place.fresh else ("worker", rank)
        with self._stream(seed, *own):
            self.position = self._own_data()
            self.total_updates = recipe.total_updates(self.config, self.position.data)
            self.optimizer = recipe.build_optimizer(self.config, self.model)
            self.scheduler = recipe.build_scheduler(self.config, self.optimizer, self.total_updates)
            self._output = _LastOutput()
            # Whether the strategy has a part in the loss: else no hook has to look at what the model returns.
            self._adds_loss = type(self.strategy).extra_loss is not Strategy.extra_loss
            if self._adds_loss:
                self.model.register_forward_hook(self._output)
            if not place.fresh:
                self.strategy.setup(self)
            self._state = _generator_states(self.device)

    def _own_data(self) -> Position:
        share = self.strategy.data_share(self.comm.rank, self.comm.size)
        return Position(self.recipe.build_data(self.config, *share))

    @property
    def comm(self) -> Communicator:
        """The gang's present communicator."""
        return self.place.comm

    @property
    def device(self) -> str:
        """The torch device of this worker."""
        return self.place.device

    @property
    def progress(self) -> float:
        """The share of the training that is done, 0 .. 1."""
        return self.updates / max(1, self.total_updates)

    def plan(self) -> tuple[int, int]:
        """Return how many inner steps the training has, and how many lie between reports."""
        return self.total_updates, self.recipe.report_every(self.config, self.position.data)

    def run(self, until: int) -> dict[str, Any]:
        """Train until the inner step `until`; return this worker's figures since the last time."""
        with self._own(), self.strategy.running():
            if self._started is None:
                self._started = self._figures()
            while self.strategy.go_on(until):
                self._step()
            self.strategy.finish_run()
        return self._collect()

    def _step(self) -> None:
        self.strategy.before_step()
        batch = self.recipe.to_device(self.position.next(), self.device)
        loss = self.train_on(batch).detach()
        if self.scheduler is not None:
            self.scheduler.step()
        self.updates += 1
        self._loss = loss.clone() if self._loss is None else self._loss.add_(loss)
        self._steps += 1
        self._examples += count_examples(batch)
        self.strategy.after_step(loss)
        self.comm.tick()

    def train_on(self, batch: Any) -> Tensor:
        """Take one inner step on a batch and return its loss. Override it for a step of another kind.

        The strategy's part is to be kept: its `module` is what the loss calls, `extra_loss` comes before the gradient
        and `after_backward` between gradient and optimizer.
        """
        loss, whole = self.losses(batch)
        self.optimizer.zero_grad(set_to_none=True)  # as late as in the reference loops
        whole.backward()  # type: ignore[no-untyped-call]
        self.strategy.after_backward()
        self.optimizer.step()
        return loss

    def losses(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and what is differentiated: the same with the strategy's part."""
        loss = self.recipe.loss(self.strategy.module, batch)
        if not self._adds_loss:
            return loss, loss
        extra = self.strategy.extra_loss(batch, self._output.value)
        return loss, loss if extra is None else loss + extra

    def predict(self, model: torch.nn.Module, batch: Any) -> Any:
        """Return what `model` returns inside the recipe's loss for this batch, without gradients."""
        caught: list[Any] = []
        handle = model.register_forward_hook(lambda module, args, output: caught.append(output))
        try:
            with torch.no_grad():
                self.recipe.loss(model, batch)
        finally:
            handle.remove()
        return caught[-1]

    def other_batches(
        self, purpose: str, count: int | None = None, *, common_epoch: int | None = None
    ) -> Iterator[Any]:
        """Give batches of this worker's data apart from the training's place in them: `count`, or one epoch.

        With `common_epoch`, batches of all of the data, the same on all workers: those of that epoch's order.
        """
        moment, share = self.updates, self.strategy.data_share(self.comm.rank, self.comm.size)
        if common_epoch is not None:
            moment, share = common_epoch, (0, 1)
        with self._stream(self.context.seed, purpose, moment):
            data = self.recipe.build_data(self.config, *share)
            position = Position(data)
            position.epoch = common_epoch or 0
            with closing(position):
                for _ in range(count if count is not None else self.recipe.epoch_length(data)):
                    yield self.recipe.to_device(position.next(), self.device)

    def evaluate(self) -> dict[str, Any] | None:
        """Return the metrics of the strategy's model, on the worker that has it; None on the others."""
        with self._stream(self.context.seed, "evaluate"), self.strategy.evaluated() as model:
            if model is None:
                return None
            training = model.training
            model.eval()
            try:
                return dict(self.recipe.evaluate(model))
            finally:
                model.train(training)

    # figures

    def _figures(self) -> tuple[float, float, float, float]:
        traffic = self.comm.traffic
        return self.comm.clock(), traffic.communication_s, traffic.waiting_s, traffic.total

    def _collect(self) -> dict[str, Any]:
        assert self._started is not None
        now = self._figures()
        clock, communication, waiting, sent = (new - old for new, old in zip(now, self._started, strict=True))
        steps = self._steps
        figures = {
            "worker": self.place.worker,
            "updates": self.strategy.steps_done(),
            "epoch": self.position.epoch + self.position.batch / max(1, self.recipe.epoch_length(self.position.data)),
            "steps": steps,
            "examples": self._examples,
            "loss": float(self._loss) / steps if self._loss is not None else float("nan"),
            "seconds": clock,
            "communication_s": communication,
            "waiting_s": waiting,
            "bytes": sent,
            "bytes_total": self.bytes_total(),
            "strategy": self.strategy.metrics(),
        }
        self._started, self._loss, self._steps, self._examples = None, None, 0, 0
        return figures

    def bytes_total(self) -> float:
        """Return the bytes that this worker has sent since the training began."""
        return self.bytes_before + self.comm.traffic.total

    # checkpoints

    @property
    def keeps_optimizer(self) -> bool:
        """Whether the optimizer's state is part of a checkpoint; without it, who loads it begins with a new one."""
        return True

    def state(self) -> bytes:
        """Return all that this worker needs to go on exactly, as `torch.save` writes it."""
        copy = not self.strategy.replicated or self.comm.rank == 0
        state = {
            "updates": self.updates,
            "slot": self.place.slot,
            "bytes": self.bytes_total(),
            "examples": self.position.batch * self.comm.size,
            "model": self.strategy.packed(self.model.state_dict()) if copy else None,
            "optimizer": self.strategy.packed(self.optimizer.state_dict()) if copy and self.keeps_optimizer else None,
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "position": self.position.state_dict(),
            "generators": self._state,
            "strategy": self.strategy.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    def save(self, path: str, sign: str) -> int | bytes:
        """Write `state` to a file, and return its size; where this worker cannot, return what it would have written."""
        state = self.state()
        return len(state) if write_part(Path(path), sign, state) else state

    def sees(self, directory: str, sign: str) -> bool:
        """Whether the checkpoint that the first worker has in this directory is there for this worker as well."""
        return is_here(Path(directory), sign)

    def load_from(self, own: bytes | str, model: bytes | str | None, exact: bool) -> None:
        """See `load`; a text is the path of a file."""
        state, shared = (Path(part).read_bytes() if isinstance(part, str) else part for part in (own, model))
        assert state is not None
        self.load(state, shared, exact)

    def load(self, own: bytes, model: bytes | None, exact: bool) -> None:
        """Go on from `own`, with model and optimizer of `model` where all workers share one copy.

        Not `exact`: the checkpoint is of another number of workers; the place in the data is the nearest one, the
        generators are new, and bytes count from here.
        """
        state = torch.load(io.BytesIO(own), map_location="cpu", weights_only=True)
        shared = torch.load(io.BytesIO(model), map_location="cpu", weights_only=True) if model is not None else state
        with self._own():
            self.updates = state["updates"]
            self.bytes_before = (state["bytes"] if exact else 0.0) - self.comm.traffic.total
            if exact and state["slot"] != self.place.slot:  # of a worker that had taken the place of another
                self.place.slot = state["slot"]
                self.position.close()
                self.position = self._own_data()
            self.model.load_state_dict(self.strategy.unpacked_model(shared["model"]))
            if shared["optimizer"] is not None:
                load_optimizer(self.optimizer, self.strategy.unpacked_optimizer(shared["optimizer"]))
            if self.scheduler is not None and state["scheduler"] is not None:
                load_scheduler(self.scheduler, state["scheduler"])
            self.strategy.load_state_dict(state["strategy"])
            if exact:
                self.position.load_state_dict(state["position"])
            else:
                self.position.move(state["position"], state["examples"], self.comm.size)
        if exact:
            self._state = state["generators"]
        else:
            with self._stream(self.context.seed, "worker", self.place.worker, self.updates):
                self._state = _generator_states(self.device)

    # membership

    def let_go(self) -> None:
        """Forget what holds the process group: a call has failed here."""
        self._output.value = None
        self.strategy.let_go()

    def close(self) -> None:
        """End what reads the data: worker and strategy know each other, and may lie in memory for a while."""
        self.position.close()

    def rejoin(self) -> int:
        """Agree with the others after some were lost or joined; return the inner steps that this worker skips.

        All then stand at the step of the one that is furthest: who is behind has its missing steps left out (but not
        where the strategy is asynchronous, and each worker's steps are its own). A worker
        that joined takes model, schedule and place in the data from there, and begins with a new optimizer state.
        """
        with self._own():
            fresh, comm = self.place.fresh, self.comm
            mine = torch.tensor([-1.0 if fresh else float(self.updates), float(fresh)], dtype=torch.float64)
            gathered = comm.all_gather(mine)
            newest = int(gathered[:, 0].argmax())
            skipped = 0
            if fresh or not self.strategy.asynchronous:
                skipped = int(gathered[newest, 0]) - self.updates if not fresh else 0
                self.updates = int(gathered[newest, 0])
            self._skip_schedule(skipped)
            if bool(gathered[:, 1].any()):
                self._take_in(newest)
            self.strategy.on_membership_change(newest)
            self.place.fresh = False
        return skipped

    def _take_in(self, newest: int) -> None:
        """Give model, schedule and place in the data of `newest` to those that joined."""
        comm, fresh = self.comm, self.place.fresh
        floats = Flat([t for t in self.model.state_dict().values() if t.is_floating_point()])
        vector = comm.broadcast(floats.read(), newest)
        schedule = self.scheduler.state_dict() if self.scheduler is not None else None
        place = {"epoch": self.position.epoch, "batch": self.position.batch, "generator": None}
        data = share_bytes(comm, pickle.dumps((schedule, place)), newest)
        if fresh:
            floats.write(vector)
            schedule, place = pickle.loads(data)
            if self.scheduler is not None and schedule is not None:
                self.scheduler.load_state_dict(schedule)
                for group, lr in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
                    group["lr"] = lr  # which the scheduler would only set at its next step
            self.position.load_state_dict(place)
            self.strategy.setup(self)

    def _skip_schedule(self, steps: int) -> None:
        """Move the schedule over steps that are left out: the learning rate goes by the count of all."""
        if self.scheduler is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the optimizer has not moved, where the very first is left out
                for _ in range(steps):
                    self.scheduler.step()

    @contextmanager
    def _own(self) -> Iterator[None]:
        """Have torch's global generators be this worker's own."""
        before = _generator_states(self.device)
        try:
            _set_generator_states(self._state, self.device)
            yield
        finally:
            self._state = _generator_states(self.device)
            _set_generator_states(before, self.device)

    @contextmanager
    def _stream(self, seed: int, *purpose: str | int) -> Iterator[None]:
        """Have torch's global generators be a stream of its own, for one purpose."""
        before = _generator_states(self.device)
        try:
            torch.manual_seed(derive(seed, *purpose))
            yield
        finally:
            _set_generator_states(before, self.device)


class _LastOutput:
    """Keeps what a model has returned; a hook that lets the model be copied, without the worker that it belongs to."""

    def __init__(self) -> None:
        self.value: Any = None

    def __call__(self, module: Any, args: Any, output: Any) -> None:
        self.value = output

    def __deepcopy__(self, memo: Any) -> _LastOutput:
        return _LastOutput()


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load buffers and steps; hyperparameters stay the config's own, which a clone may have changed.

    A learning rate keeps the factor that its schedule has brought it to.
    """
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, mine in zip(optimizer.param_groups, own, strict=True):
        lr, initial = group["lr"], group.get("initial_lr")
        group.update(mine)
        if "initial_lr" in mine:  # exactly the same one, where the config has not changed
            same = initial == mine["initial_lr"]
            group["lr"] = lr if same else mine["initial_lr"] * (lr / initial if initial else 1.0)


def load_scheduler(scheduler: Any, state: Mapping[str, Any]) -> None:
    """Load how far a schedule is; the rates that it starts from stay the config's own, which a clone may have changed.

    `load_optimizer` comes first. Schedulers inside others (SequentialLR, ChainedScheduler) are treated alike.
    """
    parts = _schedulers(scheduler)
    own = [list(getattr(part, "base_lrs", [])) for part in parts]
    scheduler.load_state_dict(dict(state))
    for part, rates in zip(parts, own, strict=True):
        if rates and rates != part.base_lrs:
            part.base_lrs = rates
            part._last_lr = [group["lr"] for group in part.optimizer.param_groups]


def _schedulers(scheduler: Any) -> list[Any]:
    inner = getattr(scheduler, "_schedulers", [])
    return [scheduler, *(part for each in inner for part in _schedulers(each))]


def count_examples(batch: Any) -> int:
    """Return the number of examples in a batch: the length of the first tensor in it (1 where there is none)."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return count_examples(batch[0]) if batch else 1
    if isinstance(batch, Mapping):
        return count_examples(next(iter(batch.values()), None))
    return 1


def _generator_states(device: str) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.startswith("cuda"):
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_generator_states(states: Sequence[Tensor], device: str) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1 and device.startswith("cuda"):
        torch.cuda.set_rng_state(states[1], device)
