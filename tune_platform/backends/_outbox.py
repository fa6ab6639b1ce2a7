"""What a worker has to tell and the driver has not fetched yet: in order, bounded in memory, the rest in a file."""

from __future__ import annotations

import logging
import pickle
import tempfile
from collections import deque
from typing import IO, Any

logger = logging.getLogger(__name__)

#: Things that are kept in memory before they go to the file.
CHUNK = 5000


class Outbox:
    """A queue of things that can be pickled. Not thread-safe: its users hold a lock.

    At most `2 * chunk` things are in memory. The file has no name, so that it is gone with the process, however that
    ends; its place on the disk is given back whenever all of it has been read. Where the disk cannot take them, things
    stay in memory.
    """

    def __init__(self, chunk: int = CHUNK) -> None:
        self._chunk = chunk
        self._head: deque[Any] = deque()  # the oldest, read back from the file
        self._tail: list[Any] = []  # the newest
        self._file: IO[bytes] | None = None
        self._spilled: deque[tuple[int, int]] = deque()  # (where, bytes) of each chunk in the file
        self._count = 0
        self._full = False  # the disk has refused a chunk

    def __len__(self) -> int:
        return self._count

    def put(self, item: Any) -> None:
        """Add a thing at the end."""
        self._tail.append(item)
        self._count += 1
        if len(self._tail) % self._chunk == 0:
            self._spill()

    def take(self, limit: int) -> list[Any]:
        """Remove and return the oldest things, `limit` at most."""
        taken: list[Any] = []
        while self._count and len(taken) < limit:
            if not self._head:
                self._refill()
            while self._head and len(taken) < limit:
                taken.append(self._head.popleft())
                self._count -= 1
        return taken

    def in_memory(self) -> list[Any]:
        """Return those in memory, oldest first: all there are, where none had to go to the file."""
        return [*self._head, *self._tail]

    def close(self) -> None:
        """Forget everything, and delete the file."""
        self._head.clear()
        self._tail.clear()
        self._spilled.clear()
        self._count = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        data = pickle.dumps(self._tail, protocol=5)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="tune-platform-reports-", buffering=0)  # noqa: SIM115
            where = sum(self._spilled[-1]) if self._spilled else 0
            self._file.seek(where)
            written = self._file.write(data)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes could be written")
        except OSError:
            if not self._full:
                logger.warning("reports cannot be written to the disk and stay in memory", exc_info=True)
            self._full = True
            return
        self._spilled.append((where, len(data)))
        self._tail = []

    def _refill(self) -> None:
        if not self._spilled:
            self._head.extend(self._tail)
            self._tail = []
            return
        assert self._file is not None
        where, size = self._spilled.popleft()
        self._file.seek(where)
        self._head.extend(pickle.loads(self._file.read(size)))
        if not self._spilled:
            self._file.truncate(0)
