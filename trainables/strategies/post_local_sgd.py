"""Post-local SGD: synchronous data parallelism first, local SGD for the rest.

    for k < K0:    x <- x - eta 1/W sum_i g_i(x)
    then:          x_i <- x_i - eta 1/M sum_{j in node of i} g_j(x_j),    and every H steps x_i <- 1/W sum_j x_j

Lin et al. 2018, "Don't Use Large Mini-Batches, Use Local SGD": K0 is classically the first drop of the learning rate.
A node may be more than one worker: inside it gradients are averaged at every step to the end, as torch's post-local
SGD hook does. The first average comes H steps after K0; torch's PeriodicModelAverager has one at K0 itself, where
all workers are equal anyway.

A worker that is lost in the first phase, or the others of its node afterwards, may have missed a step: those that
average their gradients take model and optimizer state of one of them. So do those of a node when a checkpoint of other
nodes is loaded.

Options: `period` H, `inner_state` (see `Rounds`), `start` K0 as a share of the training, `node_size` in workers:
1 for plain local SGD, or "host" for those of one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from tune_platform.distributed.communicator import blocks, by_host
from tune_platform.distributed.strategy import option_number
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.data_parallel import AveragesGradients, GradientAverage
from tune_platform.trainables.strategies.local_sgd import LocalSGD
from tune_platform.trainables.strategies.pricing import known_hosts

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class PostLocalSGD(AveragesGradients, LocalSGD):
    """Post-local SGD; see the module."""

    name = "post_local_sgd"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {"period": 16, "inner_state": "local", "start": 0.5, "node_size": 1}

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        option_number(self.name, self.options, "start", 0, 1)
        if self.options["node_size"] != "host":
            try:
                option_number(self.name, self.options, "node_size", 1, integer=True)
            except SpecError as error:
                raise SpecError(f"{error}; or 'host' for the workers of one machine") from None

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        super().setup(worker)
        self._start = round(self.options["start"] * worker.total_updates)
        self._local = False
        if not worker.place.fresh:
            self._average_gradients()

    def _average_gradients(self) -> None:
        """Average gradients with all workers, or with those of the node."""
        self.gradients = GradientAverage(self.worker, self._nodes() if self._local else None)

    def _nodes(self) -> list[list[int]]:
        """Return the ranks of each node."""
        comm, size = self.worker.comm, self.options["node_size"]
        return by_host(comm.hosts) if size == "host" else blocks(comm.size, int(size))

    def before_step(self) -> None:
        """Go over to local SGD where it is time."""
        if not self._local and self.worker.updates >= self._start:
            self._closed, self._local = self.worker.updates, True
            self._gradients.close()
            self._average_gradients()
        super().before_step()

    def _close(self) -> None:
        if self._local:
            super()._close()

    @property
    def agreed(self) -> bool:
        """Whether all workers have the same parameters and buffers at this step."""
        return not self._local or super().agreed

    def state_dict(self) -> dict[str, Any]:
        """Return the phase, the round and the nodes."""
        return {**super().state_dict(), "local": self._local, "nodes": self._nodes()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned. Where nodes are others now, all of one take what its first worker took."""
        super().load_state_dict(state)
        if bool(state["local"]) != self._local:
            self._local = bool(state["local"])
            self._gradients.close()
            self._average_gradients()
        if self._local and state.get("nodes") != self._nodes():
            self._gradients.align()

    def on_membership_change(self, newest: int) -> None:
        """Average gradients among those that are here."""
        self._local = bool(self.worker.comm.broadcast(torch.tensor([float(self._local)]), newest))
        if not self.worker.place.fresh:
            self._gradients.close()
        self._average_gradients()
        self._gradients.align()
        super().on_membership_change(newest)

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """Return the mean over the training. With node_size="host" give `hosts`: the host of each worker, by rank.

        Raises SpecError where it is asked for and not given: a gang's bytes depend on where its workers are.
        """
        options = {**cls.DEFAULTS, **options}
        if options["node_size"] == "host":
            nodes = by_host([str(host) for host in known_hosts(cls.name, options, workers)])
        else:
            nodes = blocks(workers, int(options["node_size"]))
        first = 8.0 * parameters * (workers - 1)
        inside = sum(8.0 * parameters * (len(part) - 1) for part in nodes)
        return float(
            options["start"] * first
            + (1 - options["start"]) * (inside + super().bytes_per_step(parameters, workers, options))
        )
