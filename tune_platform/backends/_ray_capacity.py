"""What a Ray cluster has for this driver: its nodes, and the driver's share where others want some of it too."""

from __future__ import annotations

import getpass
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tune_platform.backends._aside import Aside
from tune_platform.backends._ray_autoscaler import request
from tune_platform.backends._ray_nodes import Nodes
from tune_platform.cluster.admission import ALL, Admission, Kind, Standing
from tune_platform.cluster.allocation import Place
from tune_platform.cluster.demand import Demand
from tune_platform.cluster.ray_board import RayBoard
from tune_platform.protocol.backend import Job
from tune_platform.resources import Resources

#: Seconds between two looks at what other drivers want.
_LOOK_S = 1.0
#: ... and until it is looked whether the answer is there.
_SOON_S = 0.1
#: Kinds of trials that the others are told of at most: all drivers read it every second.
_KINDS = 8


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # one that the system does not know, as in a container
        return str(os.getuid())


#: Who runs this driver.
_USER = _user()
_WHO = f"{_USER}@{socket.gethostname()}"


class Capacity:
    """What can be leased. Times are on the monotonic clock.

    Raises ExperimentError, from any method that looks at the cluster, once that is gone.
    """

    def __init__(
        self, job: Job, nodes: Nodes, *, autoscale: bool | int = False, weight: float = 1.0, priority: int = 0
    ) -> None:
        self.nodes = nodes
        self.share = ALL
        self.offered: tuple[Mapping[str, float], ...] = ()
        self._job = job
        self._wanted: dict[Resources, int] | None = None  # trials that run, wait and are to come, once that is known
        self._next_look = 0.0
        nodes.look_up()
        self._admission: Admission | None = None  # where trials hold anything
        # Where each config has its own resources, those of the first trials are not known yet.
        resources = Resources() if job.resources is None else job.resources
        if resources.bundle():
            standing = Standing(weight, priority, _USER)
            self._admission = Admission(RayBoard(), resources, job.max_concurrent, standing)
            if job.resources is not None:
                self._admission.check_quota()
            self.share = self._admission.share(self._named(), active=True, about=self._about(0))
        self._demand: Demand | None = None  # where Ray's autoscaler is asked for places
        if autoscale:
            self._demand = Demand(RayBoard("demand"), request, math.inf if autoscale is True else autoscale)
        self._looking, self._telling = Aside("ray-share"), Aside("ray-demand")
        self.changed()

    @property
    def due(self) -> float:
        """When there is something to be looked at next."""
        return min(self.nodes.due, self.share_due)

    @property
    def share_due(self) -> float:
        """When the share is to be looked at next."""
        return self._next_look if self._admission is not None else math.inf

    @property
    def reclaim(self) -> str:
        """Say why what is beyond it is to be given back soon; empty where it is given back as trials end."""
        return self.nodes.drained or self.share.reclaim

    @property
    def shared(self) -> bool:
        """Whether others have some of the nodes, so that what does not fit now may once they have ended."""
        return self.share.parts is not None

    def changed(self) -> bool:
        """Take over what can be leased now; whether that has changed."""
        before, have = self.offered, self.nodes.have
        self.offered = have if self.share.parts is None else self.share.parts
        return self.offered != before

    def look_at_share(self, *, active: bool, running: Sequence[tuple[Resources, Sequence[int]]]) -> None:
        """Look what the others want, beside the loop: Ray's store may not answer, and the share stays as it was then.

        `active`: this driver has something to run; `running`: of each trial that has a place what it holds, and its
        nodes.
        """
        found, admission, nodes = self._looking.take(), self._admission, self._named()
        if found is not None and found[1] is None:
            self.share = found[0]
        elif found is None and admission is not None and not self._looking.busy and self.nodes.answer():
            about, kinds = self._about(len(running)), self._kinds(running)
            active = active or self._waits > 0  # it may be that nothing runs as it has no place
            self._looking.ask(lambda: admission.share(nodes, active=active, kinds=kinds, about=about))
        self._next_look = time.monotonic() + (_SOON_S if self._looking.busy else _LOOK_S)

    def _kinds(self, running: Sequence[tuple[Resources, Sequence[int]]]) -> list[Kind]:
        """Return what this driver wants of each kind, the more urgent first; nothing where it is not known yet."""
        if self._wanted is None:
            return []
        places: dict[Resources, list[Place]] = {resources: [] for resources in self._wanted}
        for resources, nodes in running:
            places.setdefault(resources, []).append(self._place(nodes))
        wanted, kinds = self._wanted, list(places.items())
        found = [Kind(resources, wanted.get(resources, 0), at) for resources, at in kinds[:_KINDS]]
        if not found:
            return [Kind(self._job.resources or Resources(), 0)]
        if len(kinds) > _KINDS:  # the rest counts as more of the last
            rest = sum(max(wanted.get(resources, 0), len(at)) for resources, at in kinds[_KINDS:])
            found[-1] = found[-1]._replace(wanted=found[-1].wanted + rest)
        return found

    @property
    def _waits(self) -> int:
        return sum((self._wanted or {}).values())

    def _named(self) -> dict[str, dict[str, float]]:
        """Return what each node has by its id, which all drivers know, in this driver's order."""
        return dict(zip(map(_short, self.nodes.ids), self.nodes.have, strict=True))

    def _place(self, nodes: Sequence[int]) -> Place:
        return tuple(_short(self.nodes.ids[node]) for node in nodes if node < len(self.nodes.ids))

    def expect(self, trials: Sequence[tuple[Resources, int]]) -> None:
        """Make known to Ray's autoscaler, beside the loop, for how many trials of which kind places are wanted."""
        self._wanted = dict(trials)
        if (demand := self._demand) is not None:
            self._telling.take()
            self._telling.ask(lambda: demand.tell(trials))

    def _about(self, runs: int) -> dict[str, Any]:
        """Return what `tune-platform top` tells of this driver."""
        most, places = self._job.max_concurrent, self.share.places
        return {
            "experiment": self._job.experiment, "who": _WHO, "holds": self._holds(), "runs": runs,
            "waits": max(0, self._waits - runs), "why": self.share.why,
            "most": None if most == math.inf else most, "places": None if places == math.inf else places,
        }  # fmt: skip

    def _holds(self) -> str:
        kinds = list(self._wanted or ([] if self._job.resources is None else [self._job.resources]))
        return " or ".join(map(str, kinds[:3])) + (f" or {len(kinds) - 3} more" if len(kinds) > 3 else "") or "?"

    def look_at_once(self) -> None:
        """Have the others know at once what this driver wants."""
        self._next_look = 0.0

    def close(self) -> None:
        """Tell the others that this driver wants nothing any more."""
        admission, self._admission = self._admission, None
        demand, self._demand = self._demand, None
        if admission is not None:
            admission.close()
        if demand is not None:
            demand.withdraw()


def _short(node: str) -> str:
    """Return so much of a node's id as tells it from others: notes are read by all drivers, every second."""
    return node[:12]
