"""Deletes checkpoints that nobody needs any more, beside the search."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from tune_platform.protocol.reports import CheckpointRef
from tune_platform.store.checkpoints import CheckpointStorage

_LOG = logging.getLogger("tune_platform")


class Janitor:
    """One thread that deletes in the order of `drop`. Storage that hangs, or refuses, keeps no search from ending."""

    def __init__(self, storage: CheckpointStorage) -> None:
        self._storage = storage
        self._todo: SimpleQueue[CheckpointRef | None] = SimpleQueue()
        self._thread: threading.Thread | None = None  # none before the first checkpoint
        self._failed = 0
        self._error: Exception | None = None

    def drop(self, refs: Sequence[CheckpointRef]) -> None:
        """Have these deleted soon."""
        for ref in refs:
            self._todo.put(ref)
        if self._thread is None and refs:
            self._thread = threading.Thread(target=self._work, name="janitor", daemon=True)
            self._thread.start()

    def close(self, seconds: float) -> None:
        """Wait for that, so long at most; one warning says what was left: a resume deletes it."""
        if self._thread is None:
            return
        self._todo.put(None)
        self._thread.join(seconds)
        left, why = self._failed, repr(self._error)
        if self._thread.is_alive():
            left, why = left + max(1, self._todo.qsize()), f"no answer within {seconds:g} s"
        if left:
            _LOG.warning(
                "%d checkpoint(s) that nobody needs were not deleted from %s (%s); a resume deletes them",
                left, self._storage.root, why,
            )  # fmt: skip

    def _work(self) -> None:
        while (ref := self._todo.get()) is not None:
            try:
                self._storage.delete(ref)
            except Exception as error:
                self._failed, self._error = self._failed + 1, error
