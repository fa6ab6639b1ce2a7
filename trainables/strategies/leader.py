"""Choosing a leader: the worker with the least training loss over its last batches."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor


class LossWindow:
    """The training losses of a worker's last `size` batches.

    Their mean divides by how many there are, so that a worker with fewer steps does not look better; before the first
    it is +inf. It is +inf as well where it is not a number: a training that has diverged never leads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._losses: deque[Tensor] = deque(maxlen=size)

    def add(self, loss: Tensor) -> None:
        """Take the (detached) loss of a batch; the oldest goes. Nothing is copied from the device."""
        self._losses.append(loss.reshape(()))

    def mean(self) -> float:
        """Return the mean loss, or +inf."""
        return finite(float(torch.stack(list(self._losses)).mean())) if self._losses else math.inf

    def noise(self) -> float:
        """Return the standard error of the mean, 0 where there are fewer than two losses."""
        if len(self._losses) < 2:
            return 0.0
        return float(torch.stack(list(self._losses)).std()) / math.sqrt(len(self._losses))

    def state(self) -> Tensor:
        """Return the losses, oldest first."""
        return torch.stack(list(self._losses)).cpu() if self._losses else torch.empty(0)

    def load(self, losses: Tensor) -> None:
        """Take what `state` returned."""
        self._losses = deque(losses.unbind(), maxlen=self.size)


def finite(loss: float) -> float:
    """Return the loss; +inf for one that is not a number."""
    return math.inf if math.isnan(loss) else loss


def elect(losses: Sequence[float], members: Sequence[int]) -> int | None:
    """Return the rank of the member with the least loss, the lowest of several; None where none has a finite one."""
    best = min(members, key=lambda rank: (losses[rank], rank))
    return best if losses[best] < math.inf else None
