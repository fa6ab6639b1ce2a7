"""Robust training as a trainable: one epoch a step, exact checkpoints, and the paper's measurements on the way.

Metrics of every epoch: `epoch`, `train_loss`, `val_accuracy`, `val_adv_accuracy` (PGD; the objective of a search),
`lr`, `samples_per_s` (of training alone). Every `analysis_every` epochs and after the last one also `train_` and
`test_accuracy`, `train_` and `test_adv_accuracy`, `test_mt_accuracy` (MultiTargeted), `train_` and `test_lipschitz`,
`gap` and `adv_gap`: these are for reading, never to be tuned on.

Every random draw belongs to a stream that is named by the trial's seed, its purpose, the epoch and the batch. So there
is no generator to save, a resumed training equals an uninterrupted one bit for bit on the CPU, an analysis changes no
training, and two methods see the same batches, augmentations and dropout masks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tune_platform.trainable import DONE, Trainable
from tune_platform.trainables.any_data import named_images
from tune_platform.trainables.data import Images, load_images
from tune_platform.trainables.robustness.attacks import check_radius
from tune_platform.trainables.robustness.evaluate import Evaluation, Part, build_evaluation
from tune_platform.trainables.robustness.methods import build_method
from tune_platform.trainables.robustness.models import AUGMENTATIONS, build_model
from tune_platform.trainables.robustness.separation import check_separated
from tune_platform.trainables.runtime import (
    PRECISIONS,
    TEST_READ,
    autocast,
    check_names,
    check_step_options,
    deterministic,
    generator,
    reads_test,
    stream_seed,
    use_threads,
)  # fmt: skip
from tune_platform.trainables.stepping import Averages, split
from tune_platform.trainables.values import (
    AT_LEAST_0,
    BELOW_1,
    PATH,
    POSITIVE,
    SHARE,
    SWITCH,
    TEXT,
    Rule,
    as_number,
    check_values,
    number,
    whole,
)

#: The hyperparameters, each with its default.
DEFAULTS: Mapping[str, Any] = {
    # data: a name that `tune_platform.trainables.data.load_images` knows, "torchvision:NAME" or "module:function"
    "dataset": "digits",
    "root": None,
    "split_seed": 0,  # draws the validation (for digits: and test) images
    "val": None,
    "train_size": None,
    "image_size": None,
    # network
    "model": "cnn",
    "width": 16,
    "depth": 40,  # of wrn
    "dropout": 0.0,
    "weights": None,  # a file of weights to begin with: what fits is taken, the rest is told
    # method
    "method": "natural",
    "eps": 0.1,  # radius of all measurements, and of training unless train_eps says otherwise
    "train_eps": None,
    "attack_steps": 10,
    "attack_mode": "eval",  # of the network while it is attacked in training
    "beta": 6.0,  # trades
    "rst_lambda": 1.0,
    "gr_lambda": 1.0,
    "gr_h": 1.0,
    "llr_lambda": 4.0,
    "llr_mu": 3.0,
    "llr_steps": 2,
    "as_released": False,  # gr, llr: with the defect of the authors' code
    # optimisation
    "optimizer": "adam",
    "lr": 1e-3,
    "momentum": 0.9,  # sgd
    "weight_decay": 0.0,
    # constant | step (a tenth after 1/3, 2/3 and 5/6 of the epochs) | cosine | one_cycle (up from 1/25 in `warmup`, 0.3
    # where that is 0, and down to zero)
    "schedule": "constant",
    "batch_size": 64,
    "epochs": 20,  # where no scheduler, and no `stop`, says when a trial ends at the latest
    "shift": 0,
    "flip": False,
    "warmup": 0.0,  # share of the epochs in which the rate rises
    "precision": "float32",  # or bfloat16, float16
    "accumulate": 1,  # parts of a batch that are computed one after the other: less memory, the same step
    "max_grad_norm": 0.0,  # gradients are clipped to it; 0: not
    "channels_last": False,
    "compile": False,  # by torch.compile
    "ema": 0.0,  # decay of averaged weights, which are then measured; 0: none
    "lean_checkpoints": False,  # that after the last epoch is without the optimizer's state
    "deterministic": False,  # an operation that is not raises an error
    # measurements
    "analysis_every": 0,  # epochs; 0: after the last only
    "analysis_images": 1000,  # of train and of test; 0: all
    "pgd_steps": 10,
    "pgd_restarts": 1,
    "targeted_steps": 20,
    "lipschitz_steps": 10,
    "lipschitz_restarts": 1,
    "test": "always",  # test images are read by each analysis, by that after the "last" epoch alone, or "never"
    "allow_overlap": False,  # an eps that is larger than half the separation of the classes
}
#: Options of other trainables, and why they are not here.
ABSENT: Mapping[str, str] = {
    "evaluation": "it is one process: RobustnessGangTrainable of robustness.gang has it",
}
_STATE_FILE = "state.pt"
#: What the data depend on, beside the radius that they are checked for.
DATA_KEYS = ("dataset", "root", "split_seed", "val", "train_size", "image_size")


#: What each may be, where no error of its own says so.
_RULES: Mapping[str, Rule] = {
    **{
        name: whole(1)
        for name in (
            "epochs", "batch_size", "pgd_steps", "pgd_restarts", "targeted_steps", "lipschitz_steps",
            "lipschitz_restarts", "attack_steps", "llr_steps", "width", "depth",
        )
    },
    **{name: whole(0) for name in ("shift", "analysis_every", "analysis_images", "split_seed")},
    **{name: whole(1).or_null for name in ("train_size", "image_size")},
    **dict.fromkeys(("root", "weights"), PATH.or_null),
    **dict.fromkeys(
        ("dataset", "model", "method", "attack_mode", "optimizer", "schedule", "precision", "test"), TEXT
    ),
    **dict.fromkeys(("flip", "allow_overlap", "as_released"), SWITCH),
    **dict.fromkeys(("lr", "weight_decay"), AT_LEAST_0),
    **dict.fromkeys(("beta", "rst_lambda", "gr_lambda", "llr_lambda", "llr_mu"), AT_LEAST_0),
    "eps": number("a radius"),
    "train_eps": number("a radius").or_null,
    "gr_h": POSITIVE,
    "momentum": SHARE,
    "dropout": BELOW_1,
    "val": number("a share above 0 and below 1", lambda value: 0 < value < 1).or_null,
}  # fmt: skip


class Parts(NamedTuple):
    """The three splits on the device, and what the network must fit."""

    train: Part
    val: Part
    test: Part
    classes: int
    shape: tuple[int, int, int]


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with defaults for what it leaves out. Raises ValueError for an unknown or impossible value."""
    check_names(config, DEFAULTS, ABSENT)
    given = {**DEFAULTS, **config}
    check_values(given, _RULES)
    check_radius(float(given["eps"]))
    if float(given["eps"]) == 0:
        raise ValueError("eps is the radius of all measurements, above 0, got 0 (train_eps may be 0)")
    if given["train_eps"] is not None:
        check_radius(float(given["train_eps"]), "train_eps")
    check_step_options(given)
    if not 0 <= as_number(given["warmup"]) < 1:
        raise ValueError(f"warmup is a share of the epochs, 0 to below 1, got {given['warmup']!r}")
    if given["compile"] and given["method"] == "llr" and not given["as_released"]:
        raise ValueError("compile: llr differentiates its gradients once more, which compiled graphs cannot")
    if given["test"] not in TEST_READ:
        raise ValueError(f"test is 'always', 'last' or 'never', got {given['test']!r}")
    if given["schedule"] not in ("constant", "step", "cosine", "one_cycle"):
        raise ValueError(f"schedule is 'constant', 'step', 'cosine' or 'one_cycle', got {given['schedule']!r}")
    if given["precision"] not in PRECISIONS:
        raise ValueError(f"precision is 'float32', 'bfloat16' or 'float16', got {given['precision']!r}")
    if given["precision"] == "float16" and given["attack_mode"] == "train":
        raise ValueError(
            "precision: float16 scales the gradient of each attacked image by itself, and with attack_mode 'train' "
            "batch normalisation makes images depend on each other: take attack_mode 'eval', or bfloat16"
        )
    return given


def load_parts(config: Mapping[str, Any], device: str) -> Parts:
    """Load the data of a complete `config` onto `device`, and check that `eps` fits it."""
    name, root, seed = str(config["dataset"]), config["root"], int(config["split_seed"])
    val, train_size, size = config["val"], config["train_size"], config["image_size"]
    images: Images = (
        named_images(name, root, seed, size, 0.1 if val is None else float(val), train_size)
        if ":" in name
        else load_images(name, root, seed, val, train_size, size)
    )
    parts = Parts(
        images.read("train", device),
        images.read("val", device),
        images.read("test", device),
        images.classes,
        images.shape,
    )
    if not config["allow_overlap"]:
        check_separated(*parts.train, float(config["eps"]))
    return parts


class Training:
    """One training run: `epoch()` trains for one and measures; `save` and `load` are exact."""

    def __init__(self, config: Mapping[str, Any], parts: Parts, seed: int) -> None:
        self.config = complete(config)
        self.parts, self.seed = parts, seed
        self.device = parts.train[0].device
        self.epochs_done = 0
        self.method = build_method(self.config)
        self.evaluation: Evaluation = build_evaluation(self.config)
        self._masks = torch.Generator(device=self.device)
        with torch.random.fork_rng(devices=[]):  # layers initialise themselves from the global generator only
            torch.manual_seed(stream_seed(seed, "weights"))
            self.model = build_model(self.config, parts.shape, parts.classes, self._masks).to(self.device)
        if self.config["channels_last"]:
            self.model = self.model.to(memory_format=torch.channels_last)
        if self.config["compile"]:
            self.model.compile()  # in place: the names of its parameters stay
        self.averages = Averages(self.model, float(self.config["ema"]))
        self.optimizer = build_optimizer(self.config, self.model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config["precision"] == "float16")

    def epoch(self) -> dict[str, Any]:
        """Train for one epoch, measure, and return the metrics; `done` is true after the last."""
        metrics = self.learn()
        metrics[DONE] = self.epochs_done >= int(self.config["epochs"])
        every = int(self.config["analysis_every"])
        with self.averages.standing_in():
            metrics["val_accuracy"] = self.evaluation.accuracy(self.model, self.parts.val)
            metrics["val_adv_accuracy"] = self.evaluation.pgd_accuracy(
                self.model, self.parts.val, self.seed, "val", self.epochs_done
            )
            if metrics[DONE] or (every and self.epochs_done % every == 0):
                metrics.update(self.analysis())
        return metrics

    def learn(self) -> dict[str, Any]:
        """Train for one epoch and return its loss, learning rate and throughput.

        Raises FloatingPointError where the loss is no longer a number.
        """
        started = time.perf_counter()
        lr = self._set_lr()
        images, labels = self.parts.train
        size = int(self.config["batch_size"])
        order = torch.randperm(len(labels), generator=self._stream("order"), device=self.device)
        total = torch.zeros((), device=self.device)  # summed on the device: no wait per batch
        self.model.train()
        with deterministic(self.config["deterministic"]):
            for batch, start in enumerate(range(0, len(order), size)):
                chosen = order[start : start + size]
                total += self._learn(images[chosen], labels[chosen], batch) * len(chosen)
        train_loss = total.item() / len(labels)
        seconds = time.perf_counter() - started
        if not math.isfinite(train_loss):
            raise FloatingPointError(
                f"the training loss of epoch {self.epochs_done + 1} is {train_loss}: lower lr ({self.config['lr']!r})"
            )
        self.epochs_done += 1
        return {
            "epoch": self.epochs_done,
            "train_loss": train_loss,
            "lr": lr,
            "samples_per_s": len(labels) / seconds,
        }

    def analysis(self) -> dict[str, float]:
        """Return the paper's measurements of the network as it is; of training images alone, where `test` says so."""
        train = sample(self.config, "train", self.parts.train)
        asked = reads_test(self.config["test"], self.epochs_done >= int(self.config["epochs"]))
        test = sample(self.config, "test", self.parts.test) if asked else None
        return self.evaluation.everything(self.model, train, test, self.seed, self.epochs_done)

    def save(self, directory: Path) -> None:
        """Write everything that the next epoch depends on; where there is none, weights do for `lean_checkpoints`."""
        lean = self.config["lean_checkpoints"] and self.epochs_done >= int(self.config["epochs"])
        state = {
            "epochs_done": self.epochs_done,
            "model": self.model.state_dict(),
            "optimizer_name": self.config["optimizer"],
            "optimizer": None if lean else self.optimizer.state_dict(),
            "averages": self.averages.state(),
            "scaler": self.scaler.state_dict(),
        }
        torch.save(state, directory / _STATE_FILE)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote. Hyperparameters stay this config's, which a clone may have changed."""
        state = torch.load(directory / _STATE_FILE, map_location="cpu", weights_only=True)
        self.epochs_done = state["epochs_done"]
        self.model.load_state_dict(state["model"])
        self.averages.load(state.get("averages", []))
        if self.scaler.is_enabled() and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        if state["optimizer"] is not None and state["optimizer_name"] == self.config["optimizer"]:
            own = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(state["optimizer"])
            for group, mine in zip(self.optimizer.param_groups, own, strict=True):
                group.update(mine)

    def _learn(self, x: Tensor, y: Tensor, batch: int) -> Tensor:
        """Take one step on a batch and return its mean loss."""
        for name, augment in AUGMENTATIONS.items():
            if self.config[name]:
                pixels = (int(self.config[name]),) if name == "shift" else ()
                x = augment(x, *pixels, self._stream(name, batch))
        self._masks.manual_seed(stream_seed(self.seed, "dropout", self.epochs_done, batch))
        if self.config["channels_last"]:
            x = x.to(memory_format=torch.channels_last)
        draws = self._stream("attack", batch)
        self.optimizer.zero_grad()
        mean = torch.zeros((), device=self.device)
        for images, labels in split((x, y), int(self.config["accumulate"])):
            with autocast(self.device, str(self.config["precision"])):
                loss = self.method.loss(self.model, images, labels, draws) * (len(labels) / len(y))
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            mean += loss.detach()
        if self.config["max_grad_norm"]:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), float(self.config["max_grad_norm"]))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.averages.update()
        return mean

    def _stream(self, *purpose: str | int) -> torch.Generator:
        return generator(self.device, self.seed, *purpose, self.epochs_done)

    def _set_lr(self) -> float:
        """Set the learning rate of the coming epoch: a function of the epoch alone, so there is nothing to save."""
        epochs = int(self.config["epochs"])
        lr = float(self.config["lr"]) * rate_factor(self.config, self.epochs_done / epochs, 1 / epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr


class RobustnessTrainable(Trainable):
    """One epoch a step; the data stay on the device (`cuda` with a GPU in the lease) for the worker's next trial."""

    one_process = (
        "its attacks draw for whole batches; the trainable for a gang is "
        "tune_platform.trainables.robustness.gang:RobustnessGangTrainable"
    )

    def setup(self, config: dict[str, Any]) -> None:
        """Take the threads of the lease, check the hyperparameters, load the data and build the network."""
        use_threads(self.context)
        self._loaded: tuple[tuple[Any, ...], Parts] | None = None
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Begin a new training with `config` and the context's present seed; data that are the same are kept.

        Where it names no `epochs`, they are those after which the scheduler, or `stop`, ends the trial at the latest.
        """
        latest = self.context.horizon
        if "epochs" not in config and (epochs := latest.get("epoch", latest.get("step"))) is not None:
            config = {**config, "epochs": math.ceil(epochs)}
        given = complete(config)
        build_method(given)  # so that a mistake is told before anything is loaded
        key = tuple(given[name] for name in (*DATA_KEYS, "eps", "allow_overlap"))
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = key, load_parts(given, self.context.device)
        self.config = config
        self.training = Training(config, self._loaded[1], self.context.seed)
        return True

    def step(self) -> dict[str, Any]:
        """Train for one epoch."""
        return self.training.epoch()

    def save_checkpoint(self, directory: Path) -> None:
        """Write the state of the training."""
        self.training.save(directory)

    def load_checkpoint(self, directory: Path) -> None:
        """Go on from a saved state."""
        self.training.load(directory)


def sample(config: Mapping[str, Any], name: str, part: Part) -> Part:
    """Return `analysis_images` of a split, at random: files may be in the order of their classes.

    They are the same ones in every epoch, and for every trial on the same split.
    """
    images, labels = part
    count = int(config["analysis_images"])
    if not 0 < count < len(labels):
        return part
    draws = generator("cpu", int(config["split_seed"]), "analysis", name)
    chosen = torch.randperm(len(labels), generator=draws)[:count].to(labels.device)
    return images[chosen], labels[chosen]


def rate_factor(config: Mapping[str, Any], share: float, step: float) -> float:
    """Return what the rate is multiplied by where a `share` of the training is done, and the next `step` comes."""
    warmup = float(config["warmup"])
    if config["schedule"] == "one_cycle":
        warmup = warmup or 0.3
        rise = min(1.0, (share + step) / warmup)
        past = min(1.0, max(0.0, share - warmup) / (1 - warmup))
        return (1 / 25 + 24 / 25 * rise) * 0.5 * (1 + math.cos(math.pi * past))
    factors = {
        "constant": 1.0,
        "step": 0.1 ** sum(share >= milestone - 1e-9 for milestone in (1 / 3, 2 / 3, 5 / 6)),
        "cosine": 0.5 * (1 + math.cos(math.pi * min(share, 1.0))),
    }
    rise = min(1.0, (share + step) / warmup) if warmup else 1.0
    return rise * factors[config["schedule"]]


def build_optimizer(config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of a complete `config`. Raises ValueError for one that there is not."""
    lr, weight_decay = float(config["lr"]), float(config["weight_decay"])
    if config["optimizer"] == "sgd":
        momentum = float(config["momentum"])
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    if config["optimizer"] == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    if config["optimizer"] == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    raise ValueError(f"optimizer is 'sgd', 'adam' or 'adamw', got {config['optimizer']!r}")
