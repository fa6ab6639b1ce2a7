"""How much longer a search takes, as far as that is known: at the pace of its trials so far."""

from __future__ import annotations

import math
from collections.abc import Iterable

#: Trials that must have ended: one or two tell little of the others.
LEAST = 3


class Pace:
    """Counts the trials that end while somebody watches. Times are seconds of one clock.

    An earlier driver of the same search does not count: it may have had other machines.
    """

    def __init__(self) -> None:
        self._began: float | None = None  # when the first trial was launched
        self._last = 0.0  # when a trial ended last
        self._ended = 0
        self._spent = 0.0  # seconds that those took, together
        self._most = 0  # trials that ran at one time

    def launched(self, now: float, running: int) -> None:
        """Note a launch, after which so many trials run."""
        self._began = now if self._began is None else self._began
        self._most = max(self._most, running)

    def ended(self, now: float, seconds: float) -> None:
        """Note the end of a trial that took so long."""
        self._last, self._ended, self._spent = now, self._ended + 1, self._spent + seconds

    def left(self, now: float, trials: float, since: Iterable[float]) -> float | None:
        """Return the seconds that so many `trials` still take, or None where that cannot be known.

        `since`: when those of them that run were launched. Nothing is known before as many trials have ended as ran at
        one time, the first to end being the short ones, and `LEAST` at least.
        """
        if self._began is None or self._ended < max(self._most, LEAST) or not 0 < trials < math.inf:
            return None
        at_this_pace = (self._last - self._began) / self._ended * trials - (now - self._last)
        begun, mean = list(since), self._spent / self._ended
        if len(begun) >= trials:  # however many places there are, one trial is not faster for it
            left = max(at_this_pace, mean - (now - max(begun)))
        else:
            left = max(at_this_pace, mean) if at_this_pace > 0 else 0.0
        return left if left > 0 else None
