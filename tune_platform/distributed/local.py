"""Workers of a gang as threads that take turns in one process: for debugging, and for studies on a virtual clock.

One worker runs at a time, until it has to wait for the others; the next is the one whose clock is least. So a run
is repeatable whatever the threads do, a breakpoint in a worker stops them all, and the centre needs no lock. Each
worker has torch's global generator to itself: it is exchanged when the turn passes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
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


@dataclass(frozen=True, slots=True)
class Cost:
    """A virtual clock: `step_s` seconds for an inner step (one number, or one a worker), and the links.

    A collective takes `latency_s` once all have come, and the bytes that each worker sends at `bytes_per_s`.
    """

    step_s: float | tuple[float, ...] = 1.0
    latency_s: float = 0.0
    bytes_per_s: float = float("inf")

    def step(self, rank: int) -> float:
        """Return the seconds of an inner step of this worker."""
        return self.step_s if isinstance(self.step_s, (int, float)) else self.step_s[rank % len(self.step_s)]


class Killed(BaseException):
    """Raised inside a worker that was killed, to end its thread."""


class _Seat:
    """One worker: its turn, its clock and its generator."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.turn = threading.Semaphore(0)
        self.time = 0.0  # of the virtual clock
        self.busy = 0.0  # seconds that it really ran, up to `since`
        self.since = 0.0
        self.generator: Tensor | None = None
        self.state = "idle"  # "ready": may run; "waiting": in a collective; "idle": has nothing to do; "dead"
        self.error: BaseException | None = None


class LocalCluster:
    """Runs `size` workers in turn. `cost` makes the clock a virtual one; without it, time is what the steps take."""

    def __init__(self, size: int, cost: Cost | None = None) -> None:
        self.size, self.cost = size, cost
        self.seats = [_Seat(rank) for rank in range(size)]
        self._pending: dict[tuple[int, ...], dict[int, tuple[str, Any]]] = {}
        self._results: dict[int, Any] = {}
        self._killed: set[int] = set()
        self._home = self.seats[0]  # the worker in the caller's thread
        #: Whether workers meet at a centre, each in its own time: the turn then passes after each inner step.
        self.asynchronous = False

    def kill(self, rank: int) -> None:
        """End a worker as if its process had died, at the next thing it does with the others. From any worker."""
        self._killed.add(rank)

    def alive(self, rank: int) -> bool:
        """Whether the worker has not been killed."""
        return self.seats[rank].state != "dead" and rank not in self._killed

    def revive(self, rank: int) -> None:
        """Put a new worker in the place of a dead one, at the time of the latest."""
        self._killed.discard(rank)
        self.seats[rank] = _Seat(rank)
        self.seats[rank].time = max(seat.time for seat in self.seats)

    def run(self, functions: dict[int, Callable[[], Any]]) -> dict[int, Any]:
        """Run a function as each of these workers; return by worker what it returned, or the exception it raised.

        The first runs in the caller's thread. Nothing global is changed: torch's generator is as it was.
        """
        order = sorted(functions)
        answers: dict[int, Any] = {}
        before = torch.get_rng_state()
        threads = []
        for rank in order:
            self.seats[rank].state = "ready"
            if rank != order[0]:
                work = (self.seats[rank], functions[rank], answers, torch.get_num_threads())
                threads.append(threading.Thread(target=self._serve, args=work, name=f"worker-{rank}", daemon=True))
        for thread in threads:
            thread.start()
        first = self._home = self.seats[order[0]]
        try:
            self._enter(first)
            self._work(first, functions[order[0]], answers)
            while any(self.seats[rank].state in ("ready", "waiting") for rank in order):
                self._pass_on(first)
        finally:
            torch.set_rng_state(before)
        for thread in threads:
            thread.join()
        return answers

    def _serve(self, seat: _Seat, function: Callable[[], Any], answers: dict[int, Any], threads: int) -> None:
        torch.set_num_threads(threads)  # a new thread would take as many as the machine has
        seat.turn.acquire()
        self._enter(seat)
        self._work(seat, function, answers)
        self._leave(seat)
        self._next(seat).turn.release()

    def _work(self, seat: _Seat, function: Callable[[], Any], answers: dict[int, Any]) -> None:
        try:
            self.check(seat.rank)
            answers[seat.rank] = function()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            answers[seat.rank] = error
        seat.state = "dead" if seat.rank in self._killed else "idle"
        self._let_go()

    # turns

    def _enter(self, seat: _Seat) -> None:
        if seat.generator is not None:
            torch.set_rng_state(seat.generator)
        seat.since = time.perf_counter()

    def _leave(self, seat: _Seat) -> None:
        seat.generator = torch.get_rng_state()
        seat.busy += time.perf_counter() - seat.since

    def _next(self, seat: _Seat) -> _Seat:
        """Return whose turn it is: the least clock first; the caller's where nobody has anything to do."""
        ready = [other for other in self.seats if other.state == "ready"]
        if not ready and any(other.state == "waiting" for other in self.seats):
            self._break("the workers wait for each other in different collectives")
            ready = [other for other in self.seats if other.state == "ready"]
        return min(ready, key=lambda other: (other.time, other.rank)) if ready else self._home

    def _pass_on(self, seat: _Seat) -> None:
        """Let the worker whose turn it is run, until it is this one's turn again."""
        other = self._next(seat)
        if other is seat:
            return
        self._leave(seat)
        other.turn.release()
        seat.turn.acquire()
        self._enter(seat)

    def check(self, rank: int) -> None:
        """Raise Killed in a worker that was killed."""
        if rank in self._killed:
            raise Killed(f"worker {rank} was killed")

    def tick(self, rank: int) -> None:
        """Move the clock of a worker by one inner step; let those that are behind go first."""
        seat = self.seats[rank]
        seat.time += self.cost.step(rank) if self.cost is not None else 1.0
        self.check(rank)
        if self.asynchronous:
            self._pass_on(seat)
            self.check(rank)

    # collectives

    def meet(
        self, rank: int, members: tuple[int, ...], key: str, given: Any, combine: Callable[[dict[int, Any]], Any],
        seconds: float,
    ) -> tuple[Any, float]:  # fmt: skip
        """Wait for all members; return what `combine` makes of what they gave, and the seconds spent waiting."""
        self.check(rank)
        seat = self.seats[rank]
        arrived = seat.time
        waiting = self._pending.setdefault(members, {})
        waiting[rank] = (key, given)
        if len(waiting) == len(members):
            del self._pending[members]
            keys = {key for key, _ in waiting.values()}
            if len(keys) > 1:
                self._pending[members] = {member: pair for member, pair in waiting.items() if member != rank}
                self._break("the workers entered different collectives", members)
                raise RuntimeError(f"the workers {members} entered different collectives: {sorted(keys)}")
            result = combine({member: given for member, (_, given) in waiting.items()})
            now = max(self.seats[member].time for member in members) + seconds
            for member in members:
                self.seats[member].time = now
                self.seats[member].state = "ready"
                self._results[member] = result
        else:
            seat.state = "waiting"
            self._let_go()
            self._pass_on(seat)
        if seat.error is not None:
            error, seat.error = seat.error, None
            raise error
        self.check(rank)
        return self._results.pop(rank), max(0.0, seat.time - seconds - arrived)

    def _let_go(self) -> None:
        """Free those who wait for somebody who will not come."""
        for members, waiting in list(self._pending.items()):
            absent = [m for m in members if m not in waiting and self.seats[m].state in ("dead", "idle")]
            if absent:
                self._break(f"worker {absent[0]} is gone", members)

    def _break(self, why: str, members: tuple[int, ...] | None = None) -> None:
        for group in [members] if members is not None else list(self._pending):
            for member in self._pending.pop(group):
                self.seats[member].state = "ready"
                self.seats[member].error = PeerLost(why)


class LocalCommunicator(Communicator):
    """A communicator between the workers of a LocalCluster; `members` are their seats, by rank."""

    def __init__(
        self,
        cluster: LocalCluster,
        members: Sequence[int],
        rank: int,
        hosts: Sequence[str] | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        super().__init__(rank, len(members), hosts or ["localhost"] * len(members), traffic)
        self._cluster = cluster
        self._members = tuple(members)
        self._seat = cluster.seats[members[rank]]

    def subgroup(self, parts: Sequence[Sequence[int]]) -> LocalCommunicator:
        """See `Communicator.subgroup`."""
        check_parts(parts, self.size)
        part = next(list(part) for part in parts if self.rank in part)
        members, hosts = [self._members[rank] for rank in part], [self.hosts[rank] for rank in part]
        return LocalCommunicator(self._cluster, members, part.index(self.rank), hosts, self.traffic)

    def open_centre(self, handler: Handler) -> Callable[[Tensor], Tensor]:
        """See `Communicator.open_centre`: the handler of worker 0 is called where the request is made."""
        self._cluster.asynchronous = True
        handlers = {self.rank: handler}
        if self.size > 1:
            handlers = self._meet("centre", (self.rank, handler), dict_of_pairs, 0.0)
        serve = handlers[0]

        def request(tensor: Tensor) -> Tensor:
            self._cluster.check(self._members[self.rank])
            reply = serve(self.rank, tensor)
            if self.rank != 0:
                amount = payload(tensor) + payload(reply)
                self.traffic.count("request", amount)
                seconds = self._seconds(amount)
                self._seat.time += seconds
                self.traffic.communication_s += seconds
            return reply

        return request

    def clock(self) -> float:
        """Return the virtual seconds; without a virtual clock those that this worker really ran."""
        if self._cluster.cost is not None:
            return self._seat.time
        return self._seat.busy + time.perf_counter() - self._seat.since

    def tick(self) -> None:
        """Move the clock by one inner step."""
        self._cluster.tick(self._members[self.rank])

    def _seconds(self, amount: float) -> float:
        cost = self._cluster.cost
        return 0.0 if cost is None else cost.latency_s + amount / cost.bytes_per_s

    def _meet(self, key: str, given: Any, combine: Callable[[dict[int, Any]], Any], amount: float) -> Any:
        seconds = self._seconds(amount)
        result, waited = self._cluster.meet(
            self._members[self.rank], self._members, key, given, combine, seconds
        )  # fmt: skip
        if self._cluster.cost is not None:
            self.traffic.waiting_s += waited
            self.traffic.communication_s += seconds
        return result

    def _stacked(self, given: dict[int, Tensor]) -> Tensor:
        return torch.stack([given[member] for member in self._members])

    def _all_reduce(self, tensor: Tensor, op: Reduction) -> None:
        def combine(given: dict[int, Tensor]) -> Tensor:
            values = [given[member] for member in self._members]
            result = values[0].clone()
            for value in values[1:]:
                if op in ("sum", "mean"):
                    result += value
                else:
                    result = torch.maximum(result, value) if op == "max" else torch.minimum(result, value)
            return result.div_(self.size) if op == "mean" else result

        amount = 2 * (self.size - 1) * payload(tensor) / self.size
        tensor.copy_(self._meet(f"all_reduce {op} {tuple(tensor.shape)}", tensor, combine, amount))

    def _broadcast(self, tensor: Tensor, source: int) -> None:
        def combine(given: dict[int, Tensor]) -> Tensor:
            return given[self._members[source]].clone()

        result = self._meet(f"broadcast {source} {tuple(tensor.shape)}", tensor, combine, payload(tensor))
        if self.rank != source:
            tensor.copy_(result)

    def _all_gather(self, tensor: Tensor) -> Tensor:
        amount = (self.size - 1) * payload(tensor)
        gathered: Tensor = self._meet(f"all_gather {tuple(tensor.shape)}", tensor, self._stacked, amount)
        return gathered.clone()

    def _all_to_all(self, tensor: Tensor) -> Tensor:
        amount = (self.size - 1) * payload(tensor) / self.size
        parts: Tensor = self._meet(f"all_to_all {tuple(tensor.shape)}", tensor, self._stacked, amount)
        return parts[:, self.rank].clone()

    def _barrier(self) -> None:
        self._meet("barrier", None, lambda given: None, 0.0)


def dict_of_pairs(given: dict[int, tuple[int, Any]]) -> dict[int, Any]:
    """Return {rank: value} from the (rank, value) pairs that the workers gave."""
    return dict(given.values())
