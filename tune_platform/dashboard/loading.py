"""Pandas, loaded when something first needs it: it takes 85 MB, and most pages never do.

Plotly looks whether pandas is there, and takes one that another thread is loading for a whole one. So it is loaded
while no request is answered.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from flask import Flask


class Loading:
    """Who is answering a request at this moment, in whatever thread; `pandas` waits until that is nobody else."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: set[int] = set()
        self._whole = "pandas" in sys.modules

    def install(self, flask: Flask) -> None:
        """Note the requests of an application."""
        flask.before_request(self.enter)
        flask.teardown_request(self.leave)

    def enter(self) -> None:
        """Note that this thread answers a request; wait while pandas is being loaded."""
        with self._changed:
            self._inside.add(threading.get_ident())

    def leave(self, _: Any = None) -> None:
        """Note that this thread has answered."""
        with self._changed:
            self._inside.discard(threading.get_ident())
            self._changed.notify_all()

    def pandas(self) -> None:
        """Load pandas. Who calls it holds no lock that another request may be waiting for."""
        if self._whole:
            return
        me = threading.get_ident()
        with self._changed:
            among = me in self._inside
            self._inside.discard(me)  # two may wait at once, neither for the other
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._inside)
            import pandas  # noqa: F401

            self._whole = True
            if among:
                self._inside.add(me)


#: Those of this process.
LOADING = Loading()
