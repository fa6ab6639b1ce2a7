"""Small trainings to test strategies on, and what every test of a strategy does; importable from worker processes.

A toy's config may hold `events`, {(worker, step): function of the `Toy`}: called in the loss of that worker's step,
counted from 0.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tune_platform.distributed import Cost, DistributedTrainable, Gang, LocalGroup, ShardedBatches, TrainingWorker
from tune_platform.distributed.gang import GangKind
from tune_platform.distributed.group import WorkerGroup
from tune_platform.distributed.local import LocalCommunicator
from tune_platform.distributed.member import Place
from tune_platform.trainable import TrialContext
from tune_platform.trainables.strategies import STRATEGIES

Event = Callable[["Toy"], None]


class ToyWorker(TrainingWorker):
    """Tells its recipe of itself."""

    def __init__(self, recipe: Toy, place: Place) -> None:
        recipe.worker = self
        super().__init__(recipe, place)


class Toy(DistributedTrainable):
    """Two classes of points in 20 dimensions, an MLP; `norm`: with BatchNorm, `dropout`: so that generators matter."""

    strategies = STRATEGIES
    worker_class = ToyWorker
    collective_timeout_s = 60.0  # a first call imports what it needs, on a machine that may be busy
    worker: ToyWorker

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        norm: list[nn.Module] = [nn.BatchNorm1d(8)] if config.get("norm") else []
        dropout: list[nn.Module] = [nn.Dropout(config["dropout"])] if config.get("dropout") else []
        model = nn.Sequential(nn.Linear(20, 8), *norm, nn.Tanh(), *dropout, nn.Linear(8, 2))
        return model.double() if config.get("double") else model

    def build_optimizer(self, config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
        if config.get("optimizer") == "adamw":
            return torch.optim.AdamW(model.parameters(), lr=float(config.get("lr", 0.01)))
        return super().build_optimizer(config, model)

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Any:
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(config.get("examples", 256), 20, generator=draws)
        y = (x[:, 0] > 0).long()
        x = x.double() if config.get("double") else x
        return ShardedBatches((x, y), config.get("batch_size", 8), rank, world_size, self.context.seed)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.happen()
        return functional.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        draws = torch.Generator().manual_seed(1)
        x = torch.randn(200, 20, generator=draws)
        x = x.double() if self.config.get("double") else x
        with torch.no_grad():
            right = model(x).argmax(1) == (x[:, 0] > 0)
        return {"accuracy": float(right.double().mean()), "evaluated": digest(model)}

    def happen(self) -> None:
        """Have what is due at this step of this worker come about."""
        seen = self.__dict__.get("seen", 0)
        self.__dict__["seen"] = seen + 1
        event: Event | None = self.config.get("events", {}).get((self.worker.place.worker, seen))
        if event is not None:
            event(self)


def die(toy: Toy) -> None:
    """End the worker as it stands: its process by SIGKILL, its thread at the next thing it does with the others."""
    comm = toy.worker.comm
    if isinstance(comm, LocalCommunicator):
        comm._cluster.kill(comm._members[comm.rank])
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def digest(model: nn.Module) -> str:
    """Return a hash of all parameters and buffers."""
    found = hashlib.sha256()
    for tensor in model.state_dict().values():
        found.update(tensor.cpu().numpy().tobytes())
    return found.hexdigest()


class Held(Gang):
    """A gang that is there already: a LocalGroup with a virtual clock, or one that a test wants to look into."""

    def __init__(self, group: WorkerGroup) -> None:
        super().__init__("threads", group.size)
        self.held = group

    def group(self, timeout_s: float = 60.0) -> WorkerGroup:
        return self.held

    def close(self) -> None:
        self.held.close()


def make(
    config: dict[str, Any], workers: int = 2, *, gang: GangKind | Gang = "threads", seed: int = 0,
    toy: type[DistributedTrainable] = Toy, cost: Cost | None = None,
) -> Any:  # fmt: skip
    """Return a trainable that is set up; the caller's `gang`, one of a kind, or threads with a virtual clock."""
    if cost is not None:
        gang = Held(LocalGroup(workers, cost))
    given = gang if isinstance(gang, Gang) else Gang(gang, workers)
    trainable = toy(TrialContext(seed=seed, gang=given))
    trainable.setup(config)
    return trainable


def worker_of(trainable: Any, rank: int) -> Any:
    """Return the TrainingWorker of a rank, between threads."""
    group: LocalGroup = trainable.group
    return group._sessions[group.workers[rank]][trainable._session]


def models(trainable: Any) -> list[nn.Module]:
    """Return the models by rank, between threads."""
    return [worker_of(trainable, rank).model for rank in range(len(trainable.group.workers))]


def vectors(trainable: Any) -> Tensor:
    """Return the parameters of all workers, one row a rank, between threads."""
    return torch.stack([torch.cat([p.detach().reshape(-1) for p in model.parameters()]) for model in models(trainable)])


def count_parameters(trainable: Any) -> int:
    """Return the scalars in a model."""
    return int(vectors(trainable).shape[1])


#: Figures that are a matter of the machine's speed.
TIMES = {"samples_per_s", "step_s", "compute_s", "communication_s", "waiting_s", "slowest_worker", "slowest_ratio"}


def reports(trainable: Any, count: int) -> list[dict[str, Any]]:
    """Take steps; return their reports without what is a matter of the machine's speed; bytes to the thousandth."""
    found = [{k: v for k, v in trainable.step().items() if k not in TIMES} for _ in range(count)]
    return [{k: round(v, 3) if k.startswith("bytes") else v for k, v in report.items()} for report in found]


def means_of(trainable: Any) -> list[Tensor]:
    """Return a list that will hold the means of the workers from which an anchor is moved, between threads."""
    strategy = worker_of(trainable, 0).strategy
    means: list[Tensor] = []
    move = strategy.move

    def noted(anchor: Tensor, mean: Tensor) -> Tensor:
        means.append(mean)
        moved: Tensor = move(anchor, mean)
        return moved

    strategy.move = noted
    return means


def check_resume(config: dict[str, Any], directory: Path, workers: int = 2, *, before: int = 2, after: int = 2) -> None:
    """Assert that a run which was saved and loaded equals one that was not, bit for bit, and that its reports do."""
    whole = make(config, workers)
    expected = reports(whole, before + after)
    first = make(config, workers)
    assert reports(first, before) == expected[:before]
    first.save_checkpoint(directory)
    torch.manual_seed(99)
    second = make(config, workers, seed=0)
    second.load_checkpoint(directory)
    assert reports(second, after) == expected[before:]
    assert [digest(model) for model in models(whole)] == [digest(model) for model in models(second)]
