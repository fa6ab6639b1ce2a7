"""A full disk, or storage that does not answer, is a condition of the machines: launches wait until it is over."""

from __future__ import annotations

import errno
import logging
import math
import time

from tune_platform.store.checkpoints import StorageAway

logger = logging.getLogger(__name__)

#: The causes of failures for want of room, by the platform or by training code, and of those to reach checkpoints.
DISK_FULL, STORAGE_AWAY = "disk_full", "storage_away"
#: Seconds until it is tried again, at first and at most.
_FIRST_S, _LONGEST_S = 1.0, 30.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_BEGINS = {DISK_FULL: "a disk is full", STORAGE_AWAY: "the storage of checkpoints does not answer"}
_ENDS = {DISK_FULL: "there is room on the disk again", STORAGE_AWAY: "the storage of checkpoints answers again"}


def cause_of(error: BaseException | None) -> str:
    """Return the cause that an exception, or one that it came from, has in a condition of the machines; else ""."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return DISK_FULL
        if isinstance(error, StorageAway):
            return STORAGE_AWAY
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return ""


class Outage:
    """Until when launches wait. One warning says that it has begun, and one when a trial has gone well since."""

    def __init__(self) -> None:
        self.until = -math.inf  # on the monotonic clock
        self._wait = _FIRST_S
        self._cause, self._since = "", 0.0

    def note(self, cause: str, message: str) -> bool:
        """Note how an attempt failed; True where launches wait from now on."""
        now = time.monotonic()
        if cause not in _BEGINS or now < self.until:  # those that ran beside the first tell nothing new
            return False
        if self._cause != cause:
            self._cause, self._since = cause, now
            logger.warning(
                "%s: trials are launched again once that is over, and lose none of their retries; it is "
                "tried every %g s at first, later every %g s. What failed: %s",
                _BEGINS[cause], _FIRST_S, _LONGEST_S, message,
            )  # fmt: skip
        self.until = now + self._wait
        self._wait = min(2 * self._wait, _LONGEST_S)
        return True

    def went_well(self, *, saved: bool) -> None:
        """Note that a trial has `saved`, or has come to where it was to come, of which storage need not know."""
        if self._cause and (saved or self._cause != STORAGE_AWAY):
            logger.warning("%s, after %.0f s", _ENDS[self._cause], time.monotonic() - self._since)
            self._cause, self._wait = "", _FIRST_S
