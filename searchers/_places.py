"""Which trial gets which point of a grid: points are counted without the trials that users brought along."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable


class Places:
    """Turns trial numbers into point numbers, skipping observed trials (start points and the like)."""

    def __init__(self, observed: Iterable[int] = ()) -> None:
        self._observed = sorted(observed)

    @property
    def observed(self) -> list[int]:
        """The numbers of the observed trials, in order."""
        return list(self._observed)

    def observe(self, number: int) -> None:
        """Hear that trial `number` does not take a point."""
        at = bisect_left(self._observed, number)
        if self._observed[at : at + 1] != [number]:
            insort(self._observed, number)

    def point(self, number: int) -> int:
        """Return the point of trial `number`."""
        return number - bisect_left(self._observed, number)
