"""Image classification by a gang of workers: any strategy, on digits, CIFAR-10, a folder of images or made-up data.

Hyperparameters, all with a default:

- `task`: "digits", "cifar10", "image_folder" or another name of `trainables/data.py` (the files under `root`), or
  "synthetic": `examples` Gaussian images of `shape` in `classes` classes, of any size, for speed work; or
  "torchvision:NAME" for another data set of torchvision, or "module:function", called with `root` and returning Images;
- `model`: "mlp" (`layers` of `width`), "cnn" (`channels`, twice as many in the second convolution; `norm`: with
  BatchNorm), the name of a torchvision classifier ("resnet50"), or "module:function", called with `num_classes`;
  `dropout` for the first two; `weights`: a file of a state dict or of safetensors to begin with, where what does not
  fit (a head of other classes) is logged by name; `channels_last`; `compile`: by torch.compile;
- `size`: pixels that the images of a folder, or of torchvision:NAME, are resized and centrally cropped to (needed where
  sizes differ); `train_size`: so many training images alone. A task that has no use for them refuses them;
- `crop`: training images are moved by up to so many pixels; `flip`: the chance that one is mirrored;
- `optimizer`: "sgd" (`momentum`, `nesterov`) or "adamw"; `lr`; `weight_decay`; `warmup`: share of the training in
  which the rate rises; `drops`: shares at which it falls to a tenth; `schedule`: "constant", "cosine" (to zero at the
  end, after the warm-up), "step" (to a tenth after a half and three quarters) or "one_cycle" (up from 1/25 in `warmup`,
  0.3 where that is 0, and down to zero). The end is that of `epochs` or `updates`, which are best left out with a
  scheduler: then it is the scheduler's `max`; `label_smoothing`;
- `precision`: "float32", "bfloat16" or "float16" (of the forward pass; parameters stay float32; the loss of float16 is
  scaled); `accumulate`: a batch is computed in so many parts, which changes memory and not the step;
  `max_grad_norm`: gradients are clipped to it (0: not); `ema`: decay of averaged weights, which are then evaluated (0:
  none); `deterministic`: an operation that is not raises an error; `lean_checkpoints`: the one after the last step is
  without the optimizer's state;
- `evaluation`: by the "first" worker while the others wait, or "sharded" over all; `test`: test images are read at the
  "last" report (default), at each ("always") or "never";
- `batch_size` per worker; `partition`: "shard" (each worker its part) or "same" (all data, an order of its own);
- `epochs`, or `updates` for a number of inner steps (default: until the scheduler, or `stop`, ends a trial at the
  latest, where one counts epochs, updates or steps; else 10 epochs); `report_every` inner steps (default: an epoch);
- `strategy`: a name of `tune_platform.trainables.strategies`, or a dict with a `name` and its options; `workers`: how
  many, where the trial's resources do not say.

A name that is none of these is refused before anything is trained. A class of your own adds its names to `settings`.

Metrics: `val_loss`, `val_accuracy` (the objective), `test_accuracy`, `test_loss` (not to be tuned on), and those of
`DistributedTrainable`.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset
from torch.utils.data.distributed import DistributedSampler

from tune_platform.distributed import DistributedTrainable, ShardedBatches
from tune_platform.distributed.data import reading
from tune_platform.errors import SpecError, did_you_mean
from tune_platform.trainables.any_data import named_images
from tune_platform.trainables.augment import Augmented
from tune_platform.trainables.data import Images, load_images
from tune_platform.trainables.named_models import named_model
from tune_platform.trainables.pixels import ThreadedLoader, in_threads
from tune_platform.trainables.runtime import PRECISIONS, TEST_READ, autocast, check_names, reads_test
from tune_platform.trainables.schedules import SCHEDULES, rate_factor
from tune_platform.trainables.stepping import STEP_DEFAULTS, SteppingWorker, check_step
from tune_platform.trainables.strategies import STRATEGIES
from tune_platform.trainables.weights import load_weights

logger = logging.getLogger(__name__)

DEFAULTS: Mapping[str, Any] = {
    "task": "digits",
    "root": None,
    "examples": 4096,
    "shape": (1, 8, 8),
    "classes": 10,
    "model": "mlp",
    "width": 32,
    "layers": 1,
    "channels": 8,
    "norm": False,
    "dropout": 0.0,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-4,
    "warmup": 0.0,
    "drops": (),
    "batch_size": 32,
    "partition": "shard",
    "train_size": None,
    "split_seed": 0,
    "size": None,
    "crop": 0,
    "flip": 0.0,
    "schedule": "constant",
    "label_smoothing": 0.0,
    "weights": None,
    "channels_last": False,
    "compile": False,
    "test": "last",
    **STEP_DEFAULTS,
}
#: What `DistributedTrainable` reads.
_OF_THE_GANG = ("strategy", "workers", "epochs", "updates", "report_every")
#: Images of a training set at most that are held in memory as one tensor.
_IN_MEMORY = 100_000
_EVALUATION_BATCH = 500
#: Of the settings that are words.
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("sgd", "adamw"),
    "partition": ("shard", "same"),
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "test": TEST_READ,
}
#: Of those that are numbers: the least and the most.
_NUMBERS: Mapping[str, tuple[float, float]] = {
    "lr": (0, math.inf), "weight_decay": (0, math.inf), "momentum": (0, 1), "dropout": (0, 1), "warmup": (0, 1),
    "label_smoothing": (0, 1),
}  # fmt: skip
#: Of those that are whole numbers: the least.
_WHOLE: Mapping[str, int] = {
    "width": 1, "layers": 0, "channels": 1, "batch_size": 1, "examples": 1, "classes": 2, "size": 1, "train_size": 1,
    "epochs": 1, "updates": 1, "report_every": 1, "workers": 1,
}  # fmt: skip
_TASKS = ("digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "image_folder", "synthetic")


class Task(NamedTuple):
    """Three parts of (images, labels): tensors in memory, or map-style datasets; the size of images and labels."""

    train: Any
    val: Any
    test: Any
    shape: tuple[int, int, int]
    classes: int


@lru_cache(maxsize=4)
def load_task(
    name: str, root: str | None, examples: int, shape: tuple[int, int, int], classes: int, train_size: int | None,
    split_seed: int, size: int | None = None,
) -> Task:  # fmt: skip
    """Load a task; kept, so that the next trial in this process has it. Raises SpecError for an unknown name.

    Images in memory are standardised by the mean and deviation of the training images.
    """
    if ":" not in name and name not in _TASKS:
        raise SpecError(f"task: one of {', '.join(_TASKS)}, got {name!r}{did_you_mean(str(name), _TASKS)}")
    if name == "synthetic":
        if size is not None or train_size is not None:
            given = "size" if size is not None else "train_size"
            raise SpecError(f"{given}: task 'synthetic' has `shape` and `examples` instead")
        return _synthetic(examples, shape, classes, split_seed)
    if ":" in name:
        images = named_images(name, root, seed=split_seed, size=size, train_size=train_size)
    else:
        images = load_images(name, root, seed=split_seed, train_size=train_size, size=size)
    if images.size("train") > _IN_MEMORY or name == "image_folder" or ":" in name:
        return Task(images.train, images.val, images.test, images.shape, images.classes)
    mean, std = images.mean.view(1, -1, 1, 1), images.std.clamp(min=1e-6).view(1, -1, 1, 1)

    def part(split: Any) -> tuple[Tensor, Tensor]:
        x, y = Images.tensors(images, split)
        return (x - mean) / std, y

    return Task(part("train"), part("val"), part("test"), images.shape, images.classes)


def _synthetic(examples: int, shape: tuple[int, int, int], classes: int, seed: int) -> Task:
    """Gaussian images around a centre for each class: any size, nothing to read, and something to learn."""
    draws = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, *shape, generator=draws)

    def part(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(classes, (count,), generator=draws)
        return centres[labels] * 0.5 + torch.randn(count, *shape, generator=draws), labels

    held_out = max(1, examples // 8)
    return Task(part(examples), part(held_out), part(held_out), shape, classes)


class ClassificationTrainable(DistributedTrainable):
    """Trains a classifier by the strategy of the config; see the module for the hyperparameters."""

    strategies = STRATEGIES
    worker_class = SteppingWorker
    #: Whether this is the last report of the training; set by the worker.
    at_end = False
    #: The hyperparameters that there are.
    settings: ClassVar[Sequence[str]] = (*DEFAULTS, *_OF_THE_GANG)
    _filled: tuple[Any, dict[str, Any]] = (None, {})

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise SpecError for a hyperparameter that there is not, and for a value that cannot be."""
        check_names(config, self.settings)
        whole = {**DEFAULTS, **config}
        for name, allowed in _CHOICES.items():
            if whole[name] not in allowed:
                raise SpecError(f"{name}: {' or '.join(map(repr, allowed))}, got {whole[name]!r}")
        _check_numbers(whole)
        check_step(whole, self.build_strategy(config))

    def task(self) -> Task:
        """Return the data of the config's task."""
        config = self._config
        return load_task(
            config["task"], config["root"], int(config["examples"]), tuple(config["shape"]), int(config["classes"]),
            config["train_size"], int(config["split_seed"]), config["size"],
        )  # fmt: skip

    @property
    def _config(self) -> dict[str, Any]:
        """The config with its defaults: filled in once, for each step asks."""
        if self._filled[0] is not self.config:
            self._filled = (self.config, {**DEFAULTS, **self.config})
        return self._filled[1]

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the network, with the weights of a file. Raises SpecError for a model or file that there is not."""
        config = self._config
        model = self._network()
        if config["weights"] is not None:
            logger.info("weights of %s: %s", config["weights"], load_weights(model, str(config["weights"])))
        if config["channels_last"]:
            model = model.to(memory_format=torch.channels_last)
        if config["compile"]:
            model.compile()  # in place: the names of its parameters stay
        return model

    def _network(self) -> nn.Module:
        config = self._config
        task = self.task()
        channels, height, width = task.shape
        if config["model"] == "mlp":
            return _mlp(channels * height * width, task.classes, config)
        if config["model"] == "cnn":
            return _cnn(task.shape, task.classes, config)
        if float(config["dropout"]):
            raise SpecError(f"dropout: a rate of 'mlp' and 'cnn'; {config['model']!r} has its own: leave it 0")
        return named_model(str(config["model"]), task.classes, ("mlp", "cnn"))

    def build_optimizer(self, config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
        """Return SGD or AdamW."""
        config = self._config
        lr, weight_decay = float(config["lr"]), float(config["weight_decay"])
        if config["optimizer"] == "sgd":
            momentum, nesterov = float(config["momentum"]), bool(config["nesterov"])
            return torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay, nesterov=nesterov)
        return torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)

    def build_scheduler(
        self, config: Mapping[str, Any], optimizer: torch.optim.Optimizer, total: int
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Return warm-up, drops and cosine, by inner steps; None where there are none."""
        config = self._config
        warmup, drops = float(config["warmup"]), [float(drop) for drop in config["drops"]]
        schedule = str(config["schedule"])
        if schedule == "constant" and warmup == 0 and not drops:
            return None

        def factor(step: int) -> float:
            return rate_factor(schedule, step, total, warmup, drops)

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Iterable[Any]:
        """Return this worker's batches."""
        config = self._config
        batches = self._batches(rank, world_size)
        crop, flip = int(config["crop"]), float(config["flip"])
        return Augmented(batches, crop, flip, self.context.seed, rank) if crop or flip else batches

    def _batches(self, rank: int, world_size: int) -> Iterable[Any]:
        config = self._config
        shard, batch_size = config["partition"] == "shard", int(config["batch_size"])
        train = self.task().train
        if isinstance(train, tuple):
            return ShardedBatches(train, batch_size, rank, world_size, self.context.seed, shard=shard)
        # Without shards the order differs by the seed: each worker then draws from all of the images.
        sampler: DistributedSampler[Any] = DistributedSampler(
            train, world_size if shard else 1, rank if shard else 0,
            seed=(self.context.seed + (0 if shard else rank)) % 2**31, drop_last=True,
        )  # fmt: skip
        loaders = self._loaders()
        if loaders == 0 and in_threads(train):
            return ThreadedLoader(train, batch_size, sampler=sampler, drop_last=True)
        return DataLoader(train, batch_size, sampler=sampler, num_workers=loaders, drop_last=True)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean cross-entropy."""
        config, (images, labels) = self._config, batch
        if config["channels_last"]:
            images = images.to(memory_format=torch.channels_last)
        if config["precision"] == "float32":
            logits = model(images)
        else:
            with autocast(images.device, config["precision"]):
                logits = model(images).float()
        return functional.cross_entropy(logits, labels, label_smoothing=float(config["label_smoothing"]))

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return loss and accuracy on the validation images, and where `test` says so on the test images."""
        return {name: total / count for name, (total, count) in self.evaluate_share(model, 0, 1).items()}

    @torch.no_grad()
    def evaluate_share(self, model: nn.Module, rank: int, size: int) -> dict[str, tuple[float, float]]:
        """Return for each metric its sum over every `size`-th image from `rank` on, and their number."""
        task, device, asked = self.task(), next(model.parameters()).device, self._config["test"]
        parts = {"val": task.val}
        if reads_test(asked, self.at_end):
            parts["test"] = task.test
        found: dict[str, tuple[float, float]] = {}
        for name, part in parts.items():
            total, right, count = 0.0, 0, 0
            with reading(self._to_judge(part, rank, size)) as batches:
                for images, labels in batches:
                    logits, labels = model(images.to(device)), labels.to(device)
                    total += functional.cross_entropy(logits, labels, reduction="sum").item()
                    right += int((logits.argmax(1) == labels).sum())
                    count += len(labels)
            found |= {f"{name}_loss": (total, count), f"{name}_accuracy": (right, count)}
        return found

    def _to_judge(self, part: tuple[Tensor, Tensor] | Dataset[Any], rank: int, size: int) -> Iterable[Sequence[Tensor]]:
        if isinstance(part, tuple):
            return zip(*(torch.split(tensor[rank::size], _EVALUATION_BATCH) for tensor in part), strict=True)
        chosen = part if size == 1 else Subset(part, range(rank, len(part), size))  # type: ignore[arg-type]
        loaders = self._loaders()
        if loaders == 0 and in_threads(part):
            return ThreadedLoader(chosen, _EVALUATION_BATCH)
        return DataLoader(chosen, _EVALUATION_BATCH, num_workers=loaders)

    def _loaders(self) -> int:
        """Return how many processes read images: as many as the trial's CPUs leave; they end with the epoch.

        None where there is one CPU: a thread then reads ahead, where the images may be read by one.
        """
        return max(0, int(self.context.resources.get("cpu", 1)) - 1)


def _check_numbers(config: Mapping[str, Any]) -> None:
    """Raise SpecError, which names it, for a number that cannot be."""
    for name, (low, high) in _NUMBERS.items():
        if not low <= _number(config[name]) <= high:
            reach = f"from {low:g} on" if high == math.inf else f"from {low:g} to {high:g}"
            raise SpecError(f"{name}: a number {reach}, got {config[name]!r}")
    for name, least in _WHOLE.items():
        value = config.get(name)
        if value is not None and not (_number(value).is_integer() and _number(value) >= least):
            raise SpecError(f"{name}: a whole number, {least} or more, got {value!r}")
    drops, shape = config["drops"], config["shape"]
    if not isinstance(drops, Sequence) or not all(0 <= _number(drop) <= 1 for drop in drops):
        raise SpecError(f"drops: a list of shares of the training, each from 0 to 1, got {drops!r}")
    if not isinstance(shape, Sequence) or len(shape) != 3 or not all(_number(side) >= 1 for side in shape):
        raise SpecError(f"shape: channels, height and width of the images, such as [1, 8, 8], got {shape!r}")


def _number(value: Any) -> float:
    """Return a number, also where YAML took it for text (3e-4); NaN for what is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _mlp(inputs: int, classes: int, config: Mapping[str, Any]) -> nn.Module:
    sizes = [inputs] + [int(config["width"])] * int(config["layers"])
    hidden = [
        module
        for before, after in itertools.pairwise(sizes)
        for module in (nn.Linear(before, after), nn.ReLU(), nn.Dropout(float(config["dropout"])))
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


def _cnn(shape: tuple[int, int, int], classes: int, config: Mapping[str, Any]) -> nn.Module:
    first = int(config["channels"])

    def block(before: int, after: int) -> list[nn.Module]:
        norm: list[nn.Module] = [nn.BatchNorm2d(after)] if config["norm"] else []
        return [nn.Conv2d(before, after, 3, padding=1), *norm, nn.ReLU()]

    return nn.Sequential(
        *block(shape[0], first), nn.MaxPool2d(2), *block(first, 2 * first), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Dropout(float(config["dropout"])), nn.Linear(2 * first * 16, classes),
    )  # fmt: skip
