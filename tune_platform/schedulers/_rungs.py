"""What the schedulers with rungs share: where the rungs lie, who is recorded in one, and the check of their options."""

from __future__ import annotations

import math
import reprlib
import sys
import zlib
from array import array
from binascii import a2b_base64, b2a_base64
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from sortedcontainers import SortedList

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report

Entry = tuple[float, int, int]  # (loss, order of arrival, trial number): smaller is better


#: Beyond any resource that is counted or measured. What is within it, a float holds, and so its powers and ratios do.
_LARGEST, _SMALLEST = 1e18, 1e-9
_LEAST_ETA = 1.01


def check_numbers(name: str, options: Mapping[str, Any], optional: Sequence[str] = ("max",)) -> None:
    """Raise SpecError for the first option that is no number of a size that can be reckoned with.

    Infinity is left to the caller, and None where it is `optional`.
    """
    for option, value in options.items():
        if value is None and option in optional:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise SpecError(f"{name}: {option} must be a number, got {value!r}")
        if _LARGEST < abs(value) < math.inf:
            raise SpecError(f"{name}: {option} must be at most {_LARGEST:g}, got {reprlib.repr(value)}")
        if 0 < value < _SMALLEST:
            raise SpecError(f"{name}: {option} must be at least {_SMALLEST:g} where it is not 0, got {value!r}")


def check_resource(name: str, resource: Any) -> None:
    """Raise SpecError where the resource is no name of a metric."""
    if not isinstance(resource, str) or not resource:
        raise SpecError(
            f"{name}: resource must be the name of what trials report of it, such as step or time_total_s, "
            f"got {resource!r}"
        )


class Ladder:
    """The resources of the rungs: rung k lies at r_k = min(r * eta^k, R), with r = `min` and R = `max`.

    Where `min` is a whole number the resource is taken for a count: levels are rounded down, and a rung that falls
    on the one before it (an eta below 2) is left out. `max` None: rungs grow without end. Raises SpecError.
    """

    def __init__(self, name: str, *, min: float, max: float | None, eta: float) -> None:
        check_numbers(name, {"min": min, "max": max, "eta": eta})
        if not 0 < min < math.inf:
            raise SpecError(f"{name}: min (the resource of the first rung) must be above 0, got {min!r}")
        if max is not None and not max >= min:
            raise SpecError(f"{name}: max must be at least min ({min:g}), got {max!r}")
        if not _LEAST_ETA <= eta < math.inf:  # nearer to 1 there are millions of rungs
            raise SpecError(
                f"{name}: eta (the reduction factor) must be a number from {_LEAST_ETA:g} on, got {eta!r}; the papers "
                "use 3 or 4"
            )
        self.min, self.eta = min, eta
        self.max = None if max == math.inf else max
        self._levels: list[float] = [min]
        self._power = 0  # eta's in the last of the levels

    def level(self, rung: int) -> float:
        """Return the resource of rung `rung`, counted from 0; `max` for any beyond the last."""
        while len(self._levels) <= rung:
            top = self._levels[-1]
            if top == self.max:
                return top
            self._levels.append(self._next(top))
        return self._levels[rung]

    def levels(self) -> list[float]:
        """Return all levels. Raises SpecError where there is no end of them."""
        if self.max is None:
            raise SpecError("rungs without a max have no end")
        while self._levels[-1] != self.max:
            self.level(len(self._levels))
        return list(self._levels)

    def below(self, reached: float) -> int:
        """Return the highest rung at or below `reached`; -1 if there is none."""
        while self._levels[-1] <= reached and self._levels[-1] != self.max:
            self.level(len(self._levels))
        return bisect_right(self._levels, reached) - 1

    def _next(self, top: float) -> float:
        level = top
        while level <= top:
            self._power += 1
            level = self.min * self.eta**self._power
            if float(self.min).is_integer():
                level = math.floor(level + 1e-9)
        return level if self.max is None else min(level, self.max)


class Forecast(NamedTuple):
    """What a scheduler does with so many trials, if none fails.

    rungs: bracket, level and number of trials of each rung. total: resource spent on all. saved: the share of what all
    would have cost that is saved.
    """

    resource: str
    rungs: tuple[tuple[int, float, int], ...]
    total: float
    saved: float


def forecast(resource: str, brackets: Sequence[Sequence[tuple[float, int]]]) -> Forecast:
    """Add up what brackets of rungs cost; each rung is a level and how many trials are trained to it."""
    rows = tuple((index, level, trials) for index, rungs in enumerate(brackets) for level, trials in rungs)
    total = full = 0.0
    for rungs in brackets:
        below = 0.0
        for level, trials in rungs:
            total += (level - below) * trials
            below = level
        if rungs:
            full += rungs[0][1] * rungs[-1][0]
    return Forecast(resource, rows, total, 1 - total / full if full else 0.0)


def reached(report: Report | None, resource: str) -> float:
    """Return how far a trial was at a report; 0 before the first, or where it does not say."""
    value = report.value(resource) if report is not None else None
    return float(value) if isinstance(value, (int, float)) else 0.0


def packed(values: array[Any]) -> str:
    """Return numbers as a text: their bytes, least first, in base64.

    As a list they would be some 150 bytes each for a moment, of which the process gives little back.
    """
    return b2a_base64(_least_first(values), newline=False).decode()


def unpacked(kind: str, text: str) -> array[Any]:
    """Return the numbers of what `packed` gave of an array of this type code."""
    return _least_first(array(kind, a2b_base64(text)))


def _least_first(values: array[Any]) -> array[Any]:
    if sys.byteorder == "little":
        return values
    values = values[:]
    values.byteswap()
    return values


@dataclass(slots=True)
class Rung:
    """The results recorded at one level. Of a trial it keeps some 35 bytes: there may be a million of them."""

    eta: float
    known: bytearray = field(default_factory=bytearray)  # by number, whether it has arrived
    ranked: SortedList = field(default_factory=SortedList)  # the losses in order

    @classmethod
    def of(cls, eta: float, data: Mapping[str, Any]) -> Self:
        """Build a rung of what `to_data` returned, in O(n log n)."""
        rung = cls(eta)
        rung.take(data)
        return rung

    def __len__(self) -> int:
        return len(self.ranked)

    def __contains__(self, number: int) -> bool:
        return number < len(self.known) and bool(self.known[number])

    def keep(self) -> int:
        """Return how many of those recorded are above the cut: the best floor(n / eta)."""
        return math.floor(len(self) / self.eta + 1e-9)

    def best(self) -> float:
        """Return the least loss."""
        return float(self.ranked[0])

    def add(self, loss: float, number: int) -> int:
        """Record a trial and return its rank, from 1; of equal ones the first to arrive is better. Costs O(log n)."""
        self.arrive(number)
        self.ranked.add(loss)
        return int(self.ranked.bisect_right(loss))

    def leave(self, number: int) -> None:
        """Note that a trial, if it is here, has gone on to the next rung or has ended."""

    def to_data(self) -> dict[str, Any]:
        """Return who has arrived and all losses, as texts; see `packed`."""
        known = b2a_base64(zlib.compress(self.known), newline=False).decode()
        return {"known": known, "losses": packed(array("d", self.ranked))}

    def take(self, data: Mapping[str, Any]) -> None:
        """Take over what `to_data` returned."""
        self.known = bytearray(zlib.decompress(a2b_base64(data["known"])))
        self.ranked = SortedList(unpacked("d", data["losses"]))

    def arrive(self, number: int) -> None:
        """Note who comes next."""
        if number >= len(self.known):
            self.known.extend(bytes(number + 1 - len(self.known)))
        self.known[number] = True


@dataclass(slots=True)
class PromotionRung(Rung):
    """One whose trials wait there until they are promoted. They are split at the cut: the best, and the rest."""

    numbers: array[int] = field(default_factory=lambda: array("q"))  # of the trials, in their order of arrival
    losses: array[float] = field(default_factory=lambda: array("d"))  # theirs
    here: dict[int, Entry] = field(default_factory=dict)  # those that were not promoted and have not ended
    top: SortedList = field(default_factory=SortedList)
    rest: SortedList = field(default_factory=SortedList)
    promotable: SortedList = field(default_factory=SortedList)  # those of `top` that are `here`

    def __len__(self) -> int:
        return len(self.numbers)

    def best(self) -> float:
        """See `Rung.best`."""
        return float((self.top or self.rest)[0][0])

    def add(self, loss: float, number: int) -> int:
        """See `Rung.add`."""
        entry = (loss, len(self.numbers), number)
        self.arrive(number)
        self.numbers.append(number)
        self.losses.append(loss)
        self.here[number] = entry
        if self.top and entry < self.top[-1]:
            self._raise(entry)
        else:
            self.rest.add(entry)
        # An arrival moves the cut by at most one either way, so the split is kept in O(log n).
        keep = self.keep()
        while len(self.top) > keep:
            fallen = self.top.pop()
            self.promotable.discard(fallen)
            self.rest.add(fallen)
        while len(self.top) < keep:
            self._raise(self.rest.pop(0))
        if self.top and entry <= self.top[-1]:
            return int(self.top.bisect_left(entry)) + 1
        return len(self.top) + int(self.rest.bisect_left(entry)) + 1

    def leave(self, number: int) -> None:
        """See `Rung.leave`: it is promoted no more."""
        if (entry := self.here.pop(number, None)) is not None:
            self.promotable.discard(entry)

    def to_data(self) -> dict[str, Any]:
        """Return who has arrived, in order, with their losses, and who has left, as texts; see `packed`."""
        gone = sorted(number for number in self.numbers if number not in self.here)
        return {"trials": packed(self.numbers), "losses": packed(self.losses), "promoted": packed(array("q", gone))}

    def take(self, data: Mapping[str, Any]) -> None:
        """See `Rung.take`."""
        self.numbers, self.losses = unpacked("q", data["trials"]), unpacked("d", data["losses"])
        gone = set(unpacked("q", data["promoted"]))
        entries = list(zip(self.losses, range(len(self.numbers)), self.numbers, strict=True))
        for number in self.numbers:
            self.arrive(number)
        self.here = {entry[2]: entry for entry in entries if entry[2] not in gone}
        ranked, keep = sorted(entries), self.keep()
        self.top, self.rest = SortedList(ranked[:keep]), SortedList(ranked[keep:])
        self.promotable = SortedList(entry for entry in ranked[:keep] if entry[2] in self.here)

    def _raise(self, entry: Entry) -> None:
        self.top.add(entry)
        if entry[2] in self.here:
            self.promotable.add(entry)
