"""A thread that draws while the run is busy."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable

#: Seconds to wait for the last call: whatever it waits for, the search has ended.
PATIENCE = 5.0

_LOG = logging.getLogger("tune_platform")


class Ticker:
    """Calls `act` every `period` seconds until it is stopped. An error ends it, is told once, and harms nothing."""

    def __init__(self, act: Callable[[], object], period: float) -> None:
        self._act, self._period = act, period
        self._stopped = threading.Event()
        # A notebook knows by its context which cell an output belongs to.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._loop,), name="progress", daemon=True
        )

    def start(self) -> None:
        """Begin to call."""
        self._thread.start()

    def stop(self) -> None:
        """Call no more, once a call under way is over."""
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)

    def _loop(self) -> None:
        while not self._stopped.wait(self._period):
            try:
                self._act()
            except Exception:
                _LOG.warning("progress is not shown any more; the search goes on", exc_info=True)
                return
