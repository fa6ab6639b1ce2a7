"""SPNet: a segmentation network whose last layer is the class embeddings, fixed (Xian et al. 2019).

score_c(x) = scale * w_c . phi(x) at each pixel, P(c | x) = softmax over the classes in question: the seen ones while
SPNet trains, the unseen ones where pseudo-labels are made, all of them otherwise.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tune_platform.errors import SpecError
from tune_platform.trainables.any_data import imported
from tune_platform.trainables.weights import load_weights

logger = logging.getLogger(__name__)

Among = Literal["seen", "unseen", "all"]


class ProjectionNet(nn.Module):
    """`backbone` maps images (B x C x H x W) to phi (B x D x h x w); `vectors` (classes x D, unit rows) stay fixed."""

    vectors: Tensor

    def __init__(self, backbone: nn.Module, vectors: Tensor, seen: int, scale: float = 1.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"the logit scale is above zero, got {scale!r}")
        self.backbone, self.seen, self.scale = backbone, seen, scale
        self.register_buffer("vectors", vectors)

    def forward(self, images: Tensor, among: Among = "all") -> Tensor:
        """Return the scores of the seen, the unseen or all classes on the network's own map: B x classes x h x w."""
        chosen = {"seen": self.vectors[: self.seen], "unseen": self.vectors[self.seen :], "all": self.vectors}[among]
        phi = self.backbone(images)
        if phi.ndim != 4 or phi.shape[1] != chosen.shape[1]:
            raise ValueError(
                f"a network gives a map of {chosen.shape[1]} channels, as many as the embeddings have numbers "
                f"(batch x {chosen.shape[1]} x height x width), got {' x '.join(map(str, phi.shape))}"
            )
        return self.scale * torch.einsum("bdhw,cd->bchw", phi, chosen)

    def scores(self, images: Tensor, among: Among = "all") -> Tensor:
        """Return the scores on the images' pixels (B x classes x H x W, float32), interpolated bilinearly."""
        return enlarge(self(images, among).float(), (images.shape[-2], images.shape[-1]))


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize float maps (B x c x h x w) bilinearly to `size`; pixels are areas, so their centres stay in place."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize label maps (... x h x w) to `size`: each pixel takes the label under its centre. Labels do not mix."""
    h, w = labels.shape[-2:]
    rows = ((torch.arange(size[0], device=labels.device) + 0.5) * (h / size[0])).long()
    columns = ((torch.arange(size[1], device=labels.device) + 0.5) * (w / size[1])).long()
    return labels[..., rows[:, None], columns[None, :]]


def small_backbone(channels: int, width: int, dims: int) -> nn.Module:
    """Return a convolutional network for small images: stride 2, a field of view of 30 pixels, `dims` outputs."""

    def block(inputs: int, outputs: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
        padding = 1 if kernel == 4 else dilation
        return [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]

    wide = width * 3 // 2
    return nn.Sequential(
        *block(channels, width, 4, 2, 1),
        *block(width, width, 3, 1, 1),
        *block(width, wide, 3, 1, 2),
        *block(wide, wide, 3, 1, 3),
        nn.Conv2d(wide, dims, 1),
    )


class DeepLab(nn.Module):
    """torchvision's DeepLabV3 (output stride 8) with `dims` outputs in place of classes, on RGB images in [0, 1].

    `weights` names a file of ImageNet weights of the ResNet, as torchvision publishes them; nothing is downloaded. Its
    batch-normalisation statistics may be kept fixed by `frozen_norm` of the training, as the paper does.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dims: int, depth: int = 50, weights: str | None = None) -> None:
        super().__init__()
        from torchvision.models import segmentation  # half a second that the small network does not need

        makers: dict[int, Callable[..., nn.Module]] = {
            50: segmentation.deeplabv3_resnet50,
            101: segmentation.deeplabv3_resnet101,
        }
        if depth not in makers:
            raise ValueError(f"DeepLabV3 has a ResNet of depth 50 or 101, got {depth!r}")
        self.net = makers[depth](weights=None, weights_backbone=None, num_classes=dims)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))
        if weights is not None:
            logger.info("weights of %s: %s", weights, load_weights(self.net.get_submodule("backbone"), weights))

    def forward(self, images: Tensor) -> Tensor:
        """Return phi: B x dims x H/8 x W/8. DeepLabV3 itself would interpolate it to the images' size."""
        features = self.net.get_submodule("backbone")((images - self.mean) / self.std)["out"]
        phi: Tensor = self.net.get_submodule("classifier")(features)
        return phi


class DeepLabPlus(nn.Module):
    """DeepLabv3+ (Chen et al. 2018): a ResNet at output stride 16, and a decoder that gives a map at stride 4.

    The decoder joins what the pyramid of dilated convolutions (torchvision's ASPP, rates 6, 12, 18) finds, four times
    enlarged, with 48 channels of the first stage. `weights` are as in `DeepLab`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dims: int, depth: int = 50, weights: str | None = None) -> None:
        super().__init__()
        from torchvision.models import resnet50, resnet101
        from torchvision.models._utils import IntermediateLayerGetter
        from torchvision.models.segmentation.deeplabv3 import ASPP

        makers: dict[int, Callable[..., nn.Module]] = {50: resnet50, 101: resnet101}
        if depth not in makers:
            raise ValueError(f"DeepLabv3+ has a ResNet of depth 50 or 101, got {depth!r}")
        whole = makers[depth](weights=None, replace_stride_with_dilation=[False, False, True])
        if weights is not None:
            logger.info("weights of %s: %s", weights, load_weights(whole, weights))
        self.backbone = IntermediateLayerGetter(whole, {"layer1": "low", "layer4": "out"})
        self.classifier = nn.ModuleDict({
            "pyramid": ASPP(2048, [6, 12, 18]),
            "low": nn.Sequential(nn.Conv2d(256, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU()),
            "last": nn.Sequential(
                nn.Conv2d(304, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(),
                nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(),
                nn.Conv2d(256, dims, 1),
            ),
        })  # fmt: skip
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return phi: B x dims x H/4 x W/4."""
        features = self.backbone((images - self.mean) / self.std)
        low = self.classifier["low"](features["low"])
        far = functional.interpolate(
            self.classifier["pyramid"](features["out"]), low.shape[-2:], mode="bilinear", align_corners=True
        )
        phi: Tensor = self.classifier["last"](torch.cat([far, low], dim=1))
        return phi


def own_backbone(name: str, channels: int, dims: int, weights: str | None = None) -> nn.Module:
    """Return what "module:function" returns for `channels=` and `dims=`; `weights` names a file to begin with.

    It maps images (B x channels x H x W, in [0, 1]) to B x dims x h x w, at any size and stride. It may have the
    attributes `head` (see `head`) and `cell_side` (see `cell_side`). Raises SpecError where there is no such function,
    or it returns something else than a module.
    """
    made: nn.Module = imported(name, "network")(channels=channels, dims=dims)
    if not isinstance(made, nn.Module):
        raise SpecError(f"network: {name} returns {type(made).__name__}, not a torch.nn.Module")
    if weights is not None:
        logger.info("weights of %s: %s", weights, load_weights(made, weights))
    return made


def head(backbone: nn.Module) -> nn.Module:
    """Return the layers that start untrained where the rest may be pretrained: their rate may be higher.

    Of a network of one's own these are its `head`, else the last layer of a Sequential, else all of it.
    """
    if isinstance(backbone, DeepLab):
        return backbone.net.get_submodule("classifier")
    if isinstance(backbone, DeepLabPlus):
        return backbone.classifier
    own = getattr(backbone, "head", None)
    if isinstance(own, nn.Module):
        return own
    return backbone[-1] if isinstance(backbone, nn.Sequential) else backbone


def cell_side(backbone: nn.Module) -> int:
    """Return the side in pixels of the squares that the cells of a backbone's map tile an image with.

    The small network's are 2 x 2 pixels. A ResNet's lie around every eighth pixel and not between pixels: they are
    mirrored exactly at sizes of 8 k + 1 (DeepLabv3+: 16 k + 1), such as 513, and a multiple of 8 would spoil that. So
    any size will do for it, and for a network of one's own that does not say its `cell_side`.
    """
    if isinstance(own := getattr(backbone, "cell_side", None), int):
        return own
    if isinstance(backbone, nn.Sequential):
        return math.prod(int(layer.stride[0]) for layer in backbone if isinstance(layer, nn.Conv2d))
    return 1
