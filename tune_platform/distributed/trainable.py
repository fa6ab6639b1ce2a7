"""A trial that is a distributed training job: write the usual torch, and how the workers agree is in the config."""

from __future__ import annotations

import io
import itertools
import json
import logging
import math
import secrets
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tune_platform.distributed.communicator import PeerLost
from tune_platform.distributed.gang import Gang
from tune_platform.distributed.group import WorkerGroup
from tune_platform.distributed.member import Answer, Place
from tune_platform.distributed.parts import META, part_name
from tune_platform.distributed.strategy import Strategy
from tune_platform.distributed.worker import TrainingWorker
from tune_platform.errors import SpecError, did_you_mean
from tune_platform.trainable import DONE, Trainable, TrialContext

logger = logging.getLogger(__name__)

#: Times in a row that a run is taken up again after a loss, before the trial fails.
_ATTEMPTS = 10


def _workers(config: Mapping[str, Any]) -> int:
    """Return the `workers` of a config, 1 where it has none. Raises SpecError for what is no number of workers."""
    count = config.get("workers", 1)
    if isinstance(count, bool) or not isinstance(count, (int, float)) or count != count // 1 or count < 1:
        raise SpecError(f"workers: a whole number, 1 or more, got {count!r}")
    return int(count)


class DistributedTrainable(Trainable):
    """Data-parallel training by a gang of workers. Override `build_model`, `build_data`, `loss`, `evaluate`.

    These run on every worker, on an object of this class of its own. `config["strategy"]` says how the workers
    agree: a name, or a dict with a `name` and the strategy's options. The number of workers is that of the trial's
    resources (`Resources(workers=...)`); by hand, `config["workers"]` threads of this process.

    Each `step` trains for `report_every` inner steps and evaluates once. Reported beside the metrics of `evaluate`:
    `train_loss`, `updates` (inner steps), `epoch`, `workers`, `workers_lost`, `samples_per_s`, `bytes_per_step` and
    `bytes_sent` (over all links, the latter since the beginning), and per inner step in seconds `step_s`,
    `compute_s`, `communication_s`, `waiting_s`; `slowest_worker` and `slowest_ratio` (its compute time over the
    median's, of two workers over the other's) name a straggler.

    When a worker is lost, a strategy that `survives` goes on with the others; `replace_lost` has a new worker
    join at the next report. Raises PeerLost, so that the trial starts again from its checkpoint, where the strategy
    does not survive it, fewer than `min_workers` are left, or the first worker is the one that is lost.
    """

    uses_gang = True
    strategies: ClassVar[Mapping[str, type[Strategy]]] = {Strategy.name: Strategy}
    #: The class that trains on each worker; replace it for a loop of your own.
    worker_class: ClassVar[type[TrainingWorker]] = TrainingWorker
    #: Seconds that every collective, and a worker that is later than the first, may take.
    collective_timeout_s: float = 60.0
    #: Seconds that an evaluation, which one worker does while the others wait, may take.
    evaluation_timeout_s: float = 3600.0
    #: Where neither the config, nor the scheduler, nor `stop` says when a training ends.
    default_epochs: ClassVar[int] = 10
    #: Seconds that a worker may be later than the first one with its part of a checkpoint.
    checkpoint_timeout_s: float = 600.0
    replace_lost: bool = True
    min_workers: int = 1

    _names = itertools.count()

    # What a user writes; runs on each worker.

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the model, with its initial parameters drawn from torch's global generator."""
        raise NotImplementedError(f"{type(self).__name__}.build_model(config) is missing: return an nn.Module")

    def build_optimizer(self, config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
        """Return the inner optimizer. Default: SGD with `lr`, `momentum` and `weight_decay` of the config."""
        return torch.optim.SGD(
            model.parameters(), lr=float(config.get("lr", 0.1)), momentum=float(config.get("momentum", 0.0)),
            weight_decay=float(config.get("weight_decay", 0.0)), nesterov=bool(config.get("nesterov", False)),
        )  # fmt: skip

    def build_scheduler(
        self, config: Mapping[str, Any], optimizer: torch.optim.Optimizer, total: int
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Return the learning-rate schedule, stepped after each of `total` inner steps; None: a constant rate."""
        return None

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Iterable[Any]:
        """Return this worker's batches of one epoch: a DataLoader, `ShardedBatches`, any iterable that starts anew."""
        raise NotImplementedError(
            f"{type(self).__name__}.build_data(config, rank, world_size) is missing: return an iterable of batches"
        )

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss of the batch. Call `model` once; codistillation compares what it returns."""
        raise NotImplementedError(f"{type(self).__name__}.loss(model, batch) is missing: return a scalar tensor")

    def evaluate(self, model: nn.Module) -> Mapping[str, Any]:
        """Return the metrics of a model, which is in eval mode. Runs on one worker."""
        return {}

    def total_updates(self, config: Mapping[str, Any], data: Iterable[Any]) -> int:
        """Return the inner steps of a whole training. Default: `updates`, or `epochs`, of the config.

        Where it has neither, the training ends where the scheduler, or the spec's `stop`, ends it at the latest: the
        first of `updates`, `epoch` and `step` (reports) that one of them counts; else after `default_epochs`.
        """
        latest = self.context.horizon
        if "updates" in config or ("updates" in latest and "epochs" not in config):
            return math.ceil(float(config.get("updates", latest.get("updates"))))
        if "epochs" not in config and "epoch" not in latest and "step" in latest:
            return math.ceil(latest["step"]) * self.report_every(config, data)
        return math.ceil(float(config.get("epochs", latest.get("epoch", self.default_epochs)))) * self.epoch_length(
            data
        )

    def report_every(self, config: Mapping[str, Any], data: Iterable[Any]) -> int:
        """Return the inner steps between two reports. Default: `report_every` of the config, else one epoch."""
        return int(config.get("report_every", self.epoch_length(data)))

    def next_report(self, updates: int) -> int:
        """Return the inner step of the report that follows `updates`. Default: the next multiple of `report_every`."""
        return (updates // self._every + 1) * self._every

    def epoch_length(self, data: Iterable[Any]) -> int:
        """Return the batches of one epoch. Raises TypeError for data without a length."""
        return len(data)  # type: ignore[arg-type]

    def to_device(self, batch: Any, device: str) -> Any:
        """Return the batch on the device; tensors in tuples, lists and dicts are moved."""
        if isinstance(batch, Tensor):
            return batch if batch.is_cpu and device == "cpu" else batch.to(device, non_blocking=True)
        if isinstance(batch, (tuple, list)):
            return [self.to_device(value, device) for value in batch]
        if isinstance(batch, Mapping):
            return {key: self.to_device(value, device) for key, value in batch.items()}
        return batch

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise SpecError for a config that cannot be, a misspelt name for one. Called before a worker is busy."""

    @classmethod
    def rigid(cls, config: Mapping[str, Any]) -> str:
        """Say why a trial of this config cannot go on with another number of workers; an empty text where it can."""
        chosen = config.get("strategy", Strategy.name)
        name = chosen.get("name") if isinstance(chosen, Mapping) else chosen
        kind = cls.strategies.get(name) if isinstance(name, str) else None
        return "" if kind is None or kind.elastic else f"strategy {name!r} cannot divide its state anew"

    def build_strategy(self, config: Mapping[str, Any]) -> Strategy:
        """Return the strategy of the config. Raises SpecError for an unknown name or option."""
        chosen = config.get("strategy", Strategy.name)
        options = dict(chosen) if isinstance(chosen, Mapping) else {"name": chosen}
        if "name" not in options:
            raise SpecError(f"strategy: a dict has a `name` and its options, got {dict(options)!r}")
        name = options.pop("name")
        if not isinstance(name, str) or name not in self.strategies:
            hint = did_you_mean(str(name), self.strategies)
            raise SpecError(f"strategy: one of {', '.join(sorted(self.strategies))}, got {name!r}{hint}")
        return self.strategies[name](options)

    # The waist; runs on the first worker, which speaks for the gang.

    def setup(self, config: dict[str, Any]) -> None:
        """Take the gang of the lease over, or start one, and build everything on each worker."""
        self._own_gang = None
        if self.context.gang is None:
            self._own_gang = Gang("threads", _workers(config))
        self._session: str | None = None
        self._begin(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Begin another training in the same gang."""
        self._drop()
        self._begin(config)
        return True

    def cleanup(self) -> None:
        """Forget the training; the gang is the lease's and stays."""
        self._drop()
        if self._own_gang is not None:
            self._own_gang.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self.config = config
        self.check(config)  # a mistake is found before any worker starts
        self.strategy = self.build_strategy(config)
        self._updates = 0
        self._every = 1  # until the workers have said it
        self._lost = 0
        self._skipped = 0
        self._replaces = True
        self._bytes_of: dict[int, float] = {}  # sent by each worker, as last reported
        self._bytes_gone = 0.0  # sent by workers that are no more
        gang = self._gang
        if self._own_gang is not None and self._own_gang.workers != _workers(config):
            self._own_gang.close()
            gang = self._own_gang = Gang("threads", _workers(config))
        self.group: WorkerGroup = gang.group(self.collective_timeout_s)
        self._session = f"{self.context.experiment}-{self.context.trial}-{next(self._names)}"
        make = _Maker(type(self), config, replace(self.context, gang=None))
        self._values(self.group.open(self._session, make))
        plans = self._values(self.group.call(self._session, "plan"))
        self._total, self._every = plans[0]
        if self._total < 1 or self._every < 1:
            raise SpecError(f"updates and report_every are at least 1, got {self._total!r} and {self._every!r}")

    @property
    def _gang(self) -> Gang:
        gang = self._own_gang or self.context.gang
        assert gang is not None
        return gang

    def _drop(self) -> None:
        if self._session is not None:
            self.group.drop(self._session)
            self._session = None

    def step(self) -> dict[str, Any]:
        """Train to the next report and evaluate."""
        if self.group.lost and self.replace_lost and self._replaces:
            self._replace()
        until = min(self._total, self.next_report(self._updates))
        figures = self._survive("run", until)
        self._updates = max(until, max(int(each["updates"]) for each in figures))
        metrics: dict[str, Any] = next(
            (found for found in self._survive("evaluate", patience_s=self.evaluation_timeout_s) if found is not None),
            {},
        )
        return {**self._report(figures), **metrics, DONE: self._updates >= self._total}

    # calls

    def _survive(self, method: str, *args: Any, patience_s: float | None = None) -> list[Any]:
        """Call a method on all workers; where some are lost, go on with the others if the strategy does."""
        for _ in range(_ATTEMPTS):
            answers = self.group.call(self._session or "", method, *args, patience_s=patience_s)
            if all(answer.ok for answer in answers):
                return [answer.value for answer in answers]
            self._close_ranks(answers)
        raise PeerLost(f"{method} did not succeed in {_ATTEMPTS} attempts, though no further worker was lost")

    def _close_ranks(self, answers: list[Answer]) -> None:
        """After a failed call: have those that live agree where they stand, or raise."""
        for _ in range(_ATTEMPTS):
            self._judge(answers)
            self._lost += sum(answer.lost for answer in answers)
            self.group.regroup()
            answers = self.group.call(self._session or "", "rejoin")
            if all(answer.ok for answer in answers):
                self._skipped += sum(answer.value for answer in answers)
                return
        raise PeerLost(f"the workers that are left did not agree in {_ATTEMPTS} attempts")

    def _judge(self, answers: list[Answer]) -> None:
        """Raise where the trial cannot go on."""
        for answer in answers:
            if answer.error and not (answer.lost or answer.broken):
                where = f"worker {answer.worker} of {self.group.size}"
                mistake = f"{SpecError.__name__}: "
                if answer.error.startswith(mistake):
                    raise SpecError(answer.error.removeprefix(mistake))
                raise RuntimeError(f"{where}: {answer.error}\n{answer.traceback}".rstrip())
        why = "; ".join(answer.error for answer in answers if answer.lost) or answers[0].error or "a collective failed"
        if not self.strategy.survives:
            raise PeerLost(f"{why}; strategy {self.strategy.name!r} needs all of its workers")
        if len(self.group.workers) < max(1, self.min_workers):
            raise PeerLost(f"{why}; {len(self.group.workers)} workers are left, at least {self.min_workers} are wanted")
        logger.warning("%s; going on with %d workers", why, len(self.group.workers))

    def _values(self, answers: list[Answer]) -> list[Any]:
        if not all(answer.ok for answer in answers):
            self._judge(answers)
            raise PeerLost("; ".join(answer.error for answer in answers if not answer.ok))
        return [answer.value for answer in answers]

    def _replace(self) -> None:
        if self.group.refill(wait=False):
            if self.group.refusal:
                self._replaces = False
                logger.warning("a replacement could not begin, and none is tried again: %s", self.group.refusal)
            answers = self.group.call(self._session or "", "rejoin")
            if not all(answer.ok for answer in answers):
                self._close_ranks(answers)

    def _report(self, figures: list[dict[str, Any]]) -> dict[str, Any]:
        steps = max(1, max(each["steps"] for each in figures))
        paces = [
            (each["seconds"] - each["communication_s"] - each["waiting_s"]) / max(1, each["steps"]) for each in figures
        ]
        middle = statistics.median_low(paces)
        slowest = max(range(len(paces)), key=paces.__getitem__)
        seconds = max(each["seconds"] for each in figures)

        def mean(name: str) -> float:
            return statistics.fmean(each[name] for each in figures)

        for worker in self._bytes_of.keys() - {each["worker"] for each in figures}:
            self._bytes_gone += self._bytes_of.pop(worker)
        self._bytes_of = {each["worker"]: each["bytes_total"] for each in figures}
        moved = [each for each in figures if each["steps"]]  # asynchronous, a slow worker may not have come to a step
        names = dict.fromkeys(name for each in figures for name in each["strategy"])
        own = {n: statistics.fmean(f["strategy"][n] for f in figures if n in f["strategy"]) for n in names}
        return {
            "updates": self._updates,
            "epoch": mean("epoch"),
            "train_loss": _weighted([each["loss"] for each in moved], [each["steps"] for each in moved]),
            "workers": len(figures),
            "workers_lost": self._lost,
            "updates_skipped": self._skipped,
            "samples_per_s": sum(each["examples"] for each in figures) / seconds if seconds > 0 else 0.0,
            "bytes_per_step": sum(each["bytes"] for each in figures) / steps,
            "bytes_sent": sum(self._bytes_of.values()) + self._bytes_gone,
            "step_s": mean("seconds") / steps,
            "compute_s": statistics.fmean(paces),
            "communication_s": mean("communication_s") / steps,
            "waiting_s": mean("waiting_s") / steps,
            "slowest_worker": figures[slowest]["worker"],
            "slowest_ratio": paces[slowest] / middle if middle > 0 else 1.0,
            **own,
        }

    # checkpoints

    def save_checkpoint(self, directory: Path) -> None:
        """Write what the checkpoint is, and one file for each worker: by itself, where it sees the directory.

        What a worker that does not see it has to save is sent here, and written here. Nothing is a checkpoint before
        all have answered: whoever asked for it makes it one.
        """
        meta = {
            "strategy": self.strategy.name, "workers": len(self.group.workers), "updates": self._updates,
            "lost": self._lost, "skipped": self._skipped, "slots": list(self.group.slots),
            "bytes": sum(self._values(self.group.call(self._session or "", "bytes_total"))),
            "bytes_gone": self._bytes_gone, "token": secrets.token_hex(8),
        }  # fmt: skip
        sign = json.dumps(meta)
        (directory / META).write_text(sign, encoding="utf-8")
        paths = [directory / part_name(rank) for rank in range(len(self.group.workers))]
        answers = self._values(self.group.call_each(
            self._session or "", "save", [(str(path), sign) for path in paths], patience_s=self.checkpoint_timeout_s,
        ))  # fmt: skip
        for path, answer in zip(paths, answers, strict=True):
            if isinstance(answer, bytes):
                path.write_bytes(answer)
            elif (size := path.stat().st_size) != answer:
                raise OSError(f"{path} has {size} bytes here, and its worker wrote {answer}")

    def load_checkpoint(self, directory: Path) -> None:
        """Go on from a checkpoint; of another number of workers where the strategy allows it, else SpecError."""
        sign = (directory / META).read_text(encoding="utf-8")
        meta = json.loads(sign)
        saved, workers = int(meta["workers"]), len(self.group.workers)
        if meta["strategy"] != self.strategy.name:
            raise SpecError(
                f"the checkpoint is of strategy {meta['strategy']!r}, this trial's is {self.strategy.name!r}: the "
                "strategy cannot be changed in the middle of a training"
            )
        if saved != workers and not self.strategy.elastic:
            raise SpecError(
                f"the checkpoint was saved by {saved} workers, this trial has {workers}: strategy "
                f"{self.strategy.name!r} cannot divide its state anew; set workers={saved}"
            )
        paths = [directory / part_name(rank) for rank in range(saved)]
        each: list[tuple[Any, ...]]
        if saved == workers:
            seen = self._values(self.group.call(self._session or "", "sees", str(directory), sign))
            sent = None if all(seen) or not self.strategy.replicated else paths[0].read_bytes()
            each = []
            for path, sees in zip(paths, seen, strict=True):
                shared = (str(paths[0]) if sees else sent) if self.strategy.replicated else None
                each.append((str(path) if sees else path.read_bytes(), shared, True))
        else:
            states = [path.read_bytes() for path in paths]
            whole = states[0] if self.strategy.replicated else None
            states = list(self.strategy.merged(states))
            first = torch.load(io.BytesIO(states[0]), map_location="cpu", weights_only=True)
            sources = self.strategy.sources(first["strategy"], saved, workers)
            each = [(states[source], whole, False) for source in sources]
        patience_s = self.checkpoint_timeout_s
        self._values(self.group.call_each(self._session or "", "load_from", each, patience_s=patience_s))
        self._updates, self._lost, self._skipped = meta["updates"], meta["lost"], meta["skipped"]
        self._bytes_of, self._bytes_gone = {}, meta["bytes_gone"]
        if saved == workers:
            self.group.slots = meta["slots"]
        else:
            self._bytes_gone += meta["bytes"]


class _Maker:
    """Makes the object of each worker; sent to all of them."""

    def __init__(self, recipe: type[DistributedTrainable], config: Mapping[str, Any], context: TrialContext) -> None:
        self.recipe, self.config, self.context = recipe, config, context

    def __call__(self, place: Place) -> TrainingWorker:
        recipe = self.recipe()
        recipe.config, recipe.context = self.config, self.context
        return recipe.worker_class(recipe, place)


def _weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    total = sum(weights)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else math.nan
