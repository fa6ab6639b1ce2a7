"""The trigger of asynchronous LSGD: worker 0 counts the steps of all workers and says when to exchange.

The rule of the authors' server (Teng et al. 2019, Algorithm 1: an exchange where the sum of all step counts is a
multiple of W period). The first W period steps are answered "step", the next W questions "exchange": a worker that is
told so waits in the collective for the others, so each of them is told once. Then the count begins anew. Outside of an
exchange, a worker is told to stop when all together have taken W until steps.

The authors' worker asks before each step. Here it does so where answers come fast; else it asks for several steps at
once, so many that its waiting for answers takes at most `_PATIENCE` of its time. It is given half of its share of what
is left before the exchange at most (one step at least), so that no slow worker has many to itself when others are done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from tune_platform.distributed.communicator import Communicator

#: The share of its time that a worker spends at most on asking.
_PATIENCE = 0.01


class StepCounter:
    """Counts between exchanges `period` steps a worker, of all workers of `comm`. To be made by all of them together.

    `before` is the counter of another membership, whose counts per worker go on in this one.
    """

    STEP: ClassVar[int] = 0
    EXCHANGE: ClassVar[int] = 1
    STOP: ClassVar[int] = 2

    def __init__(self, comm: Communicator, period: int, before: StepCounter | None = None) -> None:
        self._workers, self._limit = comm.size, comm.size * period
        self._asked = 0  # steps given since the last exchange, and answers "exchange"
        self._taken = 0  # steps given to all workers since the beginning
        #: Steps a worker, of all of them, as far as this one has heard.
        self.mean = 0.0
        self._clock = comm.clock
        self._granted = 0  # steps that this worker may take without asking
        self._wanted = 1  # how many it asks for
        self._answered: float | None = None  # when it was last given steps; how long it waited for them, how many
        self._waited, self._given = 0.0, 1
        if before is not None:
            self.load_state_dict(before.state_dict())
            self._granted = before._granted  # which are counted
        self._request = comm.open_centre(self._answer)

    def ask(self, until: int) -> int:
        """Return what this worker has to do in a run that ends at `until` steps a worker."""
        if self._granted:
            self._granted -= 1
            return self.STEP
        began = self._clock()
        if self._answered is not None:
            self._wanted = self._worth(began - self._answered)
        reply = self._request(torch.tensor([float(until), float(self._wanted)]))
        answer, self.mean, given = (float(value) for value in reply)
        self._answered, self._waited, self._given = None, self._clock() - began, int(given)
        if answer == self.STEP:
            self._answered, self._granted = self._clock(), self._given - 1
        return int(answer)

    def _worth(self, seconds: float) -> int:
        """Return for how many steps to ask, where the last answer's took so many seconds."""
        if self._waited <= 0:
            return 1
        least = _PATIENCE * seconds / self._given
        return math.ceil(self._waited / least) if self._waited < least * self._limit else self._limit

    def exchanged(self) -> None:
        """Begin anew: an exchange took place that had been cut off."""
        self._asked = 0

    def _answer(self, rank: int, question: Tensor) -> Tensor:
        answer, given = self.STEP, 0
        left = min(self._limit - self._asked, self._workers * int(question[0]) - self._taken)
        if self._asked >= self._limit:
            answer = self.EXCHANGE
            self._asked = 0 if self._asked + 1 == self._limit + self._workers else self._asked + 1
        elif left <= 0:
            answer = self.STOP
        else:
            given = max(1, min(int(question[1]), left // (2 * self._workers)))
            self._asked += given
            self._taken += given
        return torch.tensor([float(answer), self._taken / self._workers, float(given)])

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
        """Return the bytes over all links per step of a worker at most: 8 to ask, 12 to answer, exchanges too."""
        return 20.0 * (workers - 1) * (1 + 1 / period)
