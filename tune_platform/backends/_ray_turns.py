"""Launches that let the other drivers of a crowded cluster go first: each has a place in turn, for one trial."""

from __future__ import annotations

import math
import time

from tune_platform.protocol.commands import Launch

#: Seconds between the end of a worker and the request for the next. Ray does not serve the oldest request first, so
#: those of the others are to be the only ones by then.
_GAP_S = 0.3


class Turns:
    """What one driver holds back from Ray while its place goes to another. Times are on the monotonic clock."""

    def __init__(self) -> None:
        self.at = math.inf  # when the launches held back are due
        self._held: dict[int, Launch] = {}
        self._until = 0.0
        self._not_before = 0.0  # whoever's turn it is

    def __bool__(self) -> bool:
        return bool(self._held)

    def give_way(self) -> None:
        """Hold launches back from now on: the process of a trial that has ended gives its place back."""
        self._until = math.inf

    def hold_until(self, at: float) -> None:
        """Hold launches back until then."""
        self._not_before = at
        self._until = max(self._until, at)
        self.at = self._until if self._held else math.inf

    def gave_way(self) -> None:
        """Note that a process has ended."""
        if self._until == math.inf:
            self._until = max(time.monotonic() + _GAP_S, self._not_before)
            self.at = self._until if self._held else math.inf

    def hold(self, launch: Launch) -> bool:
        """Hold a launch back if it is not this driver's turn; return whether that is so."""
        if time.monotonic() >= self._until:
            return False
        self._held[launch.trial] = launch
        self.at = self._until
        return True

    def take(self, trial: int) -> Launch | None:
        """Take out the launch of a trial, if it is held back."""
        return self._held.pop(trial, None)

    def due(self, now: float) -> list[Launch]:
        """Take out what has waited long enough."""
        if now < self.at:
            return []
        launches, self.at = list(self._held.values()), math.inf
        self._held.clear()
        return launches
