"""What a Ray cluster has for this driver: its nodes, and the driver's share where others want some of it too."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping

from tune_platform.backends._ray_board import RayBoard
from tune_platform.backends._ray_nodes import Nodes
from tune_platform.cluster.admission import ALL, Admission, offered
from tune_platform.protocol.backend import Job

logger = logging.getLogger(__name__)

#: Seconds between two looks at what other drivers want.
_LOOK_S = 1.0


class Capacity:
    """What can be leased. Times are on the monotonic clock.

    Raises ExperimentError, from any method that looks at the cluster, once that is gone.
    """

    def __init__(self, job: Job, nodes: Nodes) -> None:
        self.nodes = nodes
        self.share = ALL
        self.offered: tuple[Mapping[str, float], ...] = ()
        self._resources = job.resources
        self._next_look = 0.0
        nodes.look_up()
        self._admission: Admission | None = None  # where all trials hold the same
        if job.resources is not None and job.resources.bundle():
            self._admission = Admission(RayBoard(), job.resources, job.max_concurrent)
        self.look_at_share(active=True)
        self.changed()

    @property
    def due(self) -> float:
        """When there is something to be looked at next."""
        return min(self.nodes.due, self.share_due)

    @property
    def share_due(self) -> float:
        """When the share is to be looked at next."""
        return self._next_look if self._admission is not None else math.inf

    def changed(self) -> bool:
        """Take over what can be leased now; whether that has changed."""
        before, have = self.offered, self.nodes.have
        self.offered = have if self._resources is None else offered(have, self._resources, self.share)
        return self.offered != before

    def look_at_share(self, *, active: bool) -> None:
        """Look up what the others want; `active`: this driver has something to run."""
        self._next_look = time.monotonic() + _LOOK_S
        if self._admission is not None and self.nodes.answer():
            try:
                self.share = self._admission.share(self.nodes.have, active=active)
            except Exception:  # of Ray's, where its store cannot be reached: the share stays as it was
                logger.debug("the notes of other drivers cannot be read", exc_info=True)

    def look_at_once(self) -> None:
        """Have the others know at once what this driver wants."""
        self._next_look = 0.0

    def forget_share(self) -> None:
        """Have no share from now on: trials hold different resources."""
        self.share, self._admission = ALL, None

    def close(self) -> None:
        """Tell the others that this driver wants nothing any more."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.close()
