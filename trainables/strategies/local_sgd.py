"""Local SGD: the workers train on their own and average their parameters after every H steps.

    x_i <- x_i - eta g_i(x_i)  (H times);    x_i <- 1/W sum_j x_j

Stich 2018, "Local SGD Converges Fast and Communicates Little", Algorithm 1; with H in the order of an epoch,
FedAvg (McMahan et al. 2017). With plain, heavy-ball or Nesterov SGD the parameters at H = 1 are those of synchronous
data parallelism up to rounding, although the momentum buffers differ: the update is linear. With Adam they are not.
Bytes: one all-reduce of N parameters per H steps. The mean of the workers is evaluated.

Options: `period` H, in steps or, below 1, as a share of the training; `inner_state` (see `Rounds`).
"""

from __future__ import annotations

from torch import Tensor

from tune_platform.trainables.strategies.averaging import Rounds


class LocalSGD(Rounds):
    """Local SGD; see the module."""

    name = "local_sgd"

    def exchange(self, mean: Tensor) -> Tensor:
        """Return the mean."""
        return mean
