"""A worker process as the driver sees it: what it holds, whom it serves, and the calls to it that are under way."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tune_platform.backends._batch import Batch
from tune_platform.backends._ray_link import Link
from tune_platform.backends._ray_link import Results as AnyResults
from tune_platform.backends._ray_placement import Shape
from tune_platform.protocol.commands import Launch
from tune_platform.protocol.reports import CheckpointRef

#: The threads of a worker besides the one that trains: `collect` waits in one of the first, the others never wait long.
GROUPS = {"reports": 2, "control": 1}
_GROUP_OF = {"collect": "reports", "ask": "control", "open_door": "control"}


@dataclass(slots=True, eq=False)
class Call:
    """One actor call under way. `lease` is the launch that it serves (None: the end of one), `order` its leg."""

    kind: str
    order: int
    lease: Launch | None
    args: tuple[Any, ...]
    ref: Any = None


class Arrived(NamedTuple):
    """A batch of leg `order`. `more`: checkpoints are still being written, or reports are left in the worker."""

    order: int
    batch: Batch
    more: bool


@dataclass(slots=True, eq=False)
class RayWorker:
    """A worker process. `placement` is the group of a gang's bundles."""

    handle: Any
    shape: Shape
    placement: Any = None
    lease: Launch | None = None
    order: int = 0  # of the present leg
    training: dict[Call, None] = field(default_factory=dict)  # calls that wait for or have the thread that trains
    collecting: bool = False
    until: float | None = None  # ... its milestone
    more: bool = False  # the present leg, which is over (or only saves), still has something to tell
    name: str = ""
    strange: str = ""  # the driver's working folder, where its machine has none of that name
    step: int = 0  # the last report of the present lease that has arrived
    saved: set[str] = field(default_factory=set)  # the checkpoints of it that have
    running: bool = False  # as far as is known: the trial is not at a milestone, nor at its end
    ended: bool = True  # the trial has ended by itself, nothing is left to end
    warm: bool = False  # whether the trial that was released last is to be kept in memory
    served: bool = False  # a trial has been launched on it
    dead: bool = False
    link: Link[Call] | None = None  # for calls to the thread that trains, once it serves
    deadline: float | None = None  # for coming back after a release
    _next: int = 1  # number of the next batch
    _early: dict[int, Arrived] = field(default_factory=dict)  # those that arrived before others that come first

    def call(self, results: Results, kind: str, *args: Any) -> None:
        """Call the process; (worker, call, value or exception) arrives in `results`."""
        call = Call(kind, self.order, self.lease, args)
        group = _GROUP_OF.get(kind)
        link = self.link if group is None and kind != "serve" else None
        if group is None and kind != "serve":
            self.training[call] = None
        if link is not None and link.serves:
            if link.send(call):
                return
            link.leave()
        method = getattr(self.handle, kind)
        call.ref = (method if group is None else method.options(concurrency_group=group)).remote(*args)
        # Not `ref.future()`, which makes a future first and then does the same.
        call.ref._on_completed(lambda value: results.put((self, call, value)))
        if link is not None and link.serves:
            self.call(results, "serve")

    def give(self, checkpoint: CheckpointRef) -> Any:
        """Have the process give a copy of a checkpoint that it wrote; return the reference, for others to wait for."""
        method = self.handle.give.options(concurrency_group="control")
        return method.remote(checkpoint.trial, checkpoint.uri)

    def returned(self, call: Call) -> bool:
        """Note that a call has returned; True where the process has come back from the trials before."""
        self.training.pop(call, None)
        if call.kind == "collect":
            self.collecting = False
        if self.deadline is None:
            return False
        first = next(iter(self.training), None)
        return first is None or (self.lease is not None and first.lease is self.lease)

    def unpack(self, packed: bytes) -> list[Arrived]:
        """Take a batch and return, in order, all that can be told now: one may arrive before those that come first."""
        number, order, name, strange, batch, more = pickle.loads(packed)
        self.name, self.strange = name or self.name, strange or self.strange
        if number == self._next and not self._early:
            self._next += 1
            return [Arrived(order, batch, more)]
        self._early[number] = Arrived(order, batch, more)
        arrived = []
        while self._next in self._early:
            arrived.append(self._early.pop(self._next))
            self._next += 1
        return arrived


#: Where the results of all calls arrive.
Results = AnyResults[RayWorker, Call]
