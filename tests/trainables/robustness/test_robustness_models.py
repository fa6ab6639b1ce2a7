"""The networks and augmentations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tune_platform.errors import SpecError
from tune_platform.trainables.digits import Dropout
from tune_platform.trainables.robustness.models import ChannelDropout, build_model, flipped, shifted
from tune_platform.trainables.robustness.trainable import DEFAULTS


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: dict[str, Any], shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return build_model({**DEFAULTS, **config}, shape, classes, draws())


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"model": "mlp", "width": 4}, (1, 8, 8)),
        ({"model": "cnn", "width": 4}, (1, 8, 8)),
        ({"model": "cnn1"}, (1, 28, 28)),
        ({"model": "cnn2"}, (1, 28, 28)),
        ({"model": "wrn", "depth": 10, "width": 1}, (3, 16, 16)),
        ({"model": "resnet50"}, (3, 16, 16)),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_model_has_logits_and_dropout(
    config: dict[str, Any], shape: tuple[int, int, int], dropout: float
) -> None:
    model = build({**config, "dropout": dropout}, shape, 7)
    if config["model"] == "cnn2":
        nn.init.normal_(model[-1].weight)  # type: ignore[index]
    x = torch.rand(4, *shape, generator=draws())
    masks = next(module.generator for module in model.modules() if isinstance(module, Dropout))

    def logits(seed: int) -> torch.Tensor:
        masks.manual_seed(seed)
        found: torch.Tensor = model(x)
        return found

    model.eval()
    assert logits(0).shape == (4, 7)
    assert torch.equal(logits(0), logits(1))
    model.train()
    assert torch.equal(logits(0), logits(0))  # dropout follows its own generator, and nothing else
    assert torch.equal(logits(0), logits(1)) == (dropout == 0)


def test_the_papers_networks_have_their_sizes() -> None:
    def count(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    # conv 3x3 1-32, 32-64, pool to 12 x 12, 9216-128, 128-10
    assert count(build({"model": "cnn1"}, (1, 28, 28))) == 320 + 18496 + 9216 * 128 + 128 + 1290
    # 32, 32, pool, 64, 64, pool to 4 x 4, 1024-200, 200-200, 200-10
    assert count(build({"model": "cnn2"}, (1, 28, 28))) == 320 + 9248 + 18496 + 36928 + 1024 * 200 + 200 + 40200 + 2010
    cnn2 = build({"model": "cnn2"}, (1, 28, 28))
    assert not cnn2(torch.rand(2, 1, 28, 28)).any()  # the last layer begins at zero
    wide = build({"model": "wrn", "depth": 16, "width": 4})
    assert count(wide) == 2_748_890  # WRN-16-4, as published: 2.7 million
    assert (
        sum(isinstance(module, Dropout) for module in build({"model": "wrn", "depth": 40, "width": 1}).modules()) == 18
    )


def test_channel_dropout_takes_whole_channels() -> None:
    layer = ChannelDropout(0.5, draws()).train()
    out = layer(torch.ones(20, 30, 4, 4)).flatten(2)
    assert bool(((out == 0).all(2) | (out == 2).all(2)).all())
    assert 0.4 < float((out[:, :, 0] == 0).float().mean()) < 0.6
    assert torch.equal(layer.eval()(torch.ones(2, 3, 4, 4)), torch.ones(2, 3, 4, 4))


def test_shifts_are_crops_after_padding_image_by_image() -> None:
    images = torch.rand(60, 2, 5, 6, generator=draws(1)) + 0.1
    moved = shifted(images, 2, draws())
    padded = nn.functional.pad(images, (2,) * 4)
    seen = set()
    for before, after in zip(padded, moved, strict=True):
        places = [(r, c) for r in range(5) for c in range(5) if torch.equal(before[:, r : r + 5, c : c + 6], after)]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 15  # of 25, each image its own


def test_flips_mirror_about_half_of_the_images() -> None:
    images = torch.rand(400, 1, 3, 4, generator=draws(1))
    out = flipped(images, draws())
    mirrored = torch.tensor([torch.equal(a.flip(2), b) for a, b in zip(images, out, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(images, out, strict=True)])
    assert bool((mirrored ^ same).all())
    assert 0.4 < float(mirrored.float().mean()) < 0.6


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        ({"model": "vit"}, (1, 8, 8), "model: 'mlp', 'cnn', 'cnn1', .*a torchvision classifier.*, got 'vit'"),
        ({"dropout": 1.0}, (1, 8, 8), "dropout is a rate, at least 0 and below 1, got 1.0"),
        ({"width": 0}, (1, 8, 8), "width is at least 1, got 0"),
        ({"model": "cnn2"}, (1, 8, 8), "images of 8 x 8 pixels are too small for cnn2: use cnn"),
        ({"model": "wrn", "depth": 12}, (3, 32, 32), r"6 n \+ 4 .* got 12"),
        ({"model": "resnet50"}, (1, 28, 28), "resnet50 takes RGB images, got 1 channels"),
    ],
)
def test_bad_models(config: dict[str, Any], shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(config, shape)


def test_any_classifier_of_torchvision_draws_by_the_generator_of_the_training() -> None:
    model = build({"model": "squeezenet1_1"}, (3, 32, 32), 7)
    assert not [module for module in model.modules() if isinstance(module, nn.Dropout)]
    images = torch.rand(4, 3, 32, 32)
    before = torch.get_rng_state()
    dropout = next(module for module in model.modules() if isinstance(module, Dropout))
    dropout.generator.manual_seed(0)
    one = model(images)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.shape == (4, 7)
    dropout.generator.manual_seed(0)
    assert torch.equal(model(images), one)
    with pytest.raises(ValueError, match=r"dropout is a rate of mlp.*'squeezenet1_1' has its own: leave it 0"):
        build({"model": "squeezenet1_1", "dropout": 0.2})
    with pytest.raises(SpecError, match=r"'convnext_tiny' draws by torch's global generator .StochasticDepth"):
        build({"model": "convnext_tiny"})
    with pytest.raises(SpecError, match=r"got 'squezenet1_1' .did you mean"):
        build({"model": "squezenet1_1"})


def small(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def test_a_function_of_ones_own_and_weights_of_a_file(tmp_path: Path) -> None:
    config = {"model": f"{__name__}:small"}
    model = build(config, (1, 8, 8), 4)
    torch.save({name: value + 1 for name, value in model.state_dict().items()}, tmp_path / "weights.pt")
    other = build({**config, "weights": str(tmp_path / "weights.pt")}, (1, 8, 8), 4)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value + 1)
    with pytest.raises(SpecError, match="there is no file"):
        build({**config, "weights": str(tmp_path / "none.pt")}, (1, 8, 8), 4)
