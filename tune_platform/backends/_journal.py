"""What a worker process has reported and the driver has not fetched yet, in a file that outlives the process.

Reports travel in batches. Where the process dies in between, however that comes about, the driver reads them here, if
it sees the folder of the trials: on the same machine, or on a shared file system.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tune_platform.backends._batch import Item
from tune_platform.backends._writer import Written
from tune_platform.protocol.reports import CheckpointRef, Report

logger = logging.getLogger(__name__)

#: Bytes from which on the file is written anew while something of it is still to be fetched.
_LIMIT = 1_000_000


class Journal:
    """One file of this process, in `folder`; there from the first report on. Without a folder it does nothing."""

    def __init__(self, folder: str = "") -> None:
        self._folder = folder
        self._file: int | None = None
        self._size = 0  # bytes

    def add(self, item: Item, trial: int, attempt: int) -> None:
        """Write down what has come of a trial's attempt. Where that cannot be written, it is left out."""
        if type(item) is Report:
            line: list[Any] = [trial, attempt, item.step, item.time, item.metrics]
        elif type(item) is Written:
            line = [item.ref.trial, item.attempt, item.ref.step, item.ref.bytes, item.ref.uri]
        else:
            return
        if self._file is None and not self._open():
            return
        try:
            # Not buffered: what the system has it keeps, whatever becomes of this process.
            self._size += os.write(self._file or 0, json.dumps(line).encode() + b"\n")
        except (OSError, ValueError, TypeError):
            logger.debug("a report could not be written down", exc_info=True)

    def restart(self, items: Iterable[Item], trial: int, attempt: int) -> None:
        """Forget all but these, which the driver has not fetched yet.

        The process may die in the middle: the others stay a while longer, as `recover` passes over what is known.
        """
        left = list(items)
        if self._file is None or self._size <= (_LIMIT if left else 0):
            return
        if not left:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
                self._size = 0
            return
        old, size = self._file, self._size
        path = _path(self._folder, socket.gethostname(), os.getpid())
        new = path.with_name(f"{path.name}.new")
        try:
            self._file, self._size = _opened(new), 0
            for item in left:
                self.add(item, trial, attempt)
            new.replace(path)
        except OSError:
            if self._file != old:
                os.close(self._file)
            self._file, self._size = old, size
            new.unlink(missing_ok=True)
        else:
            os.close(old)

    def close(self) -> None:
        """Delete the file."""
        if self._file is not None:
            os.close(self._file)
            _path(self._folder, socket.gethostname(), os.getpid()).unlink(missing_ok=True)
        self._file, self._folder = None, ""

    def _open(self) -> bool:
        if not self._folder:
            return False
        path = _path(self._folder, socket.gethostname(), os.getpid())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _opened(path)
        except OSError:
            logger.debug("what is reported cannot be written down", exc_info=True)
            self._folder = ""
            return False
        return True


def recover(folder: str, worker: str, trial: int, attempt: int, after: int) -> list[Item]:
    """Return what the dead process `worker` had still to tell of an attempt, and delete its file.

    `worker` is host:pid, with its GPUs behind it where it has some: host:pid gpu 0,1. The host may be left out where it
    never told it, and so may be both: then all that is there is looked through, and stays. `after` is the last step
    that is known: reports rise from there by one.
    """
    host, _, pid = worker.partition(" gpu ")[0].rpartition(":")
    if not folder:
        return []
    data = b""
    for path in [_path(folder, host, int(pid))] if host else sorted(Path(folder).glob(f".unsent-*-{pid or '*'}")):
        with contextlib.suppress(OSError):
            data += path.read_bytes() + b"\n"
            if pid:
                path.unlink()
    found: list[Item] = []
    for line in data.splitlines():
        try:
            its_trial, its_attempt, step, *rest = json.loads(line)
        except ValueError:  # cut in the middle, and so the last of its process
            continue
        if (its_trial, its_attempt) != (trial, attempt):
            continue
        if isinstance(rest[1], str):
            found.append(Written(CheckpointRef(trial, step, rest[1], rest[0]), attempt))
        elif step == after + 1:
            found.append(Report(step, rest[1], rest[0]))
            after = step
    return found


def clear(folder: str) -> None:
    """Delete what workers of earlier drivers have left behind."""
    for path in Path(folder).glob(".unsent-*") if folder else ():
        path.unlink(missing_ok=True)


def _path(folder: str, host: str, pid: int) -> Path:
    return Path(folder, f".unsent-{host}-{pid}")


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
