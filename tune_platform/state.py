"""The state of a training as files of a directory: what `report(..., checkpoint=state)` writes and `load` gives back.

This module imports nothing of ours, because every worker process imports it.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

#: What a state is written as: by torch, where the training code uses it, else by pickle.
TORCH, PICKLE = "state.pt", "state.pkl"


class StateDirectory(PosixPath):
    """The directory of a checkpoint, with `load()` for the state in it."""

    def load(self) -> Any:
        """Return the state that `report(..., checkpoint=state)` was given; see `load_state`."""
        return load_state(self)


def save_state(directory: Path, state: Any) -> None:
    """Write any object that can be pickled. Raises what pickle raises for others."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.save(state, directory / TORCH)
    else:
        with (directory / PICKLE).open("wb") as file:
            pickle.dump(state, file, protocol=pickle.HIGHEST_PROTOCOL)


def load_state(directory: Path) -> Any:
    """Return the state of a directory: of `save_state`, or the content of its one file, tensors on the CPU.

    Several files give a dict of their contents by name. Files of .pt, .pth, .pkl, .pickle, .json, .npy and .npz are
    read. Raises ValueError for others: those are to be opened by whoever wrote them.
    """
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    for name in (TORCH, PICKLE):
        if name in names:
            names = [name]
    unknown = [name for name in names if Path(name).suffix not in _READERS]
    if unknown or not names:
        raise ValueError(
            f"the checkpoint at {str(directory)!r} holds {', '.join(unknown) or 'no files'}, which load() cannot read "
            f"(it reads {', '.join(_READERS)}): open the files in that directory as they were written"
        )
    found = {name: _READERS[Path(name).suffix](directory / name) for name in names}
    return found[names[0]] if len(names) == 1 else found


def _torch(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=False)


def _pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _numpy(path: Path) -> Any:
    import numpy as np

    found = np.load(path)
    return found if path.suffix == ".npy" else dict(found)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".pt": _torch, ".pth": _torch, ".pkl": _pickle, ".pickle": _pickle, ".json": _json, ".npy": _numpy, ".npz": _numpy,
}  # fmt: skip
