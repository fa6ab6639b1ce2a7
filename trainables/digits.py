"""The main example: handwritten digits (scikit-learn's 1,797 images of 8 x 8), a small network in torch.

Hyperparameters, all with a default:

- `model`: "mlp", with `layers` hidden layers of `width` units, or "cnn", with `channels` in the first of two
  convolutions and twice as many in the second; `activation`: "relu", "gelu" or "tanh"; `dropout`: below 1;
- `shift`: each batch is moved by up to so many pixels either way while training (0: never);
- `optimizer`: "sgd" or "adamw"; `lr`; `momentum` (sgd only); `weight_decay`; `batch_size`;
- `epochs`: after so many the training ends by itself.

Metrics, once per epoch: `epoch`, `train_loss`, `val_loss`, `val_accuracy` (the objective), `test_accuracy`
(not to be tuned on: it says at the end what the choice by `val_accuracy` is worth), `samples_per_s`.

`DigitsTrainable` (the class API) and `train_digits` (the function API) are thin coats of one `Training`. All
randomness comes from one `torch.Generator`, which the checkpoint holds: on the CPU a resumed training equals
an uninterrupted one bit for bit, and no global generator is changed.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tune_platform.trainable import DONE, Trainable, get_checkpoint, get_context, report
from tune_platform.trainables.data import Split, load_images
from tune_platform.trainables.runtime import check_names, use_threads

DEFAULTS: Mapping[str, Any] = {
    "model": "mlp",
    "width": 64,
    "layers": 1,
    "channels": 16,
    "activation": "relu",
    "dropout": 0.0,
    "shift": 0,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "batch_size": 32,
    "epochs": 27,
}
_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
_STATE_FILE = "state.pt"


class Part(NamedTuple):
    """Images (n x 1 x 8 x 8, standardised) and their labels."""

    images: Tensor
    labels: Tensor


class Data(NamedTuple):
    """The fixed split: 1,197 images to train on, 300 to choose by, 300 to report on, stratified by label."""

    train: Part
    val: Part
    test: Part


def load_data(device: str = "cpu") -> Data:
    """Load the digits onto `device`; the split is always the same one, whatever the trial's seed."""
    images = load_images("digits")
    pixels = images.tensors("train")[0].double() * 16
    mean, std = float(pixels.numpy().mean()), float(pixels.numpy().std())

    def part(split: Split) -> Part:
        x, y = images.tensors(split)
        return Part(((x.double() * 16 - mean) / std).float().to(device), y.to(device))

    return Data(part("train"), part("val"), part("test"))


class Dropout(nn.Module):
    """Dropout that draws from the training's own generator; torch's draws from the global one."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__()
        self.p, self.generator = p, generator

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share `p` of `x` and scale up the rest, while training; else return `x`."""
        if not self.training or self.p == 0:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * keep / (1 - self.p)


def build_model(config: Mapping[str, Any], generator: torch.Generator) -> nn.Module:
    """Build the network of `config`; `generator` is its dropout's; torch's global one gives the weights.

    Raises ValueError for a `model` or an `activation` that there is not.
    """
    activation = _ACTIVATIONS.get(config["activation"])
    if activation is None:
        raise ValueError(f"activation is one of {sorted(_ACTIVATIONS)}, got {config['activation']!r}")
    dropout = float(config["dropout"])
    if config["model"] == "mlp":
        sizes = [64] + [int(config["width"])] * int(config["layers"])
        hidden = [
            module
            for before, after in itertools.pairwise(sizes)
            for module in (nn.Linear(before, after), activation(), Dropout(dropout, generator))
        ]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], 10))
    if config["model"] == "cnn":
        channels = int(config["channels"])
        return nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), activation(), nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), activation(),
            nn.Flatten(), Dropout(dropout, generator), nn.Linear(2 * channels * 16, 10),
        )  # fmt: skip
    raise ValueError(f"model is 'mlp' or 'cnn', got {config['model']!r}")


class Training:
    """One training run: `epoch()` trains for one and measures; `save` and `load` are exact.

    Raises SpecError for an unknown hyperparameter.
    """

    def __init__(self, config: Mapping[str, Any], data: Data, seed: int) -> None:
        check_names(config, DEFAULTS)
        self.config = {**DEFAULTS, **config}
        self.data = data
        self.epochs_done = 0
        device = data.train.images.device
        self.generator = torch.Generator(device=device).manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # layers initialise themselves from the global generator only
            torch.manual_seed(seed)
            self.model = build_model(self.config, self.generator).to(device)
        self.optimizer = _build_optimizer(self.config, self.model)

    def epoch(self) -> dict[str, Any]:
        """Train for one epoch and return its metrics; `done` is true after the last."""
        started = time.perf_counter()
        images, labels = self.data.train
        batch_size = int(self.config["batch_size"])
        order = torch.randperm(len(labels), generator=self.generator, device=labels.device)
        total = torch.zeros((), device=labels.device)  # summed on the device: no wait per batch
        self.model.train()
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            loss = functional.cross_entropy(self.model(self._shifted(images[batch])), labels[batch])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach() * len(batch)
        train_loss = total.item() / len(labels)
        seconds = time.perf_counter() - started
        val_loss, val_accuracy = self.evaluate(self.data.val)
        self.epochs_done += 1
        return {
            "epoch": self.epochs_done,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "test_accuracy": self.evaluate(self.data.test)[1],
            "samples_per_s": len(labels) / seconds,
            DONE: self.epochs_done >= int(self.config["epochs"]),
        }

    def _shifted(self, images: Tensor) -> Tensor:
        """Move a batch by up to `shift` pixels; what enters from outside repeats the (empty) border."""
        shift = int(self.config["shift"])
        if shift == 0:
            return images
        draws, device = self.generator, self.generator.device
        down, right = torch.randint(2 * shift + 1, (2,), generator=draws, device=device).tolist()
        padded = functional.pad(images, (shift,) * 4, mode="replicate")
        return padded[:, :, down : down + 8, right : right + 8]

    @torch.no_grad()
    def evaluate(self, part: Part) -> tuple[float, float]:
        """Return the mean loss and the accuracy on `part`."""
        self.model.eval()
        logits = self.model(part.images)
        loss = functional.cross_entropy(logits, part.labels).item()
        return loss, (logits.argmax(dim=1) == part.labels).double().mean().item()

    def save(self, directory: Path) -> None:
        """Write everything that the next epoch depends on."""
        state = {
            "epochs_done": self.epochs_done,
            "model": self.model.state_dict(),
            "optimizer_name": self.config["optimizer"],
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        torch.save(state, directory / _STATE_FILE)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote. Hyperparameters stay this config's, which a clone may have changed."""
        state = torch.load(directory / _STATE_FILE, map_location="cpu", weights_only=True)
        self.epochs_done = state["epochs_done"]
        self.model.load_state_dict(state["model"])
        self.generator.set_state(state["generator"])
        if state["optimizer_name"] == self.config["optimizer"]:
            own = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(state["optimizer"])
            for group, mine in zip(self.optimizer.param_groups, own, strict=True):
                group.update(mine)


class DigitsTrainable(Trainable):
    """The class API: one epoch a step, exact checkpoints, and the data kept for the worker's next trial."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the threads of the lease, load the data and build the network."""
        use_threads(self.context)
        self.data = load_data(self.context.device)
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Begin a new training with `config` and the context's present seed, on the data loaded before."""
        self.config = config
        self.training = Training(config, self.data, self.context.seed)
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


def train_digits(config: dict[str, Any]) -> None:
    """The function API: the same training with its own loop; each report brings a checkpoint."""
    context = get_context()
    use_threads(context)
    training = Training(config, load_data(context.device), context.seed)
    if checkpoint := get_checkpoint():
        training.load(checkpoint)
    done = False
    while not done:
        metrics = training.epoch()
        done = metrics.pop(DONE)
        with tempfile.TemporaryDirectory() as directory:
            training.save(Path(directory))
            report(metrics, checkpoint=directory)


def _build_optimizer(config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    lr, weight_decay = float(config["lr"]), float(config["weight_decay"])
    if config["optimizer"] == "sgd":
        momentum = float(config["momentum"])
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    if config["optimizer"] == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    raise ValueError(f"optimizer is 'sgd' or 'adamw', got {config['optimizer']!r}")
