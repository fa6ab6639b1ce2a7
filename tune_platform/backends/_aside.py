"""Calls that may hang are made beside the loop, one at a time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any


class Aside:
    """A thread that makes calls to whom may not answer for a minute. A call that never ends keeps nobody from ending.

    Times are on the monotonic clock.
    """

    def __init__(self, name: str, wake: Callable[[], None] = lambda: None) -> None:
        self._name, self._wake = name, wake
        self._since = math.inf
        self._thread: threading.Thread | None = None
        self._found: list[tuple[Any, Exception | None]] = []

    @property
    def busy(self) -> bool:
        """Whether a call is under way, or its result has not been taken."""
        return self._thread is not None

    @property
    def waiting(self) -> float:
        """Seconds that the present call has taken; 0 where there is none, or where it has ended."""
        return 0.0 if self._found or self._thread is None else time.monotonic() - self._since

    def ask(self, call: Callable[[], Any]) -> None:
        """Have a call made, unless one is under way."""
        if self._thread is None:
            self._since = time.monotonic()
            self._thread = threading.Thread(target=self._make, args=(call,), name=self._name, daemon=True)
            self._thread.start()

    def take(self) -> tuple[Any, Exception | None] | None:
        """Take what a call has returned, and what it has raised; None where none has ended."""
        if not self._found:
            return None
        self._thread = None
        return self._found.pop()

    def _make(self, call: Callable[[], Any]) -> None:
        try:
            self._found.append((call(), None))
        except Exception as error:
            self._found.append((None, error))
        self._wake()
