"""What trials share of the libraries that they compute with: generators and settings. None is imported here."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

#: The modules that hold a generator, or settings, beside Python's own `random`.
NAMES = ("numpy", "numpy.random", "torch")

_LEGACY_SEEDS = 2**32  # numpy's legacy generator takes no more


def _module(name: str) -> Any:
    return random if name == "random" else sys.modules[name]


def seed(name: str, value: int) -> None:
    """Seed the generator of a library that is loaded; 0 ... 2**64 - 1."""
    module = _module(name)
    if name == "random":
        module.seed(value)
    elif name == "numpy.random":
        module.seed(value % _LEGACY_SEEDS)
    elif name == "torch":
        module.manual_seed(value)  # of GPUs as well


def draws(name: str) -> Any:
    """Return the state of a library's generator; None where it has none."""
    module = _module(name)
    if name == "random":
        return module.getstate()
    if name == "numpy.random":
        return module.get_state()
    if name == "torch":
        gpus = module.cuda.get_rng_state_all() if module.cuda.is_initialized() else None
        return module.get_rng_state(), gpus
    return None


def put_draws(name: str, state: Any) -> None:
    """Put a generator back to a state that `draws` has returned."""
    module = _module(name)
    if name == "random":
        module.setstate(state)
    elif name == "numpy.random":
        module.set_state(state)
    elif name == "torch":
        module.set_rng_state(state[0])
        if state[1] is not None:
            module.cuda.set_rng_state_all(state[1])


def settings(name: str) -> list[Any]:
    """Return the settings of a library by which it computes."""
    module = _module(name)
    return [read(module) for read, _, _ in _SETTINGS.get(name, ())]


def put_settings(name: str, values: Sequence[Any]) -> None:
    """Put the settings of a library back."""
    module = _module(name)
    for (read, write, always), value in zip(_SETTINGS.get(name, ()), values, strict=True):
        if always or read(module) != value:
            write(module, value)


def _set_device(torch: Any, device: Any) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # a device that is set slows every call


def _set_cudnn(torch: Any, values: tuple[bool, bool]) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = values


#: How to read and write each; and whether to write it unseen: torch has a number of threads for each thread, and
#: another for those to come.
_SETTINGS: dict[str, list[tuple[Callable[[Any], Any], Callable[[Any, Any], Any], bool]]] = {
    "numpy": [(lambda numpy: numpy.geterr(), lambda numpy, value: numpy.seterr(**value), False)],
    "torch": [
        (lambda torch: torch.get_num_threads(), lambda torch, value: torch.set_num_threads(value), True),
        (lambda torch: torch.get_default_dtype(), lambda torch, value: torch.set_default_dtype(value), False),
        (lambda torch: torch.get_default_device(), _set_device, False),
        (lambda torch: torch.is_grad_enabled(), lambda torch, value: torch.set_grad_enabled(value), False),
        (
            lambda torch: torch.are_deterministic_algorithms_enabled(),
            lambda torch, value: torch.use_deterministic_algorithms(value),
            False,
        ),
        (
            lambda torch: torch.get_float32_matmul_precision(),
            lambda torch, value: torch.set_float32_matmul_precision(value),
            False,
        ),
        (
            lambda torch: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
            _set_cudnn,
            False,
        ),
    ],
}
