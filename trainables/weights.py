"""Weights from a local file into any model: what fits is taken, and what did not is told by name."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tune_platform.errors import SpecError

#: The types of a safetensors file that torch has too.
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
#: Under these names files keep the model beside other things.
_WRAPPERS = ("model", "state_dict", "model_state_dict")


class Fit(NamedTuple):
    """The names that were taken, and those that were not: not in the file, not in the model, of another shape."""

    taken: list[str]
    missing: list[str]
    unknown: list[str]
    reshaped: list[str]

    def __str__(self) -> str:
        parts = [f"{len(self.taken)} tensors were taken"]
        for names, what in (
            (self.missing, "not in the file"), (self.unknown, "not in the model"), (self.reshaped, "of another shape"),
        ):  # fmt: skip
            if names:
                parts.append(f"{len(names)} {what}: {', '.join(names)}")
        return "; ".join(parts)


def load_weights(model: nn.Module, path: str | Path) -> Fit:
    """Load a state dict or a safetensors file into `model`; what does not fit (a head of other classes) stays.

    Names may have the prefix `module.` of DDP. Raises SpecError for a file that is none, or none of whose tensors fit.
    """
    given = read_weights(path)
    own = model.state_dict()
    fits = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    fit = Fit(
        list(fits),
        [name for name in own if name not in given],
        [name for name in given if name not in own],
        [name for name in given if name in own and name not in fits],
    )
    if not fits:
        raise SpecError(
            f"weights: none of the {len(given)} tensors of {path} fits the model: the file has "
            f"{', '.join(list(given)[:3])}, the model {', '.join(list(own)[:3])}"
        )
    model.load_state_dict(fits, strict=False)
    return fit


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, on the CPU. Raises SpecError where it holds none."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise SpecError(f"weights: there is no file {path}: give a state dict (.pt, .pth) or a .safetensors")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError) as e:
        raise SpecError(f"weights: {path} is not a file of tensors as torch.save writes it: {e}") from e
    if isinstance(found, Mapping):
        found = next((found[name] for name in _WRAPPERS if isinstance(found.get(name), Mapping)), found)
    tensors = {str(n): t for n, t in found.items() if isinstance(t, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise SpecError(f"weights: {path} holds no state dict but a {type(found).__name__}")
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Read the format of Hugging Face: length of the header, the header as JSON, the numbers."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < path.stat().st_size:
            raise SpecError(f"weights: {path} is not a safetensors file")
        try:
            header = json.loads(file.read(length))
        except ValueError as e:
            raise SpecError(f"weights: {path} is not a safetensors file: {e}") from e
    raw = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _TYPES:
            raise SpecError(f"weights: {name!r} of {path} is of type {entry['dtype']}, known are {', '.join(_TYPES)}")
        begin, end = entry["data_offsets"]
        numbers = torch.from_numpy(np.array(raw[begin:end])).view(_TYPES[entry["dtype"]])
        tensors[name] = numbers.reshape(entry["shape"])
    return tensors
