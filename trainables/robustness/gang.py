"""Robust training by a gang of workers: the same data, networks, methods and measurements, by any strategy.

Hyperparameters are those of `RobustnessTrainable` and, beside them, `strategy`, `workers`, `updates`, `report_every`,
`ema` and `evaluation` as `trainables/classification.py` has them. `batch_size` is that of one worker; the rate follows
its schedule step by step; `analysis_every` is left out: the paper's measurements come with the last report, and so
`test`, which says whether they read the test images, is "last" or "never".

Each worker attacks its own images with draws of its own: a gang of one is another training than `RobustnessTrainable`,
with the same methods. Measurements may be shared by the workers (`evaluation: sharded`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from tune_platform.distributed import DistributedTrainable, ShardedBatches, Strategy
from tune_platform.errors import SpecError
from tune_platform.trainables.digits import Dropout
from tune_platform.trainables.pixels import Stored
from tune_platform.trainables.robustness.evaluate import Part, build_evaluation
from tune_platform.trainables.robustness.methods import build_method
from tune_platform.trainables.robustness.models import AUGMENTATIONS, build_model
from tune_platform.trainables.robustness.trainable import (
    DATA_KEYS,
    DEFAULTS,
    Parts,
    build_optimizer,
    complete,
    load_parts,
    rate_factor,
    sample,
)
from tune_platform.trainables.runtime import autocast, check_names
from tune_platform.trainables.stepping import STEP_DEFAULTS, SteppingWorker, check_step
from tune_platform.trainables.strategies import STRATEGIES
from tune_platform.trainables.values import check_values
from tune_platform.trainables.values import whole as whole_number

_ABSENT = {
    "analysis_every": "the paper's measurements come with its last report",
}
#: What is not of the training of one process.
OF_THE_GANG = ("strategy", "workers", "updates", "report_every", "evaluation")
SETTINGS = (*(name for name in DEFAULTS if name != "analysis_every"), *OF_THE_GANG)


@lru_cache(maxsize=2)
def _parts(*values: Any) -> Parts:
    """Load the data; kept, so that the next trial in this process has them, and threads share them."""
    return load_parts(dict(zip((*DATA_KEYS, "eps", "allow_overlap"), values, strict=True)), "cpu")


class RobustnessGangTrainable(DistributedTrainable):
    """Trains a robust classifier by the strategy of the config; see the module for the hyperparameters."""

    strategies = STRATEGIES
    worker_class = SteppingWorker
    default_epochs = DEFAULTS["epochs"]
    #: Whether this is the last report of the training; set by the worker.
    at_end = False

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise SpecError or ValueError for a hyperparameter that there is not, and for what cannot be."""
        check_names(config, SETTINGS, _ABSENT)
        whole = self._whole(config)
        build_method(whole)
        strategy = self.build_strategy(config)
        check_step({**STEP_DEFAULTS, **config}, strategy)
        check_values(
            config, {name: whole_number(1) for name in ("workers", "updates", "report_every") if name in config}
        )
        if config.get("test") == "always":
            raise SpecError(
                "test: 'last' or 'never', got 'always': the paper's measurements, which read the test images, come "
                "with the last report alone"
            )
        if strategy.name == "fully_sharded":
            raise SpecError(
                f"strategy {strategy.name!r} gathers weights for one pass forward and one backward, and attacks hold "
                "them still for passes of its own: take 'all_reduce'"
            )
        if type(strategy).extra_loss is not Strategy.extra_loss:
            raise SpecError(
                f"strategy {strategy.name!r} compares what two models return for the same images, and a robust method "
                "asks each about images of its own: take another strategy, or ClassificationTrainable"
            )

    @staticmethod
    def _whole(config: Mapping[str, Any]) -> dict[str, Any]:
        return complete({name: value for name, value in config.items() if name not in OF_THE_GANG})

    def parts(self) -> Parts:
        """Return the data of the config, on the CPU: each worker takes its batches to a device of its own."""
        whole = self._whole(self.config)
        return _parts(*(whole[name] for name in (*DATA_KEYS, "eps", "allow_overlap")))

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the network; its dropout draws from a generator that each batch begins anew."""
        whole, parts = self._whole(config), self.parts()
        self._masks = torch.Generator()
        model = build_model(whole, parts.shape, parts.classes, self._masks)
        if whole["channels_last"]:
            model = model.to(memory_format=torch.channels_last)
        if whole["compile"]:
            model.compile()
        return model

    def build_optimizer(self, config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer that the single process has."""
        return build_optimizer(self._whole(config), model)

    def build_scheduler(
        self, config: Mapping[str, Any], optimizer: torch.optim.Optimizer, total: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return warm-up, steps or cosine, by inner steps."""
        whole = self._whole(config)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(whole, step / total, 1 / total))

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Iterable[Any]:
        """Return this worker's batches of images and labels."""
        train: Any = self.parts().train
        return ShardedBatches(train, int(self._whole(config)["batch_size"]), rank, world_size, self.context.seed)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the method's loss; its draws come from torch's generator, which is the worker's own."""
        whole, (x, y) = self._whole(self.config), batch
        draws = torch.Generator(device=x.device).manual_seed(int(torch.randint(2**62, ())))
        self._draw_masks_on(x.device, model)
        self._masks.manual_seed(int(torch.randint(2**62, ())))
        for name, augment in AUGMENTATIONS.items():
            if whole[name]:
                x = augment(x, *((int(whole[name]),) if name == "shift" else ()), draws)
        if whole["channels_last"]:
            x = x.to(memory_format=torch.channels_last)
        # Also where nothing is learnt, as when BatchNorm's statistics are recorded: an attack needs gradients.
        with torch.enable_grad(), autocast(x.device, str(whole["precision"])):
            return build_method(whole).loss(model, x, y, draws)

    def _draw_masks_on(self, device: torch.device, model: nn.Module) -> None:
        """Have the dropout of `model` draw by a generator of ours on `device`, which only a batch knows."""
        if self._masks.device != device:
            self._masks = torch.Generator(device=device)
        for module in model.modules():
            if isinstance(module, Dropout):
                module.generator = self._masks

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return accuracy and adversarial accuracy on the validation images; at the end the paper's measurements."""
        return {name: total / count for name, (total, count) in self.evaluate_share(model, 0, 1).items()}

    def evaluate_share(self, model: nn.Module, rank: int, size: int) -> dict[str, tuple[float, float]]:
        """Return for each metric its sum over every `size`-th image from `rank` on, and their number."""
        whole, seed = self._whole(self.config), self.context.seed
        evaluation, parts = build_evaluation(whole), self.parts()
        device = next(model.parameters()).device
        val = _share(parts.val, rank, size, device)
        found = {
            "val_accuracy": (evaluation.accuracy(model, val), len(val[1])),
            "val_adv_accuracy": (evaluation.pgd_accuracy(model, val, seed, "val", rank), len(val[1])),
        }
        if self.at_end:
            train = _share(sample(whole, "train", parts.train), rank, size, device)
            test = None if whole["test"] == "never" else _share(sample(whole, "test", parts.test), rank, size, device)
            for name, value in evaluation.everything(model, train, test, seed, rank).items():
                part = train if name.startswith("train_") or test is None else test
                found[name] = (value, len(part[1]))
            for gap in ("gap", "adv_gap"):
                found.pop(gap, None)  # no means over images: `step` has them
        return {name: (value * count, count) for name, (value, count) in found.items()}

    def step(self) -> dict[str, Any]:
        """Train to the next report and evaluate; the gaps are differences of what all workers found."""
        metrics = super().step()
        for kind in ("", "adv_"):
            train, test = (metrics.get(f"{part}_{kind}accuracy", math.nan) for part in ("train", "test"))
            if not math.isnan(train - test):
                metrics[f"{kind}gap"] = train - test
        return metrics


def _share(part: Part, rank: int, size: int, device: torch.device) -> Part:
    """Return every `size`-th image from `rank` on, on a device; those of files are read when they are looked at."""
    images, labels = part
    chosen = torch.arange(rank, len(labels), size)
    mine = images.some(chosen) if isinstance(images, Stored) else images[chosen]
    return mine.to(device), labels[chosen].to(device)
