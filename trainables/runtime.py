"""What every trainable needs of the machine: threads, mixed precision and its own streams of random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.protocol.seeds import derive
from tune_platform.trainable import TrialContext

__all__ = [
    "PRECISIONS", "TEST_READ", "autocast", "check_names", "check_step_options", "deterministic", "generator",
    "reads_test", "stream_seed", "use_threads",
]  # fmt: skip

#: What `precision` may be in a config.
PRECISIONS = ("float32", "bfloat16", "float16")
#: What `test` may be in a config: at which reports test data are read.
TEST_READ = ("always", "last", "never")


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
    "size": "image_size",
    "path": "root",
    "data_dir": "root",
    "dataset": "task",
    "task": "dataset",
}


def check_names(config: Mapping[str, Any], known: Iterable[str], absent: Mapping[str, str] | None = None) -> None:
    """Raise SpecError, with the nearest known one, where a hyperparameter of `config` is not among `known`.

    One that is misspelt would else be ignored, and the search would tune nothing. `absent` says of options that other
    trainables have why this one does without.
    """
    names = list(known)
    for name in config:
        if name in (absent or {}):
            raise SpecError(f"{name}: not for this trainable, {(absent or {})[name]}")
        if name not in names:
            other = _ELSEWHERE.get(str(name))
            hint = f" (did you mean {other!r}?)" if other in names else did_you_mean(str(name), names)
            raise SpecError(f"unknown hyperparameter {name!r}{hint}. Allowed: {', '.join(names)}")


def check_step_options(config: Mapping[str, Any]) -> None:
    """Raise SpecError for an `accumulate`, `max_grad_norm`, `ema` or switch of `config` that cannot be."""
    parts, clip, ema = config.get("accumulate", 1), config.get("max_grad_norm", 0), config.get("ema", 0)
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1:
        raise SpecError(f"accumulate: in how many parts a batch is computed, 1 or more, got {parts!r}")
    if not _is_number(clip) or not clip >= 0:
        raise SpecError(f"max_grad_norm: the largest norm of a gradient, or 0 for any, got {clip!r}")
    if not _is_number(ema) or not 0 <= ema < 1:
        raise SpecError(f"ema: the decay of averaged weights, from 0 (none) to below 1, such as 0.999, got {ema!r}")
    for name in ("deterministic", "compile", "channels_last", "lean_checkpoints"):
        if not isinstance(config.get(name, False), bool):
            raise SpecError(f"{name}: true or false, got {config[name]!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Have torch raise RuntimeError for an operation that is not deterministic, where it is `wanted`."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def reads_test(test: str, at_end: bool) -> bool:
    """Return whether a report reads the test data, by what `test` says: "always", at the "last" one, or "never"."""
    return test == "always" or (test == "last" and at_end)


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
