"""Synchronous data parallelism inside parts of a gang: the gradients of a part's workers are averaged at each step.

Where the workers are processes, torch's DistributedDataParallel (Li et al. 2020, "PyTorch Distributed: Experiences on
Accelerating Data Parallel Training") does it in buckets while the backward pass still runs; between threads, one
all-reduce of the flat gradient comes after it. The same sums either way: g = 1/M sum_i g_i over the M workers of a
part, every loss a mean over as many examples.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tune_platform.distributed.communicator import Communicator, PeerLost, payload, share_bytes
from tune_platform.distributed.process_group import ProcessGroupCommunicator
from tune_platform.distributed.strategy import Flat, Strategy

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker

#: DDP times every so-manieth step.
_SAMPLE_EVERY = 20


class GradientAverage:
    """Averages the gradients of `worker` with those of its part of the gang; all of a part then take the same step.

    `parts` divide the ranks (as `Communicator.subgroup` has them); None: the whole gang is one part. To be made on
    all workers together, anew when `worker.comm` has changed (`on_membership_change`; not in the `setup` of a worker
    that joins, where `worker.place.fresh`). `AveragesGradients` is a strategy that passes on to it what it needs.

    The replicas of a part must begin equal: the same `seed_purpose`, or `align()`. The loss has to call `module` as a
    whole (`model(x)`, not `model.encoder(x)`), and each parameter takes part in it, unless `find_unused`; with
    `static_graph` DDP relies on it that the same ones do at each step.
    """

    def __init__(
        self,
        worker: TrainingWorker,
        parts: Sequence[Sequence[int]] | None = None,
        *,
        find_unused: bool = False,
        static_graph: bool = False,
    ) -> None:
        self._worker = worker
        #: The workers of this one's part.
        self.comm: Communicator = worker.comm if parts is None else worker.comm.subgroup(parts)
        self._parameters = [p for p in worker.model.parameters() if p.requires_grad]
        self._bytes = sum(payload(p) for p in self._parameters)
        self._ddp: DistributedDataParallel | None = None
        self._steps = 0
        self._since = self.comm.clock()
        if self.comm.size > 1 and self._parameters and isinstance(self.comm, ProcessGroupCommunicator):
            cuda = worker.device.startswith("cuda")
            # The replicas are equal, and buffers are averaged once a report: nothing to send but gradients.
            self._ddp = DistributedDataParallel(
                worker.model, device_ids=[torch.device(worker.device)] if cuda else None,
                process_group=self.comm.group, forward_sync_buffers=False, init_sync=False,
                gradient_as_bucket_view=True, find_unused_parameters=find_unused, static_graph=static_graph,
            )  # fmt: skip
            self._ddp._set_ddp_runtime_logging_sample_rate(_SAMPLE_EVERY)  # type: ignore[no-untyped-call]

    @property
    def module(self) -> nn.Module:
        """What the loss must call."""
        return self._worker.model if self._ddp is None else self._ddp

    def after_backward(self) -> None:
        """Average the gradients, where the backward pass has not done it; a parameter without one counts as zero."""
        if self._ddp is not None:
            self.comm.traffic.count("all_reduce", 2 * (self.comm.size - 1) * self._bytes / self.comm.size)
            self._steps += 1
        elif self.comm.size > 1:
            for parameter in self._parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            gradients = Flat([p.grad for p in self._parameters if p.grad is not None])
            gradients.write(self.comm.all_reduce(gradients.read()))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Give the context in which all steps of a run are taken. Raises PeerLost where DDP has lost a worker."""
        self._since = self.comm.clock()
        with losses_are_peers(self.comm):
            yield

    def finish_run(self) -> None:
        """Average the floating-point buffers over the part, and count the seconds that steps waited for gradients.

        BatchNorm's running statistics are linear in those of the batches, so it does not matter how often they are
        averaged. The seconds are those of DDP's own sampled timers: communication that no computation hid.
        """
        average_buffers(self._worker.model, self.comm)
        self._count_seconds()

    def align(self) -> None:
        """Give model and optimizer state of one of the part to all of it: the first that did not just join.

        For `on_membership_change`: when a worker is lost, some of the others may have taken the last step and some not.
        """
        if self.comm.size == 1:
            return
        joined = self.comm.all_gather(torch.tensor([float(self._worker.place.fresh)]))
        source = int(joined[:, 0].argmin())
        model, optimizer = self._worker.model, self._worker.optimizer
        buffer = io.BytesIO()
        if self.comm.rank == source:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
        data = share_bytes(self.comm, buffer.getvalue(), source)
        if self.comm.rank != source:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])

    def close(self) -> None:
        """Let the model go: its gradients stay this worker's own, and another GradientAverage may take it."""
        self._count_seconds()
        if self._ddp is not None:
            self.let_go()
            gc.collect()  # DDP's hooks on the parameters end with it, and it may be part of a cycle

    def let_go(self) -> None:
        """Let the process group go; for `Strategy.let_go`, whose caller collects what is left of it."""
        self._ddp = None

    def _count_seconds(self) -> None:
        if self._ddp is None or not self._steps:
            return
        timers = self._ddp._get_ddp_logging_data()  # type: ignore[no-untyped-call]
        spent, hidden = (float(timers.get(f"avg_backward_{name}_time", 0)) for name in ("comm", "compute_comm_overlap"))
        seconds = max(0.0, spent - hidden) * 1e-9 * self._steps
        self.comm.traffic.communication_s += min(seconds, self.comm.clock() - self._since)
        self._steps = 0


class AveragesGradients(Strategy):
    """Averages gradients by `gradients`, which `setup` sets; where a worker joins, `on_membership_change` does."""

    gradients: GradientAverage | None = None

    @property
    def _gradients(self) -> GradientAverage:
        assert self.gradients is not None, "a worker that joins has its part after on_membership_change"
        return self.gradients

    @property
    def module(self) -> nn.Module:
        """See `Strategy.module`."""
        return self._gradients.module

    @contextmanager
    def running(self) -> Iterator[None]:
        """See `Strategy.running`."""
        with super().running(), self._gradients.running():
            yield

    def after_backward(self) -> None:
        """See `Strategy.after_backward`."""
        super().after_backward()
        self._gradients.after_backward()

    def finish_run(self) -> None:
        """See `Strategy.finish_run`."""
        super().finish_run()
        self._gradients.finish_run()

    def let_go(self) -> None:
        """Let DDP's reference to the process group go."""
        super().let_go()
        if self.gradients is not None:
            self.gradients.let_go()


def float_buffers(model: nn.Module) -> list[Tensor]:
    """Return the buffers that can be averaged: BatchNorm's `num_batches_tracked` is a count and cannot."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def average_buffers(model: nn.Module, comm: Communicator) -> None:
    """Replace the floating-point buffers by their mean over the workers."""
    buffers = float_buffers(model)
    if buffers and comm.size > 1:
        flat = Flat(buffers)
        flat.write(comm.all_reduce(flat.read()))


@contextmanager
def losses_are_peers(comm: Communicator) -> Iterator[None]:
    """Have an error of torch's own collectives, which a lost worker causes, be PeerLost."""
    try:
        yield
    except RuntimeError as error:
        processes = isinstance(comm, ProcessGroupCommunicator)
        if isinstance(error, PeerLost) or not processes or not _is_of_the_network(error):
            raise
        raise PeerLost(str(error).strip().split("\n")[0]) from error


def _is_of_the_network(error: RuntimeError) -> bool:
    """Whether torch raised this for a lost or late peer: gloo's errors are plain RuntimeErrors that name its files."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))
