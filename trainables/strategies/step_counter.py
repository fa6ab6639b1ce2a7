"""The trigger of asynchronous LSGD: worker 0 counts the steps of all workers and says when to exchange.

The rule of the authors' server (Teng et al. 2019, Algorithm 1: an exchange where the sum of all step counts is a
multiple of W period). Each worker asks before each step. The first W period questions are answered "step", the next
W "exchange": a worker that is told so waits in the collective for the others, so each of them is told once. Then the
count begins anew. Outside of an exchange, a worker is told to stop when all together have taken W until steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from tune_platform.distributed.communicator import Communicator


class StepCounter:
    """Counts between exchanges `period` steps a worker, of all workers of `comm`. To be made by all of them together.

    `before` is the counter of another membership, whose counts per worker go on in this one.
    """

    STEP: ClassVar[int] = 0
    EXCHANGE: ClassVar[int] = 1
    STOP: ClassVar[int] = 2

    def __init__(self, comm: Communicator, period: int, before: StepCounter | None = None) -> None:
        self._workers, self._limit = comm.size, comm.size * period
        self._asked = 0  # questions since the last exchange that were not answered "stop"
        self._taken = 0  # steps of all workers since the beginning
        #: Steps a worker, of all of them, as far as this one has heard.
        self.mean = 0.0
        if before is not None:
            self.load_state_dict(before.state_dict())
        self._request = comm.open_centre(self._answer)

    def ask(self, until: int) -> int:
        """Return what this worker has to do in a run that ends at `until` steps a worker."""
        answer, self.mean = (float(value) for value in self._request(torch.tensor([float(until)])))
        return int(answer)

    def exchanged(self) -> None:
        """Begin anew: an exchange took place that had been cut off."""
        self._asked = 0

    def _answer(self, rank: int, question: Tensor) -> Tensor:
        answer = self.STEP
        if self._asked >= self._limit:
            answer = self.EXCHANGE
            self._asked = 0 if self._asked + 1 == self._limit + self._workers else self._asked + 1
        elif self._taken >= self._workers * int(question[0]):
            answer = self.STOP
        else:
            self._asked += 1
            self._taken += 1
        return torch.tensor([float(answer), self._taken / self._workers])

    def state_dict(self) -> dict[str, float]:
        """Return the counts per worker; those of worker 0 are the ones that count."""
        return {"asked": self._asked / self._workers, "taken": self._taken / self._workers, "mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from counts, perhaps of another number of workers."""
        self._asked = min(self._limit, round(float(state["asked"]) * self._workers))
        self._taken = round(float(state["taken"]) * self._workers)
        self.mean = float(state["mean"])

    @staticmethod
    def bytes_per_step(workers: int, period: int) -> float:
        """Return the bytes over all links per step of a worker: 4 to ask and 8 to answer, for each exchange too."""
        return 12.0 * (workers - 1) * (1 + 1 / period)
