"""Launches that are held back from Ray for a while: see `_outage`."""

from __future__ import annotations

import math
import time

from tune_platform.protocol.commands import Launch


class Delayed:
    """What one driver holds back. Times are on the monotonic clock."""

    def __init__(self) -> None:
        self.at = math.inf  # when the launches held back are due
        self._held: dict[int, Launch] = {}
        self._until = 0.0

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold_until(self, at: float) -> None:
        """Hold launches back until then."""
        self._until = max(self._until, at)
        self.at = self._until if self._held else math.inf

    def hold(self, launch: Launch) -> bool:
        """Hold a launch back if it is not the time; return whether that is so."""
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
