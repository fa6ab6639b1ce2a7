"""What a searcher with a model knows of the trials: a row for each, and at each fidelity the values, best first.

It is a function of the suggestions and of the last outcome of each trial, in whatever order they were told, so that a
restored searcher knows the same. To tell costs O(log n), and no model looks at more than a bounded part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sortedcontainers import SortedList

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome
from tune_platform.space.encoding import Encoding, Floats

#: Values of trials that ended for one that is no number: the worst at every fidelity.
_WORST = math.inf


class History:
    """Trials as rows, and `levels`: for each resource at which trials were judged, (loss, number) in order."""

    def __init__(self, encoding: Encoding, mode: str) -> None:
        self._encoding, self._sign = encoding, 1.0 if mode == "min" else -1.0
        self.rows: dict[int, Floats] = {}
        self.levels: dict[float, SortedList] = {}
        self.worst: SortedList = SortedList()  # numbers of the trials that ended for a value that is no number
        self.last: SortedList = SortedList()  # (loss, number) of each trial at the highest resource that it reached
        self._pending: SortedList = SortedList()  # numbers of the trials that run and have no value yet
        self._valued: SortedList = SortedList()  # numbers of the trials that have a value
        self._told: dict[int, tuple[tuple[float, float], ...]] = {}

    def add(self, number: int, config: Mapping[str, Any]) -> None:
        """Note a trial. One that is not in the space (it was changed on resume) is left out."""
        try:
            row = self._encoding.row(config)
        except SpecError:
            self.rows.pop(number, None)
            self._pending.discard(number)
            return
        if number not in self.rows:
            self._pending.add(number)
        self.rows[number] = row

    def tell(self, number: int, outcome: Outcome) -> None:
        """Take in how a trial ended or stands, in the place of what was told of it before."""
        self._forget(number)
        if outcome.config is not None:
            self.add(number, outcome.config)
        self._pending.discard(number)
        if number not in self.rows:
            return
        if outcome.worst:
            self.worst.add(number)
        elif outcome.status != "failed":
            self._record(number, outcome)

    def best(self, enough: int) -> list[tuple[float, int]] | SortedList:
        """Return (loss, number), best first, of the highest fidelity with `enough` trials; empty if there is none."""
        level = self.top(enough)
        return [] if level is None else self.levels[level]

    def top(self, enough: int) -> float | None:
        """Return the highest resource at which `enough` trials were judged; None if there is none."""
        return max((level for level, found in self.levels.items() if len(found) >= enough), default=None)

    def loss(self, number: int, level: float) -> float:
        """Return the loss of a trial that has a value at a resource; infinity where it did not come there."""
        return next((loss for at, loss in self._told[number] if at == level), math.inf)

    def farthest(self, number: int) -> tuple[float, float] | None:
        """Return the highest resource that a trial reached, and its loss there; None where it has no value."""
        told = self._told.get(number)
        return told[-1] if told else None

    def add_earlier(self, number: int, config: Mapping[str, Any], loss: float) -> None:
        """Note a trial of an earlier experiment, with a negative number, as one judged at resource 0: below all others.

        `loss` is on a scale of its own, and the less the better whatever the mode.
        """
        self.add(number, config)
        self._pending.discard(number)
        if number in self.rows:
            self._told[number] = ((0.0, loss),)
            self._valued.add(number)
            self.levels.setdefault(0.0, SortedList()).add((loss, number))

    def ranked(self, enough: int) -> list[tuple[float, int]] | SortedList:
        """Return (loss, number) of each trial at the highest resource that it reached, best first.

        Where these are not enough yet, those of earlier experiments; where these are not either, nothing.
        """
        for found in (self.last, self.levels.get(0.0, [])):
            if len(found) >= enough:
                return found
        return []

    def pending(self, count: int) -> list[int]:
        """Return the numbers of the newest trials that run and have no value yet, oldest first."""
        return list(self._pending[-count:])

    def newest(self, count: int) -> list[int]:
        """Return the numbers of the newest trials that have a value, oldest first."""
        return list(self._valued[-count:])

    def winner(self, rivals: Sequence[int]) -> int:
        """Return the best of trials that have a value, at the highest resource that two of them reached."""
        for level in sorted({level for number in rivals for level, _ in self._told[number]}, reverse=True):
            there = [(loss, number) for number in rivals for at, loss in self._told[number] if at == level]
            if len(there) > 1:
                return min(there)[1]
        return rivals[0]

    def _forget(self, number: int) -> None:
        told = self._told.pop(number, ())
        for level, loss in told:
            self.levels[level].remove((loss, number))
        if told:
            self.last.remove((told[-1][1], number))
        self._valued.discard(number)
        self.worst.discard(number)

    def _record(self, number: int, outcome: Outcome) -> None:
        rungs = outcome.rungs
        if not rungs and outcome.value is not None:
            rungs = ((outcome.resource or float(outcome.step), outcome.value),)
        found = {float(level): self._sign * value for level, value in rungs if math.isfinite(value)}
        self._told[number] = told = tuple(sorted(found.items()))
        if found:
            self._valued.add(number)
            self.last.add((told[-1][1], number))
        for level, loss in found.items():
            self.levels.setdefault(level, SortedList()).add((loss, number))


def spread(ranked: Sequence[tuple[float, int]], best: int, most: int) -> list[tuple[float, int]]:
    """Return the `best` first of a ranking and, of the others, an even choice over their ranks; `most` in all."""
    if len(ranked) <= most:
        return list(ranked)
    others = np.linspace(best, len(ranked) - 1, most - best).astype(int)
    return [*ranked[:best], *(ranked[index] for index in others)]
