"""DOWNPOUR SGD: workers add their updates to the parameters of a server and fetch them (Dean et al. 2012, "Large scale
distributed deep networks", section 4.1).

Each worker moves on its own and accumulates what it did; every `period` steps it pushes that to the server, whose
parameters are c, and takes c over (as compared in Zhang et al. 2015, Algorithm 3):

    x <- x - eta g(x),  a <- a - eta g        every period steps:  c <- c + a,  x <- c,  a <- 0

Asynchronously, which is the method, push and pull are one request, and the server answers one at a time (the authors'
code has no lock); period 1 is asynchronous SGD. Together (`asynchronous` false), all push at once: c <- c + sum_i a_i;
the *sum*, so that W workers go W times as far as one, and the learning rate has to be that much smaller.

a is taken as x minus what was last fetched, so the inner optimizer may be any; its buffers stay the worker's own, as
they were. (The paper has Adagrad at the server instead; that is not built.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from tune_platform.trainables.strategies.averaging import widened
from tune_platform.trainables.strategies.centre import CentreStrategy

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class Downpour(CentreStrategy):
    """See the module for the equations and `CentreStrategy` for the options; here `asynchronous` is true by default.

    Reports `push_norm`: |a| at the last exchange.
    """

    name: ClassVar[str] = "downpour"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {**CentreStrategy.DEFAULTS, "period": 1, "asynchronous": True}

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`."""
        super().setup(worker)
        self._norm = 0.0
        self._fetch()

    def _fetch(self) -> None:
        """Begin from the server's parameters."""
        self._take(self.centre.to(self.flat.tensors[0].device))

    def _take(self, centre: Tensor) -> None:
        self.flat.write(centre)
        self._fetched = self.flat.read()  # as the model's precision has it: what is added is exactly what was done

    def after_step(self, loss: Tensor) -> None:
        """Push and pull where it is time."""
        if self.worker.updates % self.period == 0:
            update = widened(self.flat.read()) - self._fetched
            self._norm = float(update.norm())
            self._take(self.exchange(update))

    def together(self, vector: Tensor) -> Tensor:
        """Add what all workers did to the server's parameters; return these."""
        self.centre = self.centre + self.worker.comm.all_reduce(vector, "sum")
        return self.centre

    def serve(self, vector: Tensor) -> Tensor:
        """Add what one worker did to the server's parameters; return these."""
        self.centre = self.centre + vector
        return self.centre

    def state_dict(self) -> dict[str, Any]:
        """Return the server's parameters and those last fetched: what lies between is not pushed yet."""
        return {**super().state_dict(), "fetched": self._fetched.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Strategy.load_state_dict`."""
        super().load_state_dict(state)
        self._fetched = state["fetched"].to(self._fetched)

    def on_membership_change(self, newest: int) -> None:
        """Keep the server's parameters; what a lost worker had not pushed is lost. Who joined fetches them."""
        super().on_membership_change(newest)
        if self.worker.place.fresh:
            self._fetch()

    def metrics(self) -> dict[str, float]:
        """Return the size of the last push."""
        return {"push_norm": self._norm}
