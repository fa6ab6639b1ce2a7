"""The networks of Yang et al. (2020), appendix, and two small ones for small images; each with dropout at any rate.

Beside these, any classifier of torchvision or of a function of your own, with the dropout that is its own.

They take images in [0, 1], unstandardised, so that an attack radius means the same for all of them, and give logits.
Dropout draws from a generator of the training's own (`tune_platform.trainables.digits.Dropout`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from tune_platform.errors import SpecError
from tune_platform.trainables.digits import Dropout
from tune_platform.trainables.named_models import named_model
from tune_platform.trainables.weights import load_weights

logger = logging.getLogger(__name__)

#: The models by name; `width` is the number of channels of "cnn" and an eighth of the units of "mlp"; it widens "wrn".
MODELS = ("mlp", "cnn", "cnn1", "cnn2", "wrn", "resnet50")
Shape = tuple[int, int, int]


class ChannelDropout(Dropout):
    """Dropout of whole channels (n x C x H x W), with a generator of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share `p` of the channels and scale up the rest, while training; else return `x`."""
        if not self.training or self.p == 0:
            return x
        return x * (super().forward(torch.ones_like(x[:, :, :1, :1])))


def build_model(config: Mapping[str, Any], shape: Shape, classes: int, draws: torch.Generator) -> nn.Module:
    """Build the network of `config` for images of `shape` (C, H, W); `draws` is its dropout's generator.

    The weights come from torch's global generator, and then from the file `weights` as far as they fit. Raises
    ValueError for a model that there is not, a dropout rate outside of [0, 1), or images that are too small for it;
    SpecError for a file that is none, or a network that draws in a way that could not be repeated.
    """
    model = _network(config, shape, classes, draws)
    if config["weights"] is not None:
        logger.info("weights of %s: %s", config["weights"], load_weights(model, str(config["weights"])))
    return model


def _network(config: Mapping[str, Any], shape: Shape, classes: int, draws: torch.Generator) -> nn.Module:
    dropout = float(config["dropout"])
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is a rate, at least 0 and below 1, got {config['dropout']!r}")
    width = int(config["width"])
    if width < 1:
        raise ValueError(f"width is at least 1, got {config['width']!r}")
    if config["model"] == "mlp":
        return _mlp(shape, classes, 8 * width, dropout, draws)
    if config["model"] == "cnn":
        return _cnn(shape, classes, width, dropout, draws)
    if config["model"] == "cnn1":
        return _cnn1(shape, classes, dropout, draws)
    if config["model"] == "cnn2":
        return _cnn2(shape, classes, dropout, draws)
    if config["model"] == "wrn":
        return WideResNet(shape, classes, int(config["depth"]), width, dropout, draws)
    if config["model"] == "resnet50":
        return _resnet50(shape, classes, dropout, draws)
    if dropout:
        raise ValueError(f"dropout is a rate of {', '.join(MODELS)}; {config['model']!r} has its own: leave it 0")
    return _with_draws(named_model(str(config["model"]), classes, MODELS), str(config["model"]), draws)


def _with_draws(model: nn.Module, name: str, draws: torch.Generator) -> nn.Module:
    """Have the dropout of a model draw from `draws`: torch's own draws from the global generator."""
    from torchvision.ops import StochasticDepth

    for module in list(model.modules()):
        if isinstance(module, (_DropoutNd, StochasticDepth)) and not isinstance(module, nn.Dropout) and module.p > 0:
            raise SpecError(
                f"model {name!r} draws by torch's global generator ({type(module).__name__}): a training that is "
                "resumed, or another method on the same batches, would not see the same. Take a model without it"
            )
        for key, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, key, Dropout(child.p, draws))
    return model


def _mlp(shape: Shape, classes: int, units: int, dropout: float, draws: torch.Generator) -> nn.Module:
    """Two hidden layers, each with dropout after it: for images so small that a convolution is mostly overhead."""
    pixels = shape[0] * shape[1] * shape[2]
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, units), nn.ReLU(), Dropout(dropout, draws),
        nn.Linear(units, units), nn.ReLU(), Dropout(dropout, draws),
        nn.Linear(units, classes),
    )  # fmt: skip


def _cnn(shape: Shape, classes: int, width: int, dropout: float, draws: torch.Generator) -> nn.Module:
    """Convolutions of `width` and twice as many channels, a hidden layer of 8 `width` units with dropout around it."""
    body = nn.Sequential(
        nn.Conv2d(shape[0], width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    hidden = nn.Linear(_outputs(body, shape, "cnn"), 8 * width)
    return nn.Sequential(
        body, Dropout(dropout, draws), hidden, nn.ReLU(), Dropout(dropout, draws), nn.Linear(8 * width, classes)
    )


def _cnn1(shape: Shape, classes: int, dropout: float, draws: torch.Generator) -> nn.Module:
    """The paper's CNN1: dropout of channels at half the rate after the pooling, at the rate before the last layer."""
    body = nn.Sequential(
        nn.Conv2d(shape[0], 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2),
        ChannelDropout(dropout / 2, draws), nn.Flatten(),
    )  # fmt: skip
    hidden = nn.Linear(_outputs(body, shape, "cnn1"), 128)
    return nn.Sequential(body, hidden, nn.ReLU(), Dropout(dropout, draws), nn.Linear(128, classes))


def _cnn2(shape: Shape, classes: int, dropout: float, draws: torch.Generator) -> nn.Module:
    """The paper's CNN2, the small network of TRADES; its last layer begins at zero."""
    body = nn.Sequential(
        nn.Conv2d(shape[0], 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    )  # fmt: skip
    first = nn.Linear(_outputs(body, shape, "cnn2"), 200)
    last = nn.Linear(200, classes)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(body, first, nn.ReLU(), Dropout(dropout, draws), nn.Linear(200, 200), nn.ReLU(), last)


class WideResNet(nn.Module):
    """Zagoruyko and Komodakis (2016): WRN-`depth`-`width`, dropout between the two convolutions of each block."""

    def __init__(
        self, shape: Shape, classes: int, depth: int, width: int, dropout: float, draws: torch.Generator
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"the depth of a wide residual network is 6 n + 4 for some n above 0, got {depth!r}")
        channels = [16, 16 * width, 32 * width, 64 * width]
        layers: list[nn.Module] = [nn.Conv2d(shape[0], channels[0], 3, padding=1, bias=False)]
        for group in range(3):
            for block in range((depth - 4) // 6):
                entering = channels[group] if block == 0 else channels[group + 1]
                stride = 2 if block == 0 and group > 0 else 1
                layers.append(_WideBlock(entering, channels[group + 1], stride, dropout, draws))
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(channels[3]), nn.ReLU())
        self.head = nn.Linear(channels[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n x classes)."""
        logits: Tensor = self.head(self.body(x).mean((2, 3)))
        return logits


class _WideBlock(nn.Module):
    def __init__(self, entering: int, leaving: int, stride: int, dropout: float, draws: torch.Generator) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(entering), nn.ReLU())
        self.rest = nn.Sequential(
            nn.Conv2d(entering, leaving, 3, stride, 1, bias=False), nn.BatchNorm2d(leaving), nn.ReLU(),
            Dropout(dropout, draws), nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(entering, leaving, 1, stride, bias=False) if entering != leaving else None

    def forward(self, x: Tensor) -> Tensor:
        before = self.first(x)
        short: Tensor = x if self.shortcut is None else self.shortcut(before)
        out: Tensor = short + self.rest(before)
        return out


def _resnet50(shape: Shape, classes: int, dropout: float, draws: torch.Generator) -> nn.Module:
    """torchvision's ResNet-50 with fresh weights, for RGB images; dropout before the last layer."""
    from torchvision.models import resnet50

    if shape[0] != 3:
        raise ValueError(f"resnet50 takes RGB images, got {shape[0]} channels: use cnn, cnn1, cnn2 or wrn")
    model = resnet50(num_classes=classes)
    model.fc = nn.Sequential(Dropout(dropout, draws), model.fc)
    made: nn.Module = model
    return made


def _outputs(body: nn.Module, shape: Shape, name: str) -> int:
    try:
        with torch.no_grad():
            return int(body.eval()(torch.zeros(1, *shape)).shape[1])
    except RuntimeError as e:
        raise ValueError(f"images of {shape[1]} x {shape[2]} pixels are too small for {name}: use cnn") from e
    finally:
        body.train()


def shifted(images: Tensor, pixels: int, draws: torch.Generator) -> Tensor:
    """Move each image by up to `pixels` either way, as a crop after padding with zeros does."""
    n, _, height, width = images.shape
    offsets = torch.randint(2 * pixels + 1, (2, n), generator=draws, device=images.device)
    rows = offsets[0][:, None] + torch.arange(height, device=images.device)
    columns = offsets[1][:, None] + torch.arange(width, device=images.device)
    padded = functional.pad(images, (pixels,) * 4).permute(0, 2, 3, 1)
    picked = padded[torch.arange(n, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def flipped(images: Tensor, draws: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half (not for digits: a mirrored 2 is none)."""
    mirrored = torch.rand(len(images), generator=draws, device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


#: What is done to a batch while training, by the name of its hyperparameter.
AUGMENTATIONS: Mapping[str, Callable[..., Tensor]] = {"shift": shifted, "flip": flipped}
