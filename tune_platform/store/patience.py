"""A store that is away for a while, because its server is started again or its file is locked, ends no search."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from tune_platform.errors import ExperimentError
from tune_platform.store.database import StoreAway

PATIENCE_SECONDS = 300.0
"""How long a driver asks again before it gives up."""

_LOG = logging.getLogger("tune_platform")
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0  # seconds

T = TypeVar("T")


class Patience:
    """Calls what asks the store, again and again while that is away, up to `seconds` seconds.

    One warning says when it begins, and one when the store is back. Once it has given up, or was interrupted by a
    person, it has no patience left.
    """

    def __init__(self, where: str, seconds: float = 0.0) -> None:
        self._where, self._seconds = where, seconds

    def __call__(self, attempt: Callable[[bool], T]) -> T:
        """Return what `attempt` returns; it is told whether it was tried before, and may have succeeded then.

        Raises ExperimentError, with the cause and for how long it was tried.
        """
        try:
            return self._ask(attempt)
        except KeyboardInterrupt:  # who wants to end at once is not to wait for the last status
            self._seconds = 0.0
            raise

    def _ask(self, attempt: Callable[[bool], T]) -> T:
        began, tried, wait = time.monotonic(), False, _FIRST_WAIT
        while True:
            try:
                result = attempt(tried)
            except StoreAway as error:
                left = began + self._seconds - time.monotonic()
                if not self._seconds:
                    raise
                if left <= 0.0:
                    self._seconds = 0.0
                    raise ExperimentError(
                        f"the store at {self._where} did not answer for {time.monotonic() - began:.0f} s "
                        f"({_cause(error)}). What it has is whole: resume the experiment once the store is back."
                    ) from error
                if not tried:
                    _LOG.warning(
                        "the store at %s does not answer (%s); trials go on, retrying for up to %.0f s",
                        self._where,
                        _cause(error),
                        self._seconds,
                    )
                tried = True
                time.sleep(min(wait, left))
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                if tried:
                    _LOG.warning("the store is back after %.1f s", time.monotonic() - began)
                return result


def _cause(error: StoreAway) -> str:
    """Return the first line of what the database's driver said."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error.__cause__).__name__
