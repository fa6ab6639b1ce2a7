"""LSGD: workers are pulled to the best of them, the leader (Teng, Gao, Choromanski, Goldfarb, Weller and Choromanska
2019, "Leader stochastic gradient descent for distributed training of deep learning models").

With n groups of l workers, local leaders l_j and a global leader l, all of them copies of some worker (paper, eq. 3):

    x <- x - eta g(x)                                     each step
    x <- x - lambda   (x - l_j)                           every period steps        (`pull`, `period`)
    x <- x - lambda_G (x - l)                             every global_period steps (`global_pull`, `global_period`)

A leader is the worker with the least mean training loss over its last `window` batches (of its group; of all), ties to
the lowest rank. Pulls are the update form: fractions in 0 .. 1, independent of the learning rate (the objective's
lambda is theirs divided by eta). They pass the optimizer by, whose buffers are neither exchanged nor reset. Local comes
before global, with the same losses; the windows go on across a pull, with losses of the parameters before it.

One exchange: three floats of each worker to all (worker, learning rate, loss), then the leader's parameters to its
group. A leader is not moved by its own pull, not even by rounding.

A single leader is the usual case, and one coefficient belongs to it: one group has `pull` every `period` steps; groups
of one worker each, or `global_period` equal to `period`, have `global_pull` every `global_period` steps. (Of the
authors' programs, that of 2019 does the former with one group and the later one the latter.)

`asynchronous` is Algorithm 1's trigger, as the authors' server does it: worker 0 counts the steps of *all* workers. A
worker asks before it steps, where answers take long for several steps at once; after W period steps, whoever took
them, the next W answers are "exchange", one for each worker. Fast workers take more steps in between; the exchange
itself is the same collective, entered once by each. A run is over when the workers together have taken W until steps;
the learning rate schedule goes by a worker's own.

When a worker is lost, the others elect among themselves; one that dies between its election and its broadcast is
replaced at once by the best of the rest, and the pull takes place. One that joins has no loss yet: it follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tune_platform.distributed.communicator import Communicator, blocks, by_host
from tune_platform.distributed.strategy import (
    Flat,
    Strategy,
    option_choice,
    option_flag,
    option_number,
    option_period,
)
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.averaging import widened
from tune_platform.trainables.strategies.batchnorm import standing_in
from tune_platform.trainables.strategies.leader import LossWindow, elect, finite
from tune_platform.trainables.strategies.pricing import known
from tune_platform.trainables.strategies.step_counter import StepCounter

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


@dataclass
class Level:
    """Workers that follow one leader: their `ranks` in the gang, and who leads them at present."""

    period: int  # inner steps of a worker between two pulls
    pull: float
    ranks: list[int]
    comm: Communicator
    ppa: float = 0.0  # pull in each inner step towards the last copy of the leader
    copy: Tensor | None = None


class LSGD(Strategy):
    """See the module for the equations.

    Options:

    - `period`, `pull`: tau and lambda; `global_period` (None: twice the period; else a multiple of it) and
      `global_pull`: tau_G and lambda_G. Periods below 1 are shares of the training;
    - `group_size`: None for one group, a number of neighbouring ranks, or "host" for the workers of each host;
    - `window`: batches in the loss that a leader is chosen by;
    - `probe`: choose by the loss on one batch that is the same for all, drawn anew for each exchange, instead: costs a
      forward pass. With data in unequal parts, training losses make the worker with the easiest part lead;
    - `init`: "same" initial parameters for all (the authors' program), or "different" (Algorithm 1);
    - `asynchronous`: whether fast workers may take more steps between two exchanges;
    - `evaluate`: the "mean" of all workers (as in the paper), the "leader", or worker 0's "own" model;
    - `batchnorm_batches`: batches to record BatchNorm's statistics for the mean on, None: an epoch;
    - `ppa`: also pull in each inner step by `ppa_pull`/period and `ppa_global_pull`/global_period towards the last
      copies of the leaders, without communication (in the authors' later program, not in the paper).

    Reports `leader` (the worker that leads all), `leader_switches`, `leader_distance` (to the leader before the last
    pull), `leader_noise` (the standard error of the window's mean: large against the spread of the losses, the leader
    is a matter of chance) and `loss_spread` (standard deviation of the windows' means over the workers).
    """

    name: ClassVar[str] = "lsgd"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "period": 64,
        "pull": 0.1,
        "group_size": None,
        "global_period": None,
        "global_pull": 0.1,
        "window": 10,
        "probe": False,
        "init": "same",
        "asynchronous": False,
        "evaluate": "mean",
        "batchnorm_batches": None,
        "ppa": False,
        "ppa_pull": 0.1,
        "ppa_global_pull": 0.1,
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        name, given = self.name, self.options
        self.asynchronous = option_flag(name, given, "asynchronous")
        self._init = option_choice(name, given, "init", ("same", "different"))
        self._evaluate = option_choice(name, given, "evaluate", ("mean", "leader", "own"))
        self._probe, self._ppa = option_flag(name, given, "probe"), option_flag(name, given, "ppa")
        for pull in ("pull", "global_pull", "ppa_pull", "ppa_global_pull"):
            option_number(name, given, pull, 0, 1)
        if given["group_size"] not in (None, "host"):
            option_number(name, given, "group_size", 1, integer=True)
        self._batches: int | None = None
        if given["batchnorm_batches"] is not None:
            self._batches = int(option_number(name, given, "batchnorm_batches", 1, integer=True))
        self.window = LossWindow(int(option_number(name, given, "window", 1, integer=True)))
        _periods(given, 1)  # a mistake is found before any worker starts
        self.rounds = 0  # exchanges so far
        self.led = 0  # pulls, at any level, that this worker led
        self._stage: int | None = None  # within an exchange: how many levels are through
        self._leader = -1  # the worker that last led all (or, with a single leader, its group)
        self._figures = {"leader_switches": 0.0, "leader_distance": 0.0, "loss_spread": 0.0}
        self._counter: StepCounter | None = None

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        super().setup(worker)
        self.flat = Flat(self.parameters)
        self.levels: list[Level] = []
        if not worker.place.fresh:
            self._form()

    def seed_purpose(self, rank: int) -> str:
        """See `Strategy.seed_purpose`."""
        return "model" if self._init == "same" else f"model {rank}"

    def _form(self) -> None:
        """Divide the workers into those that follow one leader. All call this together."""
        comm, given = self.worker.comm, self.options
        period, global_period = _periods(given, self.worker.total_updates)
        parts = _parts(given["group_size"], comm.size, comm.hosts)
        everybody = list(range(comm.size))
        share, global_share = (
            float(given[name]) / length if self._ppa else 0.0
            for name, length in (("ppa_pull", period), ("ppa_global_pull", global_period))
        )
        local = Level(period, float(given["pull"]), everybody, comm, share)
        overall = Level(global_period, float(given["global_pull"]), everybody, comm, global_share)
        kind = _kind(parts, comm.size, period, global_period)
        self.levels = {"local": [local], "global": [overall], "both": [local, overall]}[kind]
        if kind == "both":
            local.ranks, local.comm = next(part for part in parts if comm.rank in part), comm.subgroup(parts)
        self.period = self.levels[0].period
        if self.asynchronous:
            self._counter = StepCounter(comm, self.period, self._counter)

    # the steps

    def go_on(self, until: int) -> bool:
        """See `Strategy.go_on`; asynchronously, the exchange is here, when worker 0 says so."""
        if self._counter is None:
            return self.worker.updates < until
        while (answer := self._counter.ask(until)) == StepCounter.EXCHANGE:
            self._begin_exchange()
        return answer == StepCounter.STEP

    def steps_done(self) -> int:
        """Return this worker's steps; asynchronously, the mean over the workers."""
        return self.worker.updates if self._counter is None else int(self._counter.mean)

    @torch.no_grad()
    def after_step(self, loss: Tensor) -> None:
        """Note the loss; exchange where it is time."""
        self.window.add(loss)
        for level in self.levels:
            if level.copy is not None:
                for tensor, leader in self.flat.pairs(level.copy):
                    tensor.lerp_(leader, level.ppa)
        if self._counter is None and self.worker.updates % self.period == 0:
            self._begin_exchange()

    # the exchange

    def _begin_exchange(self) -> None:
        if self._ppa or any(level.pull > 0 for level in self.levels):
            self._stage = 0
            self._exchange()
        else:  # independent workers, bit for bit
            self.rounds += 1

    def _exchange(self) -> None:
        """Elect and pull, level by level. A worker that is through with a level takes part, but does not move again."""
        losses, workers = self._gather()
        spread = [loss for loss in losses if loss < math.inf]
        self._figures["loss_spread"] = float(torch.tensor(spread).std()) if len(spread) > 1 else 0.0
        for index, level in enumerate(self.levels):
            if (self.rounds + 1) % (level.period // self.period) == 0:
                leader = elect(losses, level.ranks)
                if leader is not None and (level.pull > 0 or self._ppa):
                    self._follow(level, leader, move=self._stage is not None and index >= self._stage)
                    if len(level.ranks) == self.worker.comm.size:
                        self._note(workers[leader])
            if self._stage is not None:
                self._stage = max(self._stage, index + 1)
        self.rounds, self._stage = self.rounds + 1, None

    def _gather(self) -> tuple[list[float], list[int]]:
        """Return the losses by which leaders are chosen, and the workers' numbers, by rank."""
        loss = self._probe_loss() if self._probe else self.window.mean()
        rate = float(self.worker.optimizer.param_groups[0]["lr"])  # as the authors', for a search over workers
        gathered = self.worker.comm.all_gather(torch.tensor([float(self.worker.place.worker), rate, loss]))
        return [finite(float(value)) for value in gathered[:, 2]], [int(worker) for worker in gathered[:, 0]]

    @torch.no_grad()
    def _probe_loss(self) -> float:
        worker, training = self.worker, self.worker.model.training
        worker.model.eval()
        try:
            (batch,) = worker.other_batches("probe", 1, common_epoch=self.rounds)
            return finite(float(worker.recipe.loss(worker.model, batch)))
        finally:
            worker.model.train(training)

    @torch.no_grad()
    def _follow(self, level: Level, leader: int, move: bool) -> None:
        """Take the leader's parameters and go towards them; the leader stays where it is."""
        vector = level.comm.broadcast(self.flat.read(), level.ranks.index(leader))
        if self._ppa:
            level.copy = vector
        if leader == self.worker.comm.rank:
            self.led += move
            self._figures["leader_distance"] = 0.0
        elif move and level.pull > 0:
            self._figures["leader_distance"] = float((self.flat.read() - vector).norm())
            for tensor, part in self.flat.pairs(vector):
                tensor.lerp_(part, level.pull)  # exact at both ends, unlike (1 - pull) x + pull l

    def _note(self, worker: int) -> None:
        self._figures["leader_switches"] += float(self._leader not in (-1, worker))
        self._leader = worker

    # evaluation

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module | None]:
        """Give the mean of all workers on worker 0; or the leader of this moment, on itself; or worker 0's model."""
        comm, worker = self.worker.comm, self.worker
        if self._evaluate == "mean":
            vector = comm.all_reduce(widened(self.flat.read()))
            if comm.rank == 0:
                with standing_in(worker, vector, self._batches) as model:
                    yield model
            else:
                yield None
            return
        chosen: int | None = 0
        if self._evaluate == "leader":
            chosen = elect(self._gather()[0], range(comm.size))
        yield worker.model if comm.rank == (chosen or 0) else None

    # state and membership

    def state_dict(self) -> dict[str, Any]:
        """Return losses, counts, the leader, and with `ppa` the copies of the leaders."""
        return {
            "losses": self.window.state(),
            "rounds": self.rounds,
            "led": self.led,
            "leader": self._leader,
            "figures": dict(self._figures),
            "copies": [None if level.copy is None else level.copy.clone() for level in self.levels],
            "counter": None if self._counter is None else self._counter.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Strategy.load_state_dict`. Copies of leaders that other groups had are left out."""
        self.window.load(state["losses"].to(self.worker.device))
        self.rounds, self.led, self._leader = int(state["rounds"]), int(state["led"]), int(state["leader"])
        self._figures = dict(state["figures"])
        if self._ppa and len(state["copies"]) == len(self.levels):
            for level, copy in zip(self.levels, state["copies"], strict=True):
                level.copy = None if copy is None else copy.to(self.flat.tensors[0])
        if self._counter is not None and state["counter"] is not None:
            self._counter.load_state_dict(state["counter"])

    def on_membership_change(self, newest: int) -> None:
        """Form groups of those that are there, and carry out an exchange that a loss has cut off.

        Windows have not changed since, so whoever was elected and lives is elected again. Copies of leaders (`ppa`)
        are forgotten until the next exchange.
        """
        begun = torch.tensor([float(self._stage is not None), float(self.rounds)], dtype=torch.float64)
        gathered = self.worker.comm.all_gather(begun)
        cut_off = gathered[:, 0] > 0
        # A worker that was through with the exchange counts one round more than those that were not.
        self.rounds = int(gathered[cut_off, 1].min() if cut_off.any() else gathered[:, 1].max())
        self._form()
        if cut_off.any():
            if self._counter is not None:
                self._counter.exchanged()
            self._exchange()

    def metrics(self) -> dict[str, float]:
        """See the class."""
        return {"leader": float(self._leader), "leader_noise": self.window.noise(), **self._figures}

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """Return the bytes of the losses and of the leaders' parameters (and of the questions to worker 0).

        A single leader: (4 N (W - 1) + 12 W (W - 1)) / period. n groups of l: (n 4 N (l - 1) + 12 W (W - 1)) / period
        + 4 N (W - 1) / global_period. Hosts are not known here: for them the most that they can come to. For periods
        that are shares of the training, `options` hold its inner steps as `updates`.
        """
        given = {**cls.DEFAULTS, **options}
        shares = min(given["period"], given["global_period"] or 1) < 1
        periods = _periods(given, int(known(cls.name, options, "updates")) if shares else 1)
        if given["group_size"] != "host":
            return cls._bytes_of(parameters, _parts(given["group_size"], workers, []), periods, given)
        # One host, two, or one for each worker: more hosts than two and less than W save more inside than they cost.
        first, *rest = everybody = list(range(workers))
        divided = [[everybody], [[first], rest], [[rank] for rank in everybody]]
        return max(cls._bytes_of(parameters, [p for p in parts if p], periods, given) for parts in divided)

    @staticmethod
    def _bytes_of(parameters: int, parts: list[list[int]], periods: tuple[int, int], given: Mapping[str, Any]) -> float:
        """Return the bytes per step of workers that are divided into these groups."""
        (period, global_period), workers = periods, sum(len(part) for part in parts)
        kind = _kind(parts, workers, period, global_period)
        length = period if kind != "global" else global_period
        pull, global_pull = given["pull"] > 0 or given["ppa"], given["global_pull"] > 0 or given["ppa"]
        total = 0.0
        if kind != "global" and pull:
            receivers = workers - 1 if kind == "local" else sum(len(part) - 1 for part in parts)
            total += 4 * parameters * receivers / period
        if kind != "local" and global_pull:
            total += 4 * parameters * (workers - 1) / global_period
        if total:
            total += 12 * workers * (workers - 1) / length
        if given["asynchronous"]:
            total += StepCounter.bytes_per_step(workers, length)
        return total


def _periods(given: Mapping[str, Any], total: int) -> tuple[int, int]:
    """Return both periods in inner steps. Raises SpecError unless the global one is a multiple of the other."""
    period = option_period(LSGD.name, given, "period", total)
    if given["global_period"] is None:
        return period, 2 * period
    global_period = option_period(LSGD.name, given, "global_period", total)
    multiple = global_period % period == 0
    if given["period"] < 1 and given["global_period"] < 1:
        # As shares, not as steps: rounded one by one they need not be multiples of each other.
        times = given["global_period"] / given["period"]
        multiple = times > 0.5 and abs(times - round(times)) <= 1e-9
        global_period = period * round(times) if multiple else global_period
    if not multiple and given["group_size"] is not None:
        raise SpecError(
            f"strategy {LSGD.name!r}: global_period is a multiple of period, got {given['global_period']!r} and "
            f"{given['period']!r}; leave it out for twice the period"
        )
    return period, global_period


def _parts(group_size: Any, size: int, hosts: Any) -> list[list[int]]:
    if group_size is None:
        return [list(range(size))]
    return by_host(hosts) if group_size == "host" else blocks(size, int(group_size))


def _kind(parts: list[list[int]], size: int, period: int, global_period: int) -> str:
    """Return which leaders there are: "local" (a single group), "global" (a single leader of all), or "both"."""
    if len(parts) == 1:
        return "local"
    return "global" if len(parts) == size or global_period == period else "both"
