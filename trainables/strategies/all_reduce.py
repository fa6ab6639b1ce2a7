"""Synchronous data-parallel SGD: every worker takes the same step, with the mean of all gradients.

    g = 1/W sum_i g_i(x),    x <- Step(x, g)

on W replicas of x. It equals one worker with a batch W times as large where each loss is a mean over as many
examples, without BatchNorm and dropout: up to the order of summation, not bit for bit. The replicas among themselves
are bit-identical, which is checked at each evaluation. Bytes: one all-reduce of N parameters per step, 8 N (W - 1).

Between processes this is torch's DistributedDataParallel (see `data_parallel`); the trial does not survive the loss
of a worker and starts again from its checkpoint. The usual rule for the learning rate is proportional to W, with a
warm-up (Goyal et al. 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour").

Options: `find_unused` where not every parameter takes part in each loss; `static_graph` where always the same do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from tune_platform.distributed.strategy import Strategy
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.data_parallel import GradientAverage

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class AllReduce(Strategy):
    """Synchronous data parallelism; see the module."""

    name = "all_reduce"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {"find_unused": False, "static_graph": False}
    replicated = True
    survives = False

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        for name in self.DEFAULTS:
            if not isinstance(self.options[name], bool):
                raise SpecError(f"strategy {self.name!r}: {name} is true or false, got {self.options[name]!r}")

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        super().setup(worker)
        self._average = GradientAverage(worker, **self.options)

    @property
    def module(self) -> nn.Module:
        """See `Strategy.module`."""
        return self._average.module

    @contextmanager
    def running(self) -> Iterator[None]:
        """See `Strategy.running`."""
        with self._average.running():
            yield

    def after_backward(self) -> None:
        """See `Strategy.after_backward`."""
        self._average.after_backward()

    def finish_run(self) -> None:
        """See `Strategy.finish_run`."""
        self._average.finish_run()

    def let_go(self) -> None:
        """Let DDP's reference to the process group go."""
        super().let_go()
        if hasattr(self, "_average"):
            self._average.let_go()

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module | None]:
        """Give the replica of worker 0. Raises RuntimeError where the replicas differ."""
        comm = self.worker.comm
        sums = [p.detach().double().sum().cpu() for p in self.worker.model.parameters()]
        digest = torch.stack(sums).view(torch.int64)  # as bits: not-a-number equals itself
        if not bool((comm.all_gather(digest) == digest).all()):
            raise RuntimeError(
                "the replicas of all_reduce are no longer equal: does the loss call the model as a whole, and is "
                "nothing that each worker does on its own (clipping, a rate per worker) part of its step?"
            )
        with super().evaluated() as model:
            yield model

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """Return 2 (W - 1) 4 N."""
        return 8.0 * parameters * (workers - 1)
