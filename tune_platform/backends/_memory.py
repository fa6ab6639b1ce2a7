"""Checkpoints in memory: what a trial that goes on from another's checkpoint takes over without waiting for storage.

A copy of each trial's newest checkpoint stays in the process that wrote it, up to a limit, the oldest dropped first,
and none before it is written. It is a short cut to the same content: whoever does not find it reads the checkpoint from
storage.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from tune_platform.protocol.reports import CheckpointRef

_IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class StateCopy:
    """A copy of an object: its pickle, and apart from it the arrays and tensors, which are then moved only as bytes."""

    def __init__(self, head: bytes, buffers: Sequence[Any]) -> None:
        self._head, self._buffers = head, buffers

    @classmethod
    def of(cls, state: Any) -> StateCopy:
        """Copy a state, tensors to the CPU. Raises what pickle raises for what cannot be pickled."""
        file, found = BytesIO(), list[pickle.PickleBuffer]()
        _Pickler(file, protocol=5, buffer_callback=found.append).dump(state)
        return cls(file.getvalue(), [bytearray(buffer.raw()) for buffer in found])

    @property
    def bytes(self) -> int:
        """The size."""
        return len(self._head) + sum(memoryview(buffer).nbytes for buffer in self._buffers)

    def load(self) -> Any:
        """Return an object of its own, which may be changed."""
        return pickle.loads(self._head, buffers=[bytearray(buffer) for buffer in self._buffers])

    def look(self) -> Any:
        """Return an object that only looks into the copy: not to be changed."""
        return pickle.loads(self._head, buffers=self._buffers)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # With protocol 5 whoever sends it moves the buffers once, without a copy in between.
        return StateCopy, (self._head, [pickle.PickleBuffer(buffer) for buffer in self._buffers])


class FilesCopy:
    """A copy of a checkpoint's files, by path below its directory."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        self._files = files

    @classmethod
    def of(cls, directory: Path) -> FilesCopy:
        """Read a directory."""
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        return cls({path.relative_to(directory).as_posix(): path.read_bytes() for path in paths})

    @property
    def bytes(self) -> int:
        """The size."""
        return sum(memoryview(content).nbytes for content in self._files.values())

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """Give a directory with the files, in memory too where there is such a place."""
        with TemporaryDirectory(prefix="tune-platform-copy-", dir=_IN_MEMORY) as made:
            for name, content in self._files.items():
                path = Path(made, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            yield Path(made)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return FilesCopy, ({name: pickle.PickleBuffer(content) for name, content in self._files.items()},)


Copy = StateCopy | FilesCopy
#: Brings a copy from where it is; None where it is no more.
Fetch = Callable[[], Copy | None]


class Memory:
    """Copies of at most `limit` bytes: of each trial the newest, and those that are not written yet.

    So what was offered to others is here or in storage as long as the process lives. Any thread may call it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = Lock()
        self._held: dict[str, _Held] = {}  # by uri, oldest first

    def put(self, ref: CheckpointRef, copy: Copy) -> bool:
        """Keep the copy of a checkpoint that is to be written; False where there is no room for it."""
        size = copy.bytes
        with self._lock:
            self._drop([held for held in self._held.values() if held.free and held.trial == ref.trial])
            total = sum(held.size for held in self._held.values())
            free = [held for held in self._held.values() if held.free]
            if total - sum(held.size for held in free) + size > self.limit:
                return False
            while total + size > self.limit:
                oldest = free.pop(0)
                total -= oldest.size
                self._drop([oldest])
            self._held[ref.uri] = _Held(ref.uri, ref.trial, copy, size)
            return True

    def release(self, ref: CheckpointRef) -> None:
        """Note that a checkpoint is in storage, or never will be: its copy may go, and does where there is a newer."""
        with self._lock:
            if (held := self._held.get(ref.uri)) is not None:
                held.free = True
                newest = [other for other in self._held.values() if other.trial == ref.trial][-1]
                self._drop([held] if held is not newest else [])

    def get(self, ref: CheckpointRef) -> Copy | None:
        """Return the copy of a checkpoint; None where there is none (any more)."""
        with self._lock:
            held = self._held.get(ref.uri)
        return held.copy if held is not None else None

    def _drop(self, these: Sequence[_Held]) -> None:
        for held in these:
            del self._held[held.uri]


@dataclass(slots=True)
class _Held:
    uri: str
    trial: int
    copy: Copy
    size: int
    free: bool = False


class _Pickler(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(thing, torch.Tensor) or thing.layout != torch.strided:
            return NotImplemented
        plain = type(thing) in (torch.Tensor, torch.nn.Parameter) and not thing.is_quantized
        if not plain or thing.is_conj() or thing.is_neg() or thing.numel() == 0:
            return NotImplemented
        flat = thing.detach().cpu().contiguous().reshape(-1)
        view = flat.view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(view), str(flat.dtype).removeprefix("torch."), tuple(thing.shape))


def _tensor(buffer: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    import torch

    return torch.frombuffer(buffer, dtype=getattr(torch, dtype)).reshape(shape)
