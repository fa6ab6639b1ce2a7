"""What the nodes of the cluster have, looked up every so often, and whether the cluster is still there.

Where its head node is gone, Ray's client would wait for it in each call, and end this process after a minute without a
word to the search; so the head is only asked while it takes connections.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterable
from typing import Any

import ray

from tune_platform.backends._aside import Aside
from tune_platform.backends._ray_placement import amounts_of
from tune_platform.cluster.address import await_listener
from tune_platform.errors import ExperimentError

logger = logging.getLogger(__name__)

#: Seconds for which a head node may take no connections, as when it starts anew. Ray's client gives up after 60.
GONE_AFTER = 30.0
_ACCEPTED_WITHIN = 1.0
#: Seconds until it is looked whether the answer has come.
_LOOK_AGAIN = 0.25


def _ask() -> tuple[list[dict[str, Any]], Iterable[str]]:
    """Ask Ray for its nodes, and for the ids of those that are drained."""
    return ray.nodes(), ray._private.state.state.get_draining_nodes()


class Nodes:
    """The nodes of the cluster that this process is connected to; `own`: it is of this process, and none will join."""

    def __init__(self, refresh_s: float, *, own: bool = False) -> None:
        self.own = own
        self.have: tuple[dict[str, float], ...] = ()  # by their places
        self.ids: list[str] = []  # by the same places: that of a node which is gone stays, and has nothing
        self.due = 0.0  # on the monotonic clock, when they are looked up next
        self.gone = False
        self._refresh_s = refresh_s
        self._aside = Aside("ray-nodes")
        self._silent_since = math.inf
        self._listen: dict[str, str] = {}  # where the raylet of each node takes connections
        self._avoided: set[str] = set()
        self._drained: set[str] = set()  # those that will go soon: by notice of a spot market, or `ray drain-node`
        self._lost: set[str] = set()  # those that take none, though Ray has not found out yet

    def look_up(self) -> None:
        """Look up what they have, beside the loop but for the first time; until the answer is there it stays as it was.

        Raises ExperimentError where the cluster is gone: no trial is to blame for that.
        """
        self.due = time.monotonic() + self._refresh_s
        self.check()
        answer = self._aside.take()
        if answer is None and self._aside.busy:
            if self._aside.waiting >= GONE_AFTER:
                said = "not answered" if self.answer() else "taken no connection"
                self._give_up(f"its head node has {said} for {GONE_AFTER:g} s")
            self.due = time.monotonic() + min(_LOOK_AGAIN, self._refresh_s)
        elif answer is not None:
            self._take(*answer)
        elif not self.answer():
            if time.monotonic() - self._silent_since >= GONE_AFTER:
                self._give_up(f"its head node has taken no connection for {GONE_AFTER:g} s")
        elif not self.have:
            self._take(_ask(), None)
        else:
            self._aside.ask(_ask)
            self.due = time.monotonic() + min(_LOOK_AGAIN, self._refresh_s)

    @property
    def drained(self) -> str:
        """Say which of the nodes are drained, so that trials leave them before they go; empty where none is."""
        names = sorted(self._listen[name].rpartition(":")[0] for name in self._drained & self._listen.keys())
        return f"{'node' if len(names) == 1 else 'nodes'} {', '.join(names)} will go soon (drained)" if names else ""

    def _take(self, answer: tuple[list[dict[str, Any]], Iterable[str]] | None, error: Exception | None) -> None:
        if error is not None or answer is None:
            logger.debug("the nodes could not be looked up", exc_info=error)
            return
        nodes, drained = answer
        self._drained = set(drained)
        found = {node["NodeID"]: node for node in nodes if node["Alive"]}
        self._listen = {name: f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}" for name, node in found.items()}
        self._lost = {name for name in self._lost & found.keys() if not self._listens(name)}
        useless = self._lost | self._avoided | self._drained
        alive = {name: node["Resources"] for name, node in found.items() if name not in useless}
        self.ids += [node for node in alive if node not in self.ids]
        self.have = tuple(amounts_of(alive.get(node, {})) for node in self.ids)

    def address_of(self, place: int) -> str | None:
        """Return the network address of a node; None where it is not known."""
        listens = self._listen.get(self.ids[place]) if place < len(self.ids) else None
        return listens.rpartition(":")[0] if listens else None

    def lose(self, places: Iterable[int]) -> bool:
        """Whether one of these nodes takes no connections any more; from here on it has nothing.

        Ray takes some 10 to 30 seconds to find that out; until then its word on a worker that died there is that the
        process has vanished, and a launch there would wait in vain.
        """
        gone = {self.ids[place] for place in places if place < len(self.ids)} - self._lost
        gone = {name for name in gone if not self._listens(name)}
        if gone and not self.own:
            self._lost |= gone
            self.have = tuple({} if name in gone else have for name, have in zip(self.ids, self.have, strict=True))
        known = self._lost | (set(self.ids) - self._listen.keys())
        return not self.own and any(self.ids[place] in known for place in places if place < len(self.ids))

    def avoid(self, place: int) -> bool:
        """Have a node offer nothing from now on; False where it does already, or no other has anything."""
        name = self.ids[place]
        if name in self._avoided or not any(have for other, have in enumerate(self.have) if other != place):
            return False
        self._avoided.add(name)
        self.have = tuple({} if name == other else have for other, have in zip(self.ids, self.have, strict=True))
        return True

    def _listens(self, name: str) -> bool:
        if name not in self._listen:
            return False
        try:
            await_listener(self._listen[name], _ACCEPTED_WITHIN)
        except ConnectionError:
            return False
        return True

    def check(self) -> None:
        """Raise ExperimentError where the process that runs the workers is one of ours, and has died.

        At the next word to it, Ray's client would end this process.
        """
        if self.own:
            for started in ray._private.worker._global_node.all_processes.get("raylet", ()):
                if started.process.poll() is not None:
                    self._give_up("the process that runs its workers has died")

    def answer(self) -> bool:
        """Whether the head node takes connections."""
        try:
            await_listener(ray.get_runtime_context().gcs_address, _ACCEPTED_WITHIN)
        except ConnectionError:
            self._silent_since = min(self._silent_since, time.monotonic())
            return False
        self._silent_since = math.inf
        return True

    def _give_up(self, why: str) -> None:
        self.gone = True
        if sys.excepthook is ray._private.worker.custom_excepthook:  # it would tell the head first, and wait for that
            sys.excepthook = ray._private.worker.normal_excepthook
        what = "the Ray that this run had started" if self.own else "the Ray cluster"
        raise ExperimentError(f"{what} is gone: {why}. Nothing that was reported is lost: resume the experiment")
