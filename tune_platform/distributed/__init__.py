"""Trials that are distributed training jobs: gangs of workers, one training loop, and strategies to agree by."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tune_platform.extras import require

if TYPE_CHECKING:
    from tune_platform.distributed.communicator import Communicator, PeerLost, Traffic
    from tune_platform.distributed.data import ShardedBatches
    from tune_platform.distributed.gang import Gang
    from tune_platform.distributed.group import LocalGroup, WorkerGroup
    from tune_platform.distributed.local import Cost
    from tune_platform.distributed.strategy import Strategy
    from tune_platform.distributed.trainable import DistributedTrainable
    from tune_platform.distributed.worker import TrainingWorker

# Loaded when first asked for: the engine knows gangs without loading torch.
_HOMES = {
    "Communicator": "communicator", "Cost": "local", "DistributedTrainable": "trainable", "Gang": "gang",
    "LocalGroup": "group", "PeerLost": "communicator", "ShardedBatches": "data", "Strategy": "strategy",
    "Traffic": "communicator", "TrainingWorker": "worker", "WorkerGroup": "group",
}  # fmt: skip

__all__ = [
    "Communicator", "Cost", "DistributedTrainable", "Gang", "LocalGroup", "PeerLost", "ShardedBatches", "Strategy",
    "Traffic", "TrainingWorker", "WorkerGroup",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        if name != "Gang":
            require("a distributed trial", "torch")
        return getattr(importlib.import_module(f"tune_platform.distributed.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
