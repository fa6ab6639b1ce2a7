"""Synchronous data-parallel SGD with parameters, gradients and optimizer state divided over the workers.

The step is that of `all_reduce`: x <- Step(x, 1/W sum_i g_i(x)). But each worker holds 1/W of x and of the optimizer's
state: a layer's parameters are gathered when its forward or backward pass comes, and its gradient is averaged by a
reduce-scatter (Zhao et al. 2023, "PyTorch FSDP"; Rajbhandari et al. 2020, "ZeRO", stage 3). For models that do not fit
one GPU. This is torch's `fully_shard`, a unit for each child of the model that has parameters, and one for the rest.

Between processes only. The trial does not survive the loss of a worker; after a mistake on one worker the others wait
for `collective_timeout_s`, since the parts keep their connections. A checkpoint is sharded: each worker's file has
its own part. Where another number of workers loads it, the parts are put together and divided anew, for which each
worker has the whole in its host's memory once. To be evaluated, the model is gathered on worker 0.

Bytes: two gathers and a reduce-scatter of N parameters a step, 12 N (W - 1), half as much again as `all_reduce`; a
gather more for each evaluation, which is counted.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tune_platform.distributed.communicator import payload
from tune_platform.distributed.process_group import ProcessGroupCommunicator
from tune_platform.distributed.strategy import Strategy
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.data_parallel import average_buffers, losses_are_peers

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class FullySharded(Strategy):
    """Fully sharded data parallelism; see the module."""

    name = "fully_sharded"
    survives = False
    divided = True

    def setup(self, worker: TrainingWorker) -> None:
        """Divide the model, and build optimizer and schedule anew on the parts. Raises SpecError between threads."""
        super().setup(worker)
        self._bytes = sum(payload(p) for p in self.parameters)
        comm = worker.comm
        self._mesh: DeviceMesh | None = None
        if comm.size == 1:
            return
        if not isinstance(comm, ProcessGroupCommunicator):
            raise SpecError(
                f"strategy {self.name!r}: the workers of this gang are threads of one process, which share its memory: "
                "there is nothing to divide; use processes (Ray, or InlineBackend(gang='processes')) or 'all_reduce'"
            )
        kind = torch.device(worker.device).type
        self._mesh = DeviceMesh.from_group(comm.group, kind)
        for child in worker.model.children():
            if any(True for _ in child.parameters()):
                fully_shard(child, mesh=self._mesh)
        fully_shard(worker.model, mesh=self._mesh)
        worker.optimizer = worker.recipe.build_optimizer(worker.config, worker.model)
        worker.scheduler = worker.recipe.build_scheduler(worker.config, worker.optimizer, worker.total_updates)

    @contextmanager
    def running(self) -> Iterator[None]:
        """See `Strategy.running`. Raises PeerLost where a worker was lost."""
        with losses_are_peers(self.worker.comm):
            yield

    def after_backward(self) -> None:
        """Count the bytes of the step: the gradients are averaged already."""
        comm = self.worker.comm
        comm.traffic.count("fully_sharded", 3 * (comm.size - 1) * self._bytes / comm.size)

    def finish_run(self) -> None:
        """Average the floating-point buffers, which are not divided."""
        average_buffers(self.worker.model, self.worker.comm)

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module | None]:
        """Give a whole copy of the model, on worker 0."""
        worker = self.worker
        if self._mesh is None:
            yield worker.model
            return
        whole = {name: _whole(value) for name, value in worker.model.state_dict().items()}
        worker.comm.traffic.count("fully_sharded", (worker.comm.size - 1) * self._bytes / worker.comm.size)
        if worker.comm.rank:
            yield None
            return
        with worker._stream(worker.context.seed, "copy"):  # its parameters are overwritten
            model = worker.recipe.build_model(worker.config).to(worker.device)
        model.load_state_dict(whole)
        yield model

    def packed(self, state: Any) -> Any:
        """Return a state dict with this worker's part of each divided tensor in its place."""
        if isinstance(state, DTensor):
            return state.to_local()
        if isinstance(state, Mapping):
            return {key: self.packed(value) for key, value in state.items()}
        return [self.packed(value) for value in state] if isinstance(state, (list, tuple)) else state

    def state_dict(self) -> dict[str, Any]:
        """Return which tensors of the model are divided, and the names of the optimizer's parameters, in its order."""
        worker = self.worker
        names = {id(parameter): name for name, parameter in worker.model.named_parameters()}
        return {
            "divided": [name for name, value in worker.model.state_dict().items() if isinstance(value, DTensor)],
            "parameters": [names[id(p)] for group in worker.optimizer.param_groups for p in group["params"]],
        }

    def merged(self, states: Sequence[bytes]) -> Sequence[bytes]:
        """Put the parts of model and optimizer together, as every worker may load them."""
        each = [torch.load(io.BytesIO(state), map_location="cpu", weights_only=True) for state in states]
        whole, divided = each[0], set(each[0]["strategy"]["divided"])
        shapes = {name: value.shape for name, value in whole["model"].items()}
        whole["model"] = {
            name: torch.cat([state["model"][name] for state in each]) if name in divided else value
            for name, value in whole["model"].items()
        }
        if whole["optimizer"] is not None:
            names = whole["strategy"]["parameters"]
            for index, moments in whole["optimizer"]["state"].items():
                name = names[index]
                for kind, value in moments.items():
                    if name in divided and isinstance(value, Tensor) and value.ndim and value.shape == shapes[name]:
                        moments[kind] = torch.cat([state["optimizer"]["state"][index][kind] for state in each])
        buffer = io.BytesIO()
        torch.save(whole, buffer)
        return [buffer.getvalue()] * len(states)

    def unpacked_model(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state dict of the model, of what `packed` returned."""
        own = self.worker.model.state_dict()
        return {name: _as_part(value, own[name]) for name, value in state.items()}

    def unpacked_optimizer(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state dict of the optimizer, of what `packed` returned."""
        parameters = [p for group in self.worker.optimizer.param_groups for p in group["params"]]
        each = {
            index: {name: _as_part(value, parameters[index]) for name, value in moments.items()}
            for index, moments in state["state"].items()
        }
        return {**state, "state": each}

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """Return 3 (W - 1) 4 N."""
        return 12.0 * parameters * (workers - 1)


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _as_part(value: Any, like: Any) -> Any:
    """Return a worker's part, or the whole, as the divided tensor that `like` is; what is not divided stays."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor):
        return value
    own = like.to_local()
    if value.shape not in (own.shape, like.shape):
        return value
    part = value.to(own.device)
    if part.shape != own.shape:
        return distribute_tensor(part, like.device_mesh, like.placements, src_data_rank=None)
    return DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
