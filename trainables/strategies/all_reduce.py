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

from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.data_parallel import AveragesGradients, GradientAverage

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class AllReduce(AveragesGradients):
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
        self.gradients = GradientAverage(worker, **self.options)

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module | None]:
        """Give the replica of worker 0. Raises RuntimeError where the replicas differ."""
        if self.worker.comm.size > 1 and not self._equal():
            raise RuntimeError(
                "the replicas of all_reduce are no longer equal: does the loss call the model as a whole, and is "
                "nothing that each worker does on its own (clipping, a rate per worker) part of its step?"
            )
        with super().evaluated() as model:
            yield model

    def _equal(self) -> bool:
        sums = [p.detach().double().sum() for p in self.worker.model.parameters()]
        digest = torch.stack(sums).cpu().view(torch.int64)  # as bits: not-a-number equals itself
        return bool((self.worker.comm.all_gather(digest) == digest).all())

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """Return 2 (W - 1) 4 N."""
        return 8.0 * parameters * (workers - 1)
