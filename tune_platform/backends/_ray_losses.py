"""How workers of the Ray backend end badly: why one died, what it left behind, and whether its node is to blame."""

from __future__ import annotations

import logging

from ray.exceptions import RayError, RayTaskError

from tune_platform.backends._batch import Failure, Item
from tune_platform.backends._journal import recover
from tune_platform.backends._obituary import cause_of, obituary, process_of
from tune_platform.backends._ray_avoid import IN_A_ROW, Rows
from tune_platform.backends._ray_nodes import Nodes
from tune_platform.backends._ray_worker import RayWorker
from tune_platform.backends._writer import Written
from tune_platform.backends.executor import trial_folder
from tune_platform.errors import ExperimentError
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Launch
from tune_platform.protocol.text import plain

logger = logging.getLogger(__name__)

#: Workers in a row that Ray gives up before they run, after which it is the cluster that is missing.
_CLUSTER_IS_GONE = 3


class Losses:
    """What one driver has seen go wrong."""

    def __init__(self, job: Job, nodes: Nodes) -> None:
        self._job = job
        self._nodes = nodes
        self._rows = Rows()
        self._never_ran = 0  # workers in a row that Ray gave up before they ran

    def failure(self, worker: RayWorker, trial: int, error: BaseException) -> Failure:
        """Return why `trial` failed with its worker, from what a call to that has raised.

        Raises ExperimentError where it is not a worker that has died but the cluster: no trial is to blame then.
        """
        if isinstance(error, ConnectionError):
            return Failure("node_lost", f"the worker process {worker.name} was given up: {error}")
        if isinstance(error, RayTaskError) or not isinstance(error, RayError):
            return Failure("exception", str(error.__cause__ or error), str(error))
        cause, lost = cause_of(error), self._nodes.lose(worker.shape.nodes)
        if cause == "worker_died" and lost:
            cause = "node_lost"
        said = plain(str(error))
        message = obituary(worker.name, said, trial_folder(self._job, trial), cause)
        self.mourn(message, node_lost=cause == "node_lost")
        # What Ray has to say goes where a traceback would be; the last line is the one that is shown in short.
        return Failure(cause, message, f"{said.strip()}\n{message}")

    def left_behind(self, worker: RayWorker, lease: Launch, error: BaseException) -> list[Item]:
        """Return what a dead process had reported and nobody has fetched."""
        process = process_of(worker.name, str(error))
        found = recover(self._job.directory, process, lease.trial, lease.attempt, worker.step)
        return [item for item in found if not (isinstance(item, Written) and item.ref.uri in worker.saved)]

    def went_well(self, worker: RayWorker) -> None:
        """Note that a trial has come to its milestone or its end."""
        if (node := _node_of(worker)) is not None:
            self._rows.went_well(node)

    def note(self, worker: RayWorker, trial: int, failure: Failure) -> bool:
        """Note how an attempt has failed; True where trial after trial does there, so that its node is avoided now."""
        node = _node_of(worker)
        if node is None or failure.fatal or not self._rows.failed(node, trial, failure.cause):
            return False
        if not self._nodes.avoid(node):
            return False
        logger.warning(
            "node %d (%s) is avoided from now on: %d trials in a row have failed there, while others went well "
            "elsewhere; the last: %s. Mend it, and resume the experiment: that tries it again",
            node, worker.name.rpartition(":")[0] or "its name is not known", IN_A_ROW, failure.message,
        )  # fmt: skip
        return True

    def mourn(self, message: str, *, node_lost: bool = False) -> None:
        """Note how a worker died. Raises ExperimentError where several in a row could not be started.

        Those that were to start on a node that is lost say nothing of the others: there may be many of them.
        """
        if node_lost:
            return
        self._never_ran = self._never_ran + 1 if "never ran" in message else 0
        if self._never_ran >= _CLUSTER_IS_GONE:
            raise ExperimentError(
                f"{self._never_ran} workers in a row could not be started: is the Ray cluster gone? Nothing that was "
                f"reported is lost: resume the experiment once Ray is back. The last: {message}"
            )


def _node_of(worker: RayWorker) -> int | None:
    """Return the worker's node; None for a gang on several: which of them it was is not known."""
    nodes = set(worker.shape.nodes)
    return nodes.pop() if len(nodes) == 1 else None
