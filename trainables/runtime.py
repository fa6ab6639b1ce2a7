"""What every trainable needs of the machine: threads, mixed precision and its own streams of random numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from tune_platform.protocol.seeds import derive
from tune_platform.trainable import TrialContext

__all__ = ["PRECISIONS", "autocast", "generator", "stream_seed", "use_threads"]

#: What `precision` may be in a config.
PRECISIONS = ("float32", "bfloat16", "float16")


def use_threads(context: TrialContext) -> None:
    """Use as many threads as the lease has CPUs, or trials of one machine would fight for them."""
    torch.set_num_threads(max(1, int(context.resources.get("cpu", 1))))


def stream_seed(seed: int, *purpose: str | int) -> int:
    """Return the seed of an independent stream, of 63 bits: with these the figures of the docs were drawn."""
    return derive(seed, *purpose) >> 1


def generator(device: torch.device | str, seed: int, *purpose: str | int) -> torch.Generator:
    """Return a generator on `device` for one purpose: an analysis that draws from its own changes no training."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *purpose))


def autocast(device: torch.device | str, precision: str) -> AbstractContextManager[Any]:
    """Return the context for forward passes in `precision`: "float32" (none), "bfloat16" or "float16".

    Raises ValueError for another precision. With "float16" scale the loss (`torch.amp.GradScaler`).
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, precision))
