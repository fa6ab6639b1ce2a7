"""The connection of this process to Ray, kept by a thread of its own.

`ray.init` and `ray.shutdown` may wait in native code for minutes, where Python's signal handlers do not run. So a
thread calls them, and the caller waits in a way that a signal and a deadline can end. The thread stays as long as
the connection: the system ends the processes that it has started for Ray together with it.
"""

from __future__ import annotations

import atexit
import signal
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import ray

from tune_platform.backends._ray_token import forget_token
from tune_platform.errors import ExperimentError

#: Seconds for Ray to end, after which it is left to itself.
ENDED_WITHIN = 15.0
#: Seconds that the end of the process waits for a start that was given up.
EXIT_WITHIN = 2.0


def _restore_handlers() -> None:
    """Have Python's handlers hear of signals again: Ray's native code puts one of its own before that of SIGTERM."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, handler)


class Connection(threading.Thread):
    """One `ray.init` with these arguments, and the `ray.shutdown` that belongs to it."""

    _last: Connection | None = None

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__(name="ray-connection", daemon=True)
        self._arguments = dict(arguments)
        self._made, self._leave, self._left = threading.Event(), threading.Event(), threading.Event()
        self._error: BaseException | None = None

    @classmethod
    def open(cls, arguments: Mapping[str, Any], seconds: float) -> Connection:
        """Connect, or start a Ray. Raises what `ray.init` raises, and TimeoutError after `seconds`.

        Whatever ends the waiting, a KeyboardInterrupt too, what has been begun is ended behind the caller's back.
        """
        connection = cls(arguments)
        connection.start()
        try:
            if not connection._made.wait(seconds):
                raise TimeoutError
        except BaseException:
            connection._leave.set()
            Connection._last = connection
            atexit.register(connection._end_with_process)
            raise
        finally:
            _restore_handlers()
        if connection._error is not None:
            raise connection._error
        return connection

    @classmethod
    def await_last(cls, seconds: float) -> None:
        """Wait until a start that was given up has ended. Raises ExperimentError if it does not."""
        if cls._last is not None and not cls._last._left.wait(seconds):
            raise ExperimentError("this process still waits for a Ray that an earlier search gave up: use a new one")
        cls._last = None

    def close(self) -> None:
        """End the connection, and the Ray that it has started."""
        self._leave.set()
        if not self._left.wait(ENDED_WITHIN):
            atexit.register(self._end_with_process)

    def run(self) -> None:
        """Connect, wait, disconnect."""
        # The processes of Ray inherit it: a terminal that is closed signals them too, and their trials are to be saved.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            with warnings.catch_warnings():  # of what Ray will do in its next version
                warnings.simplefilter("ignore", FutureWarning)
                ray.init(**self._arguments)
        except BaseException as error:
            self._error = error
        self._made.set()
        if self._error is None:
            self._leave.wait()
            ray.shutdown()
        forget_token()
        self._left.set()

    def _end_with_process(self) -> None:
        try:
            if self._left.wait(EXIT_WITHIN):
                return
        except KeyboardInterrupt:
            pass
        atexit.unregister(ray.shutdown)  # it would wait for the same; what was started ends with this process
