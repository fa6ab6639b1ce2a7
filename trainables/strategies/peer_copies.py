"""Models as vectors of bytes to be sent, and the frozen copies that a worker holds of the others' models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn


def state_tensors(model: nn.Module) -> list[Tensor]:
    """Return parameters and buffers, each once, the widest element types first."""
    tensors = [*model.parameters(), *model.buffers()]
    return sorted((tensor.detach() for tensor in tensors), key=lambda tensor: -tensor.element_size())


def pack(model: nn.Module) -> Tensor:
    """Return all parameters and buffers as one vector of bytes: exact, whatever their types."""
    parts = [tensor.reshape(-1).view(torch.uint8) for tensor in state_tensors(model)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def packed_size(model: nn.Module) -> int:
    """Return the length of what `pack` returns."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state_tensors(model))


@torch.no_grad()
def unpack(vector: Tensor, model: nn.Module) -> None:
    """Put what `pack` returned into a model of the same architecture."""
    start = 0
    for tensor in state_tensors(model):
        end = start + tensor.numel() * tensor.element_size()
        tensor.copy_(vector[start:end].view(tensor.dtype).view_as(tensor))  # aligned: the widest types come first
        start = end


class PeerCopies:
    """Copies of the other models, never trained: no gradients, no dropout, no change to their buffers.

    `build` makes a model of the architecture. `batch_statistics`: BatchNorm normalises with the batch at hand, as
    a model in training does, instead of the running statistics that came with the copy.
    """

    def __init__(self, build: Callable[[], nn.Module], batch_statistics: bool = False) -> None:
        self._build, self._batch_statistics = build, batch_statistics
        self._models: dict[int, nn.Module] = {}

    def __contains__(self, model: int) -> bool:
        return model in self._models

    def __getitem__(self, model: int) -> nn.Module:
        return self._models[model]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._models))

    def put(self, model: int, vector: Tensor) -> None:
        """Take a checkpoint, as `pack` returns it."""
        if model not in self._models:
            self._models[model] = frozen(self._build(), self._batch_statistics)
        unpack(vector, self._models[model])

    def clear(self) -> None:
        """Forget all copies."""
        self._models.clear()


def frozen(model: nn.Module, batch_statistics: bool = False) -> nn.Module:
    """Return the model in eval mode, without gradients; see `PeerCopies` for `batch_statistics`."""
    model.eval().requires_grad_(False)
    if batch_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
                module.track_running_stats = False  # in training mode: the batch's statistics, and none is kept
    return model


class Ensemble(nn.Module):
    """Predicts what `combine` makes of the members' outputs, stacked in a first dimension."""

    def __init__(self, members: Sequence[nn.Module], combine: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._combine = combine

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """Return the combined prediction."""
        return self._combine(torch.stack([member(*args, **kwargs) for member in self.members]))
