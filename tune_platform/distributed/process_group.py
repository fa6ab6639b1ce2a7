"""A communicator over `torch.distributed`: gloo for the CPU, NCCL for GPUs that each worker has for itself."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist

# Imported here, before there is a group: its functions take the default group as default argument, and so keep it.
import torch.distributed.nn.functional
from torch import Tensor

from tune_platform.distributed.communicator import (
    Communicator,
    Handler,
    PeerLost,
    Reduction,
    Traffic,
    check_parts,
    payload,
)

#: A worker asks the centre in its own time: only a lost connection ends the wait, no time-out.
_FOREVER = timedelta(days=30)


def backend_for(device: str, gpus_per_worker: float) -> str:
    """Return the torch backend: NCCL where each worker has whole GPUs for itself, else gloo."""
    return "nccl" if device.startswith("cuda") and gpus_per_worker >= 1 else "gloo"


#: Groups of this process beside the default one: torch keeps them, with threads and files, until they are destroyed.
_subgroups: list[Any] = []


class _Held:
    """A process group as this module holds it: gloo closes its connections when the last reference is gone."""

    all: ClassVar[weakref.WeakSet[_Held]] = weakref.WeakSet()

    def __init__(self, group: Any) -> None:
        self.group = group
        self.all.add(self)


class ProcessGroupCommunicator(Communicator):
    """The default process group of this process, or a part of it. `device` is where NCCL wants its tensors."""

    def __init__(
        self,
        group: Any,
        rank: int,
        size: int,
        hosts: Sequence[str],
        *,
        device: str = "cpu",
        timeout_s: float = 60.0,
        traffic: Traffic | None = None,
    ) -> None:
        super().__init__(rank, size, hosts, traffic)
        self._held = _Held(group)
        self.device, self.timeout_s = device, timeout_s
        self._on_device = size > 1 and dist.get_backend(group) == "nccl"

    @property
    def group(self) -> Any:
        """The torch process group; do not keep it. Raises PeerLost once this process has left it."""
        if self._held.group is None and self.size > 1:
            raise PeerLost("this worker has left the group, after a failure")
        return self._held.group

    @classmethod
    def join(
        cls, store: Any, name: str, rank: int, size: int, hosts: Sequence[str], *, device: str, backend: str,
        timeout_s: float, traffic: Traffic | None = None,
    ) -> ProcessGroupCommunicator:  # fmt: skip
        """Form the default process group of `size` processes through `store`, under a `name` not used before.

        Leaves the group before, if there is one. Raises PeerLost where not all come within the time-out.
        """
        leave()
        if size == 1:
            return cls(None, 0, 1, hosts, device=device, timeout_s=timeout_s, traffic=traffic)
        try:
            dist.init_process_group(
                backend, store=dist.distributed_c10d.PrefixStore(name, store), rank=rank, world_size=size,
                timeout=timedelta(seconds=timeout_s),
            )  # fmt: skip
        except RuntimeError as error:
            leave()
            raise PeerLost(f"the group of {size} workers did not form: {_first_line(error)}") from error
        return cls(dist.group.WORLD, rank, size, hosts, device=device, timeout_s=timeout_s, traffic=traffic)

    def subgroup(self, parts: Sequence[Sequence[int]]) -> ProcessGroupCommunicator:
        """See `Communicator.subgroup`."""
        check_parts(parts, self.size)
        mine: ProcessGroupCommunicator | None = None
        for part in parts:  # all workers make all groups, in the same order, as torch demands
            group = self._run(partial(self._new_group, part)) if len(part) > 1 else None
            if self.rank in part:
                hosts = [self.hosts[rank] for rank in part]
                mine = ProcessGroupCommunicator(
                    group, list(part).index(self.rank), len(part), hosts, device=self.device,
                    timeout_s=self.timeout_s, traffic=self.traffic,
                )  # fmt: skip
        assert mine is not None
        return mine

    def open_centre(self, handler: Handler) -> Callable[[Tensor], Tensor]:
        """See `Communicator.open_centre`: a thread of worker 0 for each other one, with a group of these two.

        So the death of a worker breaks its own connection only.
        """
        lock = threading.Lock()

        def serve(rank: int, tensor: Tensor) -> Tensor:
            with lock:
                return handler(rank, tensor)

        own = _Held(None)
        for rank in range(1, self.size):
            pair = self._run(partial(self._new_group, [0, rank], "gloo", _FOREVER))
            if self.rank == 0:
                threading.Thread(target=_serve, args=(pair, rank, serve), name=f"centre-{rank}", daemon=True).start()
            elif self.rank == rank:
                own = _Held(pair)
            del pair
        if self.rank == 0:
            return lambda tensor: serve(0, tensor)

        def request(tensor: Tensor) -> Tensor:
            started = time.perf_counter()
            reply: Tensor = self._run(lambda: _ask(own.group, tensor))
            self.traffic.communication_s += time.perf_counter() - started
            self.traffic.count("request", payload(tensor) + payload(reply))
            return reply

        return request

    def clock(self) -> float:
        """Return seconds of this process's clock."""
        return time.perf_counter()

    def _new_group(self, ranks: Sequence[int], backend: str | None = None, timeout: timedelta | None = None) -> Any:
        members = dist.get_process_group_ranks(self.group)
        timeout = timeout or timedelta(seconds=self.timeout_s)
        made = dist.new_group([members[rank] for rank in ranks], timeout=timeout, backend=backend)
        if made is not dist.GroupMember.NON_GROUP_MEMBER:
            _subgroups.append(made)
        return made

    def _run(self, collective: Callable[[], Any]) -> Any:
        try:
            return collective()
        except RuntimeError as error:  # what gloo and NCCL raise for a lost peer and for a time-out
            raise PeerLost(_first_line(error)) from error

    def _timed(self, collective: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        if self.traffic.measure_waiting:
            self._run(lambda: dist.barrier(self.group))
            waited = time.perf_counter()
            self.traffic.waiting_s += waited - started
            started = waited
        result = self._run(collective)
        self.traffic.communication_s += time.perf_counter() - started
        return result

    def _all_reduce(self, tensor: Tensor, op: Reduction) -> None:
        ops = {"sum": dist.ReduceOp.SUM, "mean": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
        sent = self._placed(tensor)
        self._timed(lambda: dist.all_reduce(sent, op=ops[op], group=self.group))
        if op == "mean":
            sent.div_(self.size)
        if sent is not tensor:
            tensor.copy_(sent)

    def _broadcast(self, tensor: Tensor, source: int) -> None:
        sent = self._placed(tensor)
        self._timed(lambda: dist.broadcast(sent, src=dist.get_global_rank(self.group, source), group=self.group))
        if sent is not tensor:
            tensor.copy_(sent)

    def _all_gather(self, tensor: Tensor) -> Tensor:
        sent = self._placed(tensor)
        gathered = [torch.empty_like(sent) for _ in range(self.size)]
        self._timed(lambda: dist.all_gather(gathered, sent, group=self.group))
        return torch.stack(gathered).to(tensor.device)

    def _all_to_all(self, tensor: Tensor) -> Tensor:
        sent = self._placed(tensor)
        received = torch.empty_like(sent)
        self._timed(lambda: dist.all_to_all_single(received, sent, group=self.group))
        return received.to(tensor.device)

    def _barrier(self) -> None:
        self._run(lambda: dist.barrier(self.group))

    def _placed(self, tensor: Tensor) -> Tensor:
        """NCCL takes tensors on the GPU only."""
        return tensor.to(self.device) if self._on_device and not tensor.is_cuda else tensor


def release_subgroups() -> None:
    """End all groups of this process but the default one. To be called on all workers, when nothing uses them."""
    if not _subgroups:
        return
    for held in list(_Held.all):
        if any(held.group is group for group in _subgroups):
            held.group = None
    while _subgroups:
        with suppress(RuntimeError, ValueError):
            dist.destroy_process_group(_subgroups.pop())
    gc.collect()


def leave() -> None:
    """End the process groups of this process, if there are any: peers that wait for it notice at once."""
    for held in list(_Held.all):
        held.group = None
    _subgroups.clear()
    if dist.is_initialized():
        with suppress(RuntimeError):
            if dist.get_backend() == "nccl":
                dist.distributed_c10d._abort_process_group()
            else:
                dist.destroy_process_group()
        gc.collect()  # what an exception or a graph still refers to


def _ask(pair: Any, tensor: Tensor) -> Tensor:
    centre = dist.get_global_rank(pair, 0)
    _send(pair, tensor, centre)
    return _receive(pair, centre)


def _send(pair: Any, tensor: Tensor, rank: int) -> None:
    dist.send(torch.tensor([tensor.numel()]), dst=rank, group=pair)
    dist.send(tensor, dst=rank, group=pair)


def _receive(pair: Any, rank: int) -> Tensor:
    length = torch.empty(1, dtype=torch.int64)
    dist.recv(length, src=rank, group=pair)
    tensor = torch.empty(int(length))
    dist.recv(tensor, src=rank, group=pair)
    return tensor


def _serve(pair: Any, rank: int, handler: Handler) -> None:
    """Answer the requests of one worker until its connection is lost, or the group is ended."""
    asker = dist.get_global_rank(pair, 1)
    with suppress(RuntimeError, ValueError):
        while True:
            _send(pair, handler(rank, _receive(pair, asker)), asker)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
