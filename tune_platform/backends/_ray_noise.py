"""What Ray itself would print into the driver's terminal while trials run, such as its advice on each dead worker.

It comes from threads of Ray's in this process, which print whatever any node says, to stdout. The platform tells of a
dead worker in one line of its own, so Ray's go to the log `tune_platform.ray`, at INFO. What the user's own actors
print is Ray's to show.
"""

from __future__ import annotations

import logging
from typing import Any

import ray._private.worker as ray_worker
from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

from tune_platform.protocol.text import plain

logger = logging.getLogger("tune_platform.ray")

_PRINTER = "ray_print_logs"  # Ray's name for its handler of what processes print
_print = ray_worker.print_to_stdstream


class Quiet:
    """Keeps Ray's own lines out of the terminal, from `start` to `stop`. Several may overlap."""

    _held = 0

    def __init__(self) -> None:
        self._on = False

    def start(self) -> None:
        """Begin; to be called once this process is connected to Ray."""
        if self._on:
            return
        self._on = True
        Quiet._held += 1
        ray_worker.print_to_stdstream = _filtered  # where the thread for errors looks it up, each time
        for name, handler in list(dispatcher.handlers):
            if name == _PRINTER and not isinstance(handler, _Filter):
                dispatcher.remove_handler(name)
                dispatcher.add_handler(name, _Filter(handler))

    def stop(self) -> None:
        """End. Safe to call twice."""
        if self._on:
            self._on = False
            Quiet._held -= 1


class _Filter:
    """Stands before Ray's handler of what processes print."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __call__(self, data: Any) -> None:
        if not _kept(data):
            self._handler(data)


def _filtered(data: Any, ignore_prefix: bool = False) -> None:
    if not _kept(data):
        _print(data, ignore_prefix)


def _kept(data: Any) -> bool:
    """Whether this is one of Ray's own lines, which has now gone to the log."""
    if Quiet._held == 0 or data.get("pid") != "raylet":
        return False
    for line in data.get("lines", ()):
        logger.info("%s", plain(str(line)))
    return True
