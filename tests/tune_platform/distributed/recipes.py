"""Small trainings and objects that the tests give to gangs; importable from worker processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tune_platform.distributed import DistributedTrainable, ShardedBatches, Strategy, TrainingWorker
from tune_platform.distributed.communicator import PeerLost, blocks, by_host
from tune_platform.distributed.member import Place
from tune_platform.distributed.strategy import Flat
from tune_platform.trainables.strategies import STRATEGIES


class Averaging(Strategy):
    """The mean of the parameters every `period` inner steps: enough of a strategy to test the loop with."""

    name = "averaging"
    DEFAULTS = {"period": 4}  # noqa: RUF012

    def after_step(self, loss: Tensor) -> None:
        if self.worker.updates % self.options["period"] == 0:
            flat = Flat(self.parameters)
            flat.write(self.worker.comm.all_reduce(flat.read()))


class ByHost(Averaging):
    """Averages among the workers of each host, and tells where it runs."""

    name = "by_host"

    def setup(self, worker: TrainingWorker) -> None:
        super().setup(worker)
        self.part = worker.comm.subgroup(by_host(worker.comm.hosts))

    def after_step(self, loss: Tensor) -> None:
        flat = Flat(self.parameters)
        flat.write(self.part.all_reduce(flat.read()))

    def on_membership_change(self, newest: int) -> None:
        self.part = self.worker.comm.subgroup(by_host(self.worker.comm.hosts))

    def metrics(self) -> dict[str, float]:
        spread = self.worker.comm.all_gather(self.parameters[0].detach()[0, :1])
        return {"neighbours": self.part.size, "pid": os.getpid(), "distinct": len(set(spread.flatten().tolist()))}


class Fragile(Averaging):
    """The same, which cannot do without a worker."""

    name = "fragile"
    survives = False
    elastic = False


class Numbered(TrainingWorker):
    """Tells the recipe which worker it is, so that a test can have this one fail."""

    def __init__(self, recipe: Any, place: Place) -> None:
        recipe.number = place.worker
        super().__init__(recipe, place)


class Recipe(DistributedTrainable):
    """Two classes of points in 20 dimensions; dropout, so that generators matter."""

    strategies = {**STRATEGIES, "averaging": Averaging, "fragile": Fragile, "by_host": ByHost}  # noqa: RUF012
    collective_timeout_s = 20.0
    worker_class = Numbered
    number = -1

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        if "says" in config:
            print(config["says"], "from", self.number)  # noqa: T201
        return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))

    def build_scheduler(self, config: Mapping[str, Any], optimizer: torch.optim.Optimizer, total: int) -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Any:
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(256, 20, generator=draws)
        return ShardedBatches((x, (x[:, 0] > 0).long()), 8, rank, world_size, self.context.seed)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        for name, act in (("kill_at", kill), ("hang_at", hang), ("fail_at", fail)):
            if name in self.config:
                act(self, self.config[name])
        return functional.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        draws = torch.Generator().manual_seed(1)
        x = torch.randn(200, 20, generator=draws)
        with torch.no_grad():
            return {"accuracy": float((model(x).argmax(1) == (x[:, 0] > 0)).double().mean())}


def _now(recipe: Recipe, when: tuple[int, int]) -> bool:
    """Whether this is the worker and the batch that is meant; batches are counted on the recipe of each worker.

    With a `once` in the config, a path, it is the first time only.
    """
    worker, batch = when
    seen = recipe.__dict__.setdefault("seen", 0)
    recipe.__dict__["seen"] = seen + 1
    if seen != batch or recipe.number != worker:
        return False
    once = Path(recipe.config.get("once", os.devnull))
    if once.exists() and "once" in recipe.config:
        return False
    once.touch()
    return True


def kill(recipe: Recipe, when: tuple[int, int]) -> None:
    if _now(recipe, when):
        os.kill(os.getpid(), signal.SIGKILL)


def hang(recipe: Recipe, when: tuple[int, int]) -> None:
    if _now(recipe, when):
        time.sleep(3600)


def fail(recipe: Recipe, when: tuple[int, int]) -> None:
    if _now(recipe, when):
        raise ValueError("a mistake in the loss")


class Exerciser:
    """Makes every call of a communicator, and says what came of it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.total = torch.zeros(3)

    def collectives(self) -> dict[str, Any]:
        comm = self.place.comm
        mine = torch.arange(4.0) + comm.rank
        return {
            "rank": comm.rank,
            "mean": comm.all_reduce(mine.clone()).tolist(),
            "sum": comm.all_reduce(mine.clone(), "sum").tolist(),
            "max": comm.all_reduce(mine.clone(), "max").tolist(),
            "min": comm.all_reduce(mine.clone(), "min").tolist(),
            "broadcast": comm.broadcast(mine.clone(), comm.size - 1).tolist(),
            "all_gather": comm.all_gather(torch.tensor([comm.rank, 7])).tolist(),
        }

    def count(self, numel: int) -> dict[str, float]:
        comm = self.place.comm
        before = dict(comm.traffic.bytes)
        for op in (comm.all_reduce, comm.all_gather, lambda x: comm.broadcast(x, 0)):
            op(torch.ones(numel))
        return {
            name: amount - before.get(name, 0.0) for name, amount in comm.traffic.bytes.items() if name != "request"
        }

    def parts(self) -> list[float]:
        comm = self.place.comm
        part = comm.subgroup(blocks(comm.size, 2))
        whole_again = comm.subgroup([list(range(comm.size))])
        got = [float(part.rank), float(part.size), float(part.all_reduce(torch.tensor([float(comm.rank)]), "sum"))]
        return [*got, float(whole_again.all_reduce(torch.tensor([1.0]), "sum"))]

    def ask(self, times: int) -> tuple[list[float], float]:
        def add(rank: int, given: Tensor) -> Tensor:
            self.total += given
            return self.total.clone()

        request = self.place.comm.open_centre(add)
        replies = [float(request(torch.full((3,), 1.0))[0]) for _ in range(times)]
        self.place.comm.barrier()
        return replies, float(request(torch.zeros(3))[0])

    def die_in_collective(self, worker: int) -> str:
        if self.place.worker == worker:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            self.place.comm.all_reduce(torch.ones(10))
        except PeerLost:
            raise
        return "came about"

    def hang_in_collective(self, worker: int) -> None:
        if self.place.worker == worker:
            time.sleep(3600)
        self.place.comm.all_reduce(torch.ones(10))

    def who(self) -> tuple[int, int, bool]:
        return self.place.worker, self.place.comm.rank, self.place.fresh

    def mistake(self) -> None:
        if self.place.comm.rank == 1:
            raise ValueError("a mistake")
        self.place.comm.barrier()
