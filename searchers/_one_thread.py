"""Small linear algebra in one thread.

The matrices of a searcher's model have some hundred rows. Several threads gain nothing there, and where the trials keep
the other processors busy they wait for each other: a suggestion of `turbo` took 165 ms in two threads beside a busy
processor, and 25 ms in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Let NumPy's library for linear algebra use one thread meanwhile, in this process."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks through what the process has loaded, which takes some milliseconds
