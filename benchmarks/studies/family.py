"""The picture of the family: how four workers move and agree, for each way of agreeing, on the same noisy problem.

Linear regression in two parameters from noisy batches; drawn is one parameter of each worker over the inner steps.

    python -m benchmarks.studies.family
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.studies.common import arguments, save, training
from tune_platform.distributed import DistributedTrainable, ShardedBatches, TrainingWorker
from tune_platform.trainables.strategies import STRATEGIES

WORKERS, UPDATES, PERIOD = 4, 64, 16
TRUTH = (1.0, -1.0)
SHOWN: Mapping[str, Mapping[str, Any]] = {
    "independent": {},
    "all_reduce": {},
    "local_sgd": {"period": PERIOD},
    "diloco": {"period": PERIOD},
    "easgd": {"period": PERIOD, "init": "different"},
    "lsgd": {"period": PERIOD, "pull": 0.5, "init": "different"},
    "downpour": {"period": 4},
    "codistillation": {"models": 4, "period": PERIOD, "distance": "mse"},
}


class Tracked(TrainingWorker):
    """Notes the first parameter after each inner step."""

    tracks: ClassVar[dict[int, list[float]]] = {}

    def __init__(self, recipe: Any, place: Any) -> None:
        super().__init__(recipe, place)
        self.tracks[place.worker] = [self._first()]

    def _first(self) -> float:
        return float(next(self.model.parameters()).detach()[0, 0])

    def run(self, until: int) -> dict[str, Any]:
        """Train for one inner step and note where that led."""
        figures = super().run(until)
        self.tracks[self.place.worker].append(self._first())
        return figures


class Regression(DistributedTrainable):
    """Two parameters, noisy labels, batches of four."""

    strategies = STRATEGIES
    worker_class = Tracked

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        """Return a linear model that begins far from the truth."""
        model = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            model.weight.mul_(1.5).sub_(0.5)
        return model

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Any:
        """Return this worker's share of 512 examples."""
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(512, 2, generator=draws)
        y = x @ torch.tensor(TRUTH).unsqueeze(1) + 1.5 * torch.randn(512, 1, generator=draws)
        return ShardedBatches((x, y), 4, rank, world_size, self.context.seed)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return half the mean squared error."""
        return functional.mse_loss(model(batch[0]), batch[1]) / 2


def track(name: str, options: Mapping[str, Any]) -> dict[int, list[float]]:
    """Train by one strategy; return the track of each worker."""
    Tracked.tracks.clear()
    config = {"strategy": {"name": name, **options}, "lr": 0.1, "updates": UPDATES, "report_every": 1}
    for _ in training(Regression, config, WORKERS, seed=4):
        pass
    return dict(Tracked.tracks)


def main() -> None:
    """Draw all strategies side by side."""
    given = arguments(__doc__, seeds=1)
    figure, axes = plt.subplots(2, 4, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
    found = {name: track(name, options) for name, options in SHOWN.items()}
    for axis, (name, tracks) in zip(axes.flat, found.items(), strict=True):
        for worker, values in tracks.items():
            axis.plot(values, linewidth=1.2, label=f"worker {worker}")
        axis.axhline(TRUTH[0], color="black", linewidth=0.8, linestyle=":")
        period = SHOWN[name].get("period")
        for step in range(period or UPDATES + 1, UPDATES + 1, period or 1):
            axis.axvline(step, color="0.88", linewidth=0.8, zorder=0)
        axis.set_title(name if period is None else f"{name}, every {period}", fontsize=10)
    for axis in axes[1]:
        axis.set_xlabel("inner step")
    for axis in axes[:, 0]:
        axis.set_ylabel("one parameter")
    axes[0, 0].legend(fontsize=7, frameon=False)
    figure.suptitle("Four workers, one problem: how each strategy lets them agree (dotted: the truth)", fontsize=11)
    save(
        given.out,
        "family",
        {name: {str(w): t for w, t in tracks.items()} for name, tracks in found.items()},
        figure=figure,
    )


if __name__ == "__main__":
    main()
