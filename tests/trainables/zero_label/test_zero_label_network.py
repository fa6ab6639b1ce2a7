"""The projection onto fixed class embeddings, on both backbones."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from tune_platform.errors import SpecError
from tune_platform.trainables.zero_label.network import (
    DeepLab,
    DeepLabPlus,
    ProjectionNet,
    enlarge,
    head,
    nearest,
    small_backbone,
)


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
    with pytest.raises(TypeError, match="a backbone is"):
        head(nn.ReLU())
