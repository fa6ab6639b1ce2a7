"""What every trainable needs of the machine: threads, mixed precision and its own streams of random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.protocol.seeds import derive
from tune_platform.trainable import TrialContext

__all__ = ["PRECISIONS", "autocast", "check_names", "generator", "stream_seed", "use_threads"]

#: What `precision` may be in a config.
PRECISIONS = ("float32", "bfloat16", "float16")


#: What hyperparameters are called elsewhere.
_ELSEWHERE = {
    "learning_rate": "lr",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "num_layers": "layers",
    "hidden_size": "width",
    "wd": "weight_decay",
    "bs": "batch_size",
    "image_size": "size",
    "dataset": "task",
}


def check_names(config: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise SpecError, with the nearest known one, where a hyperparameter of `config` is not among `known`.

    One that is misspelt would else be ignored, and the search would tune nothing.
    """
    names = list(known)
    for name in config:
        if name not in names:
            other = _ELSEWHERE.get(str(name))
            hint = f" (did you mean {other!r}?)" if other in names else did_you_mean(str(name), names)
            raise SpecError(f"unknown hyperparameter {name!r}{hint}. Allowed: {', '.join(names)}")


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
