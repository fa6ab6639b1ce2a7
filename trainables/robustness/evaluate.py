"""What a trained network is worth: clean and adversarial accuracy, local Lipschitz constant, generalisation gaps.

Every analysis draws from a stream of its own and leaves the network's weights, buffers, mode and gradients as it found
them, so that a training is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tune_platform.trainables.pixels import Stored
from tune_platform.trainables.robustness.attacks import Attack, analysed, survives_multi_targeted, survives_pgd
from tune_platform.trainables.robustness.lipschitz import local_lipschitz
from tune_platform.trainables.runtime import generator

#: Images and labels of one split, on the device; images that do not fit there become float32 as they are looked at.
Part = tuple[Tensor | Stored, Tensor]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How networks are measured; `eps` is the radius of everything, and `batch` images are attacked at a time."""

    eps: float
    pgd_steps: int = 10
    pgd_restarts: int = 1
    targeted_steps: int = 20
    lipschitz_steps: int = 10
    lipschitz_restarts: int = 1
    batch: int = 512

    def accuracy(self, model: nn.Module, part: Part) -> float:
        """Return the share of images that are classified rightly."""

        def right(x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                hits: Tensor = model(x).argmax(1) == y
                return hits

        with analysed(model):
            return self._mean(right, part)

    def pgd_accuracy(self, model: nn.Module, part: Part, seed: int, *purpose: str | int) -> float:
        """Return the share of images that PGD does not break."""
        attack = Attack(self.eps, self.pgd_steps, restarts=self.pgd_restarts)
        draws = generator(part[0].device, seed, "pgd", *purpose)
        return self._mean(lambda x, y: survives_pgd(model, x, y, attack, draws), part)

    def targeted_accuracy(self, model: nn.Module, part: Part, seed: int, *purpose: str | int) -> float:
        """Return the share of images that no target of MultiTargeted breaks."""
        attack = Attack(self.eps, self.targeted_steps)
        draws = generator(part[0].device, seed, "targeted", *purpose)
        return self._mean(lambda x, y: survives_multi_targeted(model, x, y, attack, draws), part)

    def lipschitz(
        self, model: nn.Module, part: Part, seed: int, *purpose: str | int, as_released: bool = False
    ) -> float:
        """Return the mean over the images of the local Lipschitz constant."""
        attack = Attack(self.eps, self.lipschitz_steps, restarts=self.lipschitz_restarts)
        draws = generator(part[0].device, seed, "lipschitz", *purpose)
        return self._mean(lambda x, y: local_lipschitz(model, x, attack, draws, as_released=as_released), part)

    def everything(
        self, model: nn.Module, train: Part, test: Part | None, seed: int, *purpose: str | int
    ) -> dict[str, float]:
        """Return the columns of the paper's tables: accuracies, gaps (train - test) and Lipschitz constants.

        `train` is to be without augmentation, or the gap would be none. Without `test`, those of `train` alone.
        """
        parts: Mapping[str, Part] = {"train": train} if test is None else {"train": train, "test": test}
        found: dict[str, float] = {}
        for name, part in parts.items():
            found[f"{name}_accuracy"] = self.accuracy(model, part)
            found[f"{name}_adv_accuracy"] = self.pgd_accuracy(model, part, seed, name, *purpose)
            found[f"{name}_lipschitz"] = self.lipschitz(model, part, seed, name, *purpose)
        if test is None:
            return found
        found["test_mt_accuracy"] = self.targeted_accuracy(model, test, seed, "test", *purpose)
        found["gap"] = found["train_accuracy"] - found["test_accuracy"]
        found["adv_gap"] = found["train_adv_accuracy"] - found["test_adv_accuracy"]
        return found

    def _mean(self, measure: Callable[[Tensor, Tensor], Tensor], part: Part) -> float:
        images, labels = part
        total = 0.0
        for start in range(0, len(labels), self.batch):
            block = slice(start, start + self.batch)
            total += float(measure(images[block], labels[block]).double().sum())
        return total / len(labels)


def build_evaluation(config: Mapping[str, Any]) -> Evaluation:
    """Return how `config` measures; its radius is `eps`, whatever the radius of the training."""
    return Evaluation(
        float(config["eps"]),
        int(config["pgd_steps"]),
        int(config["pgd_restarts"]),
        int(config["targeted_steps"]),
        int(config["lipschitz_steps"]),
        int(config["lipschitz_restarts"]),
    )
