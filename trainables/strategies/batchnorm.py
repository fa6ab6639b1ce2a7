"""BatchNorm statistics for parameters that no worker has trained: means of workers, centres, anchors.

Running means and variances belong to the parameters they were recorded with. For averaged parameters they have to be
recorded anew, or the error explodes: one pass over training batches with BatchNorm alone in training mode and a
cumulative average (`momentum=None`), as LSGD (Teng et al. 2019) does before each test of its averaged model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tune_platform.distributed.strategy import Flat

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


def layers(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def reestimate(worker: TrainingWorker, model: nn.Module, batches: int | None = None) -> None:
    """Record the running statistics of `model` anew, in place, over the worker's own training batches.

    `batches` of them, or one epoch where it is None. The rest of the model (dropout) is in eval mode meanwhile. The
    place in the training data and torch's generators stay as they are. A model without BatchNorm costs nothing.
    """
    found = layers(model)
    if not found:
        return
    training = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in found]
    model.eval()
    for layer in found:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        for batch in worker.other_batches("batchnorm", batches):
            worker.predict(model, batch)
    finally:
        for layer, momentum in zip(found, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in training.items():
            module.training = mode


@contextmanager
def standing_in(worker: TrainingWorker, vector: Tensor, batches: int | None = None) -> Iterator[nn.Module]:
    """Give the worker's model with the parameters of `vector` for a while: what is evaluated, not what is trained.

    `vector` holds all trained parameters in their order (`Flat.read`); BatchNorm is re-estimated for it. On leaving,
    parameters and buffers are bit for bit what they were.
    """
    model = worker.model
    parameters = Flat([p for p in model.parameters() if p.requires_grad])
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    own = parameters.read()
    parameters.write(vector)
    try:
        reestimate(worker, model, batches)
        yield model
    finally:
        parameters.write(own)
        for buffer, value in buffers:
            buffer.copy_(value)
