"""A gang: the workers of one trial, that are started, called and ended together. The caller is its first worker.

Each worker serves objects (sessions) that it makes itself; a call goes to all of them at once. The first worker
lives in the caller's own process and thread, so a gang of one costs nothing, and a debugger stops in it.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from tune_platform.distributed.communicator import PeerLost
from tune_platform.distributed.local import Cost, LocalCluster, LocalCommunicator
from tune_platform.distributed.member import Answer, Factory, Meeting, Member, Place, answer_of, host_name
from tune_platform.distributed.process_group import leave
from tune_platform.surroundings import surroundings

#: Attempts to form a group anew before the gang is given up.
_ATTEMPTS = 3


class WorkerGroup(ABC):
    """A gang of `size` workers. `workers` are the numbers of those that live, in the order of their ranks."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"workers: a gang has at least 1, got {size!r}")
        self.size = size
        self.workers = list(range(size))
        #: Whether the communicators can be used: false after a call has failed, until `regroup`.
        self.whole = True
        #: Why a worker that was to join could not begin; empty where none has failed to.
        self.refusal = ""
        self._factories: dict[str, Factory] = {}
        self._slots: dict[int, int] = {}  # worker -> its slot among `size`, of which its Place is told
        self._numbers = itertools.count(size)

    @property
    def lost(self) -> int:
        """How many workers the gang lacks."""
        return self.size - len(self.workers)

    def open(self, session: str, factory: Factory) -> list[Answer]:
        """Have each worker make the object of a session. Slots are given anew, by rank."""
        self._factories[session] = factory
        self.slots = range(len(self.workers))
        return self._open(self.workers, session, factory, False)

    @property
    def slots(self) -> Sequence[int]:
        """The slots of the workers by rank: what stays when ranks change. May be set, for a checkpoint."""
        return [self._slots[worker] for worker in self.workers]

    @slots.setter
    def slots(self, slots: Sequence[int]) -> None:
        self._slots = dict(zip(self.workers, slots, strict=True))

    def call(self, session: str, method: str, *args: Any, patience_s: float | None = None) -> list[Answer]:
        """Call a method of the session's object on all workers at once; return the answers by rank.

        A worker that is gone, or does not answer within `patience_s` (default: the time-out of a collective) after
        the first one has, is ended and struck off; its answer says `lost`.
        """
        return self._ask(self.workers, "call", session, method, args, patience_s=patience_s)

    def call_each(
        self, session: str, method: str, args: Sequence[tuple[Any, ...]], patience_s: float | None = None
    ) -> list[Answer]:
        """Like `call`, with arguments of its own for each worker, by rank."""
        return self._ask(self.workers, "call", session, method, each=args, patience_s=patience_s)

    def drop(self, session: str) -> None:
        """Have each worker forget the object of a session."""
        if self._factories.pop(session, None) is not None:
            for answer in self._ask(self.workers, "drop", session):
                if not answer.ok and answer.worker != 0:  # something of the trial still runs there
                    self._strike(answer.worker)

    def regroup(self) -> None:
        """Give those that live a new communicator. Raises PeerLost where they do not find each other."""
        why = ""
        for _ in range(_ATTEMPTS):
            answers = self._meet()
            if all(answer.ok for answer in answers):
                self.whole = True
                return
            why = next(answer.error for answer in answers if not answer.ok)
        raise PeerLost(f"{len(self.workers)} workers did not form a group in {_ATTEMPTS} attempts; the last: {why}")

    def refill(self, wait: bool = True) -> int:
        """Start a worker for each that was lost, with the highest ranks; return how many have come.

        `wait`: until they have come; else those that have not come yet join in a later call. When some join, all get
        a new communicator, and the objects of the new ones are made with `Place.fresh` true. One that cannot make its
        object is ended again, and `refusal` says why.
        """
        self.refusal = ""
        fresh = self._arrivals(wait) if self.lost else []
        self.workers += fresh
        if fresh:
            free = iter(sorted(set(range(self.size)) - {self._slots.get(worker, -1) for worker in self.workers}))
            self._slots.update({worker: next(free) for worker in fresh})
            self.regroup()
            for session, factory in self._factories.items():
                joined = [worker for worker in fresh if worker in self.workers]
                for answer in self._open(joined, session, factory, True):
                    if not answer.ok:
                        self.refusal = answer.error
                        self._strike(answer.worker)
            if self.refusal:
                self.regroup()
        return len(fresh)

    def _open(self, workers: Sequence[int], session: str, factory: Factory, fresh: bool) -> list[Answer]:
        slots = [(self._slots[worker], self.size) for worker in workers]
        return self._ask(workers, "open", session, factory, fresh, each=slots)

    @abstractmethod
    def close(self) -> None:
        """End all workers. Safe to call twice, and after an error."""

    @abstractmethod
    def _arrivals(self, wait: bool) -> list[int]:
        """Start what workers are missing; return the numbers of those that have come."""

    @abstractmethod
    def _strike(self, worker: int) -> None:
        """End a worker and strike it off, where that has not been done."""

    @abstractmethod
    def _meet(self) -> list[Answer]:
        """Form a new generation of those that live."""

    @abstractmethod
    def _ask(
        self, workers: Sequence[int], method: str, *args: Any, each: Sequence[Any] | None = None,
        patience_s: float | None = None,
    ) -> list[Answer]:  # fmt: skip
        """Call a method of these members at once, `each` with a last argument of its own; strike off the lost."""


class LocalGroup(WorkerGroup):
    """Workers that are threads of this process and take turns. `cost` makes their clock a virtual one.

    `hosts` may say which of them count as neighbours.
    """

    def __init__(self, size: int, cost: Cost | None = None, hosts: Sequence[str] | None = None) -> None:
        super().__init__(size)
        self.cluster = LocalCluster(size, cost)
        self._hosts = list(hosts or ["localhost"] * size)
        self._seats: dict[int, int] = {}  # worker -> seat in the cluster
        self._places: dict[int, Place] = {}
        self._sessions: dict[int, dict[str, Any]] = {}
        for worker in range(size):
            self._sit(worker, worker, fresh=False)
        self._meet()

    def kill(self, worker: int) -> None:
        """End a worker as if its process had died (for tests and studies); callable from inside one."""
        self.cluster.kill(self._seats[worker])

    def close(self) -> None:
        """See `WorkerGroup.close`."""
        self.workers, self._factories = [], {}
        self._sessions.clear()

    def _sit(self, worker: int, seat: int, fresh: bool) -> None:
        self._seats[worker] = seat
        alone = LocalCommunicator(self.cluster, [seat], 0)
        self._places[worker] = Place(worker, alone, fresh=fresh)
        self._sessions[worker] = {}

    def _arrivals(self, wait: bool) -> list[int]:
        taken = {self._seats[worker] for worker in self.workers}
        fresh = []
        for seat in range(self.size):
            if seat not in taken:
                worker = next(self._numbers)
                self.cluster.revive(seat)
                self._sit(worker, seat, fresh=True)
                fresh.append(worker)
        return fresh

    def _meet(self) -> list[Answer]:
        self.cluster.asynchronous = False
        seats = [self._seats[worker] for worker in self.workers]
        hosts = [self._hosts[seat] for seat in seats]
        for rank, worker in enumerate(self.workers):
            place = self._places[worker]
            place.comm = LocalCommunicator(self.cluster, seats, rank, hosts, place.comm.traffic)
        return [Answer(worker) for worker in self.workers]

    def _strike(self, worker: int) -> None:
        if worker in self.workers:
            self.kill(worker)
            self.workers.remove(worker)

    def _ask(
        self, workers: Sequence[int], method: str, *args: Any, each: Sequence[Any] | None = None,
        patience_s: float | None = None,
    ) -> list[Answer]:  # fmt: skip
        workers = list(workers)
        given = [args if each is None else (*args, last) for last in each or workers]

        def work(worker: int, given: tuple[Any, ...]) -> Callable[[], Answer]:
            return lambda: answer_of(worker, lambda: self._do(worker, method, *given))

        work_of = zip(workers, given, strict=True)
        found = self.cluster.run({self._seats[worker]: work(worker, arguments) for worker, arguments in work_of})
        answers = []
        for worker in workers:
            answer = found[self._seats[worker]]
            alive = self.cluster.alive(self._seats[worker]) and isinstance(answer, Answer)
            if not alive:
                self.workers.remove(worker)
                answer = Answer(worker, error="the worker was killed", lost=True)
            answers.append(answer)
        self.whole = self.whole and all(answer.ok for answer in answers)
        return answers

    def _do(self, worker: int, method: str, *args: Any) -> Any:
        sessions, place = self._sessions[worker], self._places[worker]
        if method == "open":
            session, factory, place.fresh, (place.slot, place.slots) = args
            sessions[session] = factory(place)
            return None
        if method == "call":
            session, name, arguments = args
            return getattr(sessions[session], name)(*arguments)
        close = getattr(sessions.pop(args[0], None), "close", None)
        if close is not None:
            close()
        return None


class Peer(Protocol):
    """A worker in another process, with one call under way at a time."""

    def send(self, method: str, args: tuple[Any, ...]) -> None:
        """Call a method of its Member. Raises ConnectionError where it is gone."""

    def receive(self, timeout_s: float) -> Answer:
        """Return the answer. Raises ConnectionError where it is gone, TimeoutError where it does not come."""

    def close(self) -> None:
        """End the process, without waiting."""


class RemoteGroup(WorkerGroup):
    """Workers in processes of their own. `launch(worker, seat, fresh)` starts one, in one of the lease's `size` seats.

    `address` is where they reach this process.

    `timeout_s` bounds every collective, and how long a worker may come later than the first.
    """

    def __init__(
        self,
        size: int,
        launch: Callable[[int, int, bool], Peer],
        *,
        address: str = "127.0.0.1",
        device: str = "cpu",
        threads: int = 1,
        backend: str = "gloo",
        timeout_s: float = 60.0,
        start_s: float = 120.0,
    ) -> None:
        super().__init__(size)
        self._launch, self._timeout_s, self._start_s = launch, timeout_s, start_s
        self._backend, self._address = backend, address
        self._patience_s = timeout_s
        self._generation = 0
        self._peers: dict[int, Peer] = {}
        self._hosts = {0: host_name()}
        self._seats = {0: 0}  # worker -> seat in the lease
        self._coming: dict[int, float] = {}  # workers that start, and when they are given up
        self._started = False
        try:
            self.workers = [0]
            self.workers += self._arrivals(wait=True)
            self._member = Member(0, device, threads, surroundings())
            self._port = self._member.host_store(address, start_s)
            if self.lost:
                raise PeerLost(f"{self.lost} of the {size} workers of the gang did not start within {start_s:g} s")
            self.regroup()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `WorkerGroup.close`."""
        peers, self._peers = list(self._peers.values()), {}
        self.workers, self._factories = [], {}
        self._coming.clear()
        leave()
        for peer in peers:
            peer.close()

    def _arrivals(self, wait: bool) -> list[int]:
        taken = {self._seats[worker] for worker in (*self.workers, *self._coming)}
        for seat in range(1, self.size):
            if seat not in taken:
                worker = next(self._numbers) if self._started else seat
                self._seats[worker] = seat
                self._peers[worker] = self._launch(worker, seat, self._started)
                self._send(worker, "who", ())
                self._coming[worker] = time.monotonic() + self._start_s
        self._started = True
        came = []
        for worker, deadline in list(self._coming.items()):
            now = time.monotonic()
            try:
                answer = self._peers[worker].receive(max(0.0, deadline - now) if wait else 0.0)
            except TimeoutError:
                if now < deadline and not wait:
                    continue
                self._peers.pop(worker).close()
            except ConnectionError:
                self._peers.pop(worker).close()
            else:
                self._hosts[worker] = answer.value[0]
                came.append(worker)
            del self._coming[worker]
        return came

    def _meet(self) -> list[Answer]:
        self._generation += 1
        meeting = Meeting(
            host=self._address, port=self._port, name=f"generation-{self._generation}", workers=tuple(self.workers),
            hosts=tuple(self._hosts[worker] for worker in self.workers), backend=self._backend,
            timeout_s=self._timeout_s,
        )  # fmt: skip
        return self._ask(self.workers, "join", meeting)

    def _strike(self, worker: int) -> None:
        peer = self._peers.pop(worker, None)
        if peer is not None:
            peer.close()
        if worker in self.workers:
            self.workers.remove(worker)

    def _ask(
        self, workers: Sequence[int], method: str, *args: Any, each: Sequence[Any] | None = None,
        patience_s: float | None = None,
    ) -> list[Answer]:  # fmt: skip
        given = dict.fromkeys(workers, args)
        if each is not None:
            given = {worker: (*args, last) for worker, last in zip(workers, each, strict=True)}
        others = [worker for worker in given if worker != 0]
        for worker in others:
            self._send(worker, method, given[worker])
        answers = [getattr(self._member, method)(*given[0])] if 0 in given else []
        # What is made first imports the user's code, which may take as long as a start.
        self._patience_s = patience_s or (self._start_s if method == "open" else self._timeout_s)
        deadline = time.monotonic() + self._patience_s
        answers += [self._receive(worker, deadline) for worker in others]
        self.whole = self.whole and all(answer.ok for answer in answers)
        return answers

    def _send(self, worker: int, method: str, args: tuple[Any, ...]) -> None:
        with suppress(ConnectionError):  # seen again where the answer is awaited
            self._peers[worker].send(method, args)

    def _receive(self, worker: int, deadline: float) -> Answer:
        try:
            return self._peers[worker].receive(max(0.0, deadline - time.monotonic()))
        except ConnectionError as error:
            why = f"its process is gone: {error}"
        except TimeoutError:
            why = f"it did not answer within {self._patience_s:g} s of the first worker"
        self._strike(worker)
        return Answer(worker, error=f"worker {worker} is lost: {why}", lost=True)
