"""A disk that is full is a condition of the machine: nothing is launched until there is room again."""

from __future__ import annotations

import errno
import logging
import math
import time

logger = logging.getLogger(__name__)

#: The cause of a failure for want of room, by the platform or by training code.
CAUSE = "disk_full"
#: Seconds until it is tried again, at first and at most.
_FIRST_S, _LONGEST_S = 1.0, 30.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that it came from, says that there is no room on a disk."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


class FullDisk:
    """Until when launches wait. One warning says that a disk is full, and one when a trial has gone well since."""

    def __init__(self) -> None:
        self.until = -math.inf  # on the monotonic clock
        self._wait = _FIRST_S
        self._since: float | None = None

    def note(self, cause: str, message: str) -> bool:
        """Note how an attempt failed; True where launches wait from now on."""
        now = time.monotonic()
        if cause != CAUSE or now < self.until:  # those that ran beside the first tell nothing new
            return False
        if self._since is None:
            self._since = now
            logger.warning(
                "a disk is full: trials are launched again once there is room, and lose none of their retries; it is "
                "tried every %g s at first, later every %g s. What failed: %s", _FIRST_S, _LONGEST_S, message,
            )  # fmt: skip
        self.until = now + self._wait
        self._wait = min(2 * self._wait, _LONGEST_S)
        return True

    def went_well(self) -> None:
        """Note that a trial has saved, or has come to where it was to come."""
        if self._since is not None:
            logger.warning("there is room on the disk again, after %.0f s", time.monotonic() - self._since)
            self._since, self._wait = None, _FIRST_S
