"""The projection onto fixed class embeddings, on both backbones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tune_platform.errors import SpecError
from tune_platform.trainables.zero_label.network import (
    DeepLab,
    DeepLabPlus,
    ProjectionNet,
    cell_side,
    enlarge,
    head,
    nearest,
    own_backbone,
    small_backbone,
)
from tune_platform.trainables.zero_label.study import start


def vectors(classes: int = 5, dims: int = 7) -> torch.Tensor:
    return functional.normalize(torch.randn(classes, dims, generator=torch.Generator().manual_seed(0)), dim=1)


def test_scores_are_scaled_inner_products() -> None:
    net = ProjectionNet(small_backbone(1, 8, 7), vectors(), seen=3, scale=4.0).eval()
    images = torch.rand(2, 1, 12, 10)
    phi = net.backbone(images).detach()
    assert phi.shape == (2, 7, 6, 5)
    every = net(images).detach()
    assert float(every[1, 4, 2, 3]) == pytest.approx(float(4 * net.vectors[4] @ phi[1, :, 2, 3]), rel=1e-5)
    torch.testing.assert_close(net(images, "seen").detach(), every[:, :3])
    torch.testing.assert_close(net(images, "unseen").detach(), every[:, 3:])
    assert net.scores(images).shape == (2, 5, 12, 10)
    with pytest.raises(ValueError, match="logit scale is above zero, got 0"):
        ProjectionNet(small_backbone(1, 8, 7), vectors(), seen=3, scale=0.0)


def test_embeddings_are_fixed_and_travel_with_the_network() -> None:
    net = ProjectionNet(small_backbone(1, 8, 7), vectors(), seen=3)
    assert "vectors" in net.state_dict()
    assert "vectors" not in dict(net.named_parameters())
    net(torch.rand(1, 1, 8, 8)).square().sum().backward()
    assert net.vectors.grad is None
    assert not net.vectors.requires_grad
    assert all(p.grad is not None for p in net.parameters())


def test_gradients_of_the_projection() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv2d(2, 3, 1).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.mix(x)
            return out

    net = ProjectionNet(Linear(), vectors(4, 3).double(), seen=2, scale=1.7)
    images = torch.rand(1, 2, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: net(x, "all"), (images,))
    assert torch.autograd.gradcheck(lambda x: net(x, "unseen"), (images,))


def test_labels_do_not_mix_when_they_are_resized() -> None:
    labels = torch.tensor([[[0, 9], [4, -1]]])
    large = nearest(labels, (6, 6))
    assert set(large.flatten().tolist()) == {-1, 0, 4, 9}
    assert torch.equal(nearest(large, (2, 2)), labels)  # every block is one label
    maps = torch.rand(1, 2, 4, 4)
    assert enlarge(maps, (4, 4)) is maps


def test_deeplab_plus_has_a_finer_map_and_takes_what_fits_of_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    first = DeepLabPlus(7)
    torch.save(first.backbone.state_dict() | {"extra.weight": torch.zeros(2)}, tmp_path / "resnet.pt")
    with caplog.at_level(logging.INFO):
        backbone = DeepLabPlus(7, weights=str(tmp_path / "resnet.pt"))
    assert "1 not in the model: extra.weight" in caplog.text
    assert "2 not in the file: fc.weight, fc.bias" in caplog.text
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(value, backbone.backbone.state_dict()[name])
    net = ProjectionNet(backbone, vectors(), seen=3).eval()
    with torch.no_grad():
        assert backbone.backbone(torch.rand(1, 3, 65, 49))["out"].shape == (1, 2048, 5, 4)  # output stride 16
        assert net(torch.rand(1, 3, 65, 49)).shape == (1, 5, 17, 13)
    last = {id(p) for p in head(backbone).parameters()}
    assert last
    assert not last & {id(p) for p in backbone.backbone.parameters()}
    with pytest.raises(ValueError, match="depth 50 or 101, got 34"):
        DeepLabPlus(7, 34)
    with pytest.raises(SpecError, match="there is no file"):
        DeepLabPlus(7, weights=str(tmp_path / "none.pt"))


@pytest.mark.slow
def test_deeplab_takes_the_same_place(tmp_path: Path) -> None:
    from torchvision.models import resnet50

    torch.manual_seed(0)
    source = resnet50(weights=None)
    torch.save(source.state_dict(), tmp_path / "resnet50.pt")
    backbone = DeepLab(7, 50, str(tmp_path / "resnet50.pt"))
    assert torch.equal(backbone.net.state_dict()["backbone.conv1.weight"], source.state_dict()["conv1.weight"])
    net = ProjectionNet(backbone, vectors(), seen=3).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, 64, 48)).shape == (1, 5, 8, 6)  # output stride 8
    last = {id(p) for p in head(backbone).parameters()}
    assert 0 < len(last) < len(list(net.parameters()))
    with pytest.raises(ValueError, match="depth 50 or 101, got 34"):
        DeepLab(7, 34)


class Tiny(nn.Module):
    """A network of one's own: stride 4, a head by name."""

    cell_side = 4

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(channels, 6, 4, 4), nn.Conv2d(6, dims, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.body(images).relu())
        return found


def tiny(channels: int, dims: int) -> nn.Module:
    return Tiny(channels, dims)


def no_network(channels: int, dims: int) -> object:
    return object()


def flat(channels: int, dims: int) -> nn.Module:
    return nn.Flatten()


def test_a_network_of_ones_own_is_trained_by_its_name(tmp_path: Path) -> None:
    there = Tiny(1, 7)
    torch.save({**there.state_dict(), "more": torch.zeros(1)}, tmp_path / "there.pt")
    made = own_backbone(f"{__name__}:tiny", 1, 7, str(tmp_path / "there.pt"))
    assert isinstance(made, Tiny)
    assert torch.equal(made.body.weight, there.body.weight)
    assert head(made) is made.head
    assert cell_side(made) == 4
    small: dict[str, Any] = {"network": f"{__name__}:tiny", "base_steps": 2, "round_steps": 2, "train_scenes": 8}
    training, _ = start("digits_248", "final", 1, {**small, "batch_size": 4, "head_lr": 3.0, "views": "scale_shift"})
    training.round()
    before = training.model.backbone.get_parameter("head.weight").detach().clone()
    assert training.round()["coverage"] > 0
    assert not torch.equal(training.model.backbone.get_parameter("head.weight"), before)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (f"{__name__}:tyni", "network: .*tyni"),
        ("nowhere:tiny", "network: 'nowhere:tiny' names the module 'nowhere'"),
        (f"{__name__}:no_network", "returns object, not a torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_told(name: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        own_backbone(name, 1, 7)


def test_a_network_whose_map_does_not_fit_the_embeddings_is_told() -> None:
    net = ProjectionNet(flat(1, 7), vectors(), seen=3)
    with pytest.raises(ValueError, match=r"a map of 7 channels, .* got 2 x 16"):
        net(torch.rand(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"a map of 7 channels, .* got 2 x 6 x 1 x 1"):
        ProjectionNet(Tiny(1, 6), vectors(), seen=3)(torch.rand(2, 1, 4, 4))
