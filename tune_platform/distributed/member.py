"""What runs in the process of each worker of a gang: its place among the others, and the objects that it serves."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tune_platform.distributed.communicator import Communicator, PeerLost
from tune_platform.distributed.process_group import ProcessGroupCommunicator, leave, release_subgroups
from tune_platform.surroundings import Surroundings


@dataclass(slots=True)
class Place:
    """Where an object of a gang works: its worker's number, which stays, and its communicator, which may change.

    When a worker is lost or joins, the others get a new communicator with new ranks. `slot`, of `slots`, stays: it is
    the rank at the beginning, and a worker that joins takes that of one that was lost. `fresh` is true for a worker
    that joined after the others had begun.
    """

    worker: int
    comm: Communicator
    device: str = "cpu"
    fresh: bool = False
    slot: int = 0
    slots: int = 1


#: Makes the object that a worker serves.
Factory = Callable[[Place], Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call to one worker: its value, or what went wrong.

    `lost`: the worker is gone. `broken`: it lives, but a collective failed, for which another worker is to blame.
    """

    worker: int
    value: Any = None
    error: str = ""
    traceback: str = ""
    lost: bool = False
    broken: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return not (self.lost or self.broken or self.error)


def answer_of(worker: int, function: Callable[[], Any]) -> Answer:
    """Call the function and wrap what comes of it."""
    try:
        return Answer(worker, function())
    except PeerLost as error:
        return Answer(worker, error=str(error), broken=True)
    except Exception as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return Answer(worker, error=text, traceback=traceback.format_exc())


@dataclass(frozen=True, slots=True)
class Meeting:
    """How the workers of a generation find each other: a store at `host:port`, who comes, and for how long to wait."""

    host: str
    port: int
    name: str
    workers: tuple[int, ...]  # by rank
    hosts: tuple[str, ...]  # by rank
    backend: str
    timeout_s: float


class Member:
    """One worker process of a gang. Its methods are called one at a time; what fails is in the answer."""

    def __init__(self, worker: int, device: str, threads: int, around: Surroundings, fresh: bool = False) -> None:
        around.take()
        torch.set_num_threads(threads)
        self._sessions: dict[str, Any] = {}
        self._store: Any = None
        alone = ProcessGroupCommunicator(None, 0, 1, [host_name()], device=device)
        self.place = Place(worker, alone, device, fresh)

    def who(self) -> Answer:
        """Return the host and the process that this worker is."""
        return Answer(self.place.worker, (host_name(), os.getpid()))

    def host_store(self, address: str, timeout_s: float) -> int:
        """Open the store through which the gang meets, here; return its port."""
        timeout = timedelta(seconds=timeout_s)
        self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        port: int = self._store.port
        return port

    def join(self, meeting: Meeting) -> Answer:
        """Take a place in a new generation of the gang."""
        return answer_of(self.place.worker, lambda: self._join(meeting))

    def _join(self, meeting: Meeting) -> None:
        if self._store is None:
            timeout = timedelta(seconds=meeting.timeout_s)
            self._store = TCPStore(meeting.host, meeting.port, is_master=False, timeout=timeout)
        self.place.comm = ProcessGroupCommunicator.join(
            self._store, meeting.name, meeting.workers.index(self.place.worker), len(meeting.workers), meeting.hosts,
            device=self.place.device, backend=meeting.backend, timeout_s=meeting.timeout_s,
            traffic=self.place.comm.traffic,
        )  # fmt: skip

    def open(self, session: str, factory: Factory, fresh: bool, slot: tuple[int, int]) -> Answer:
        """Make the object of a session, for a slot of so many; `fresh`: of one that the others have begun."""

        def make() -> None:
            self.place.fresh = fresh
            self.place.slot, self.place.slots = slot
            self._sessions[session] = factory(self.place)

        return self._freeing(make)

    def call(self, session: str, method: str, args: tuple[Any, ...]) -> Answer:
        """Call a method of a session's object."""
        return self._freeing(lambda: getattr(self._sessions[session], method)(*args))

    def drop(self, session: str) -> Answer:
        """Forget the object of a session, and with the last one the groups that were made for them."""

        def forget() -> None:
            served = self._sessions.pop(session, None)
            if served is not None:
                getattr(served, "let_go", lambda: None)()
                getattr(served, "close", lambda: None)()
            del served
            if not self._sessions:
                release_subgroups()

        return answer_of(self.place.worker, forget)

    def leave(self) -> Answer:
        """Leave the gang: peers in a collective notice at once."""
        return answer_of(self.place.worker, leave)

    def _freeing(self, function: Callable[[], Any]) -> Answer:
        answer = answer_of(self.place.worker, function)
        if not answer.ok:  # those that wait in a collective for this worker must not wait for the time-out
            for served in self._sessions.values():
                getattr(served, "let_go", lambda: None)()
            leave()
        return answer


def host_name() -> str:
    """Return the name of the machine, or of the Ray node: workers with the same one are neighbours."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        node: str = ray.get_runtime_context().get_node_id()
        return node
    return socket.gethostname()
