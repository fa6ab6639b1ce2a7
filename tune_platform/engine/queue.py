"""Who waits for a place, grouped by what they need, and whose turn may not be taken any more.

A cluster has a few shapes of trials and thousands of trials, so each question costs O(shapes).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict, SortedList

from tune_platform.engine.trial import Trial, TrialStatus
from tune_platform.resources import Ledger, Resources

if TYPE_CHECKING:
    from tune_platform.protocol.scheduler import TrialView

_number = itemgetter(0)

#: How often younger trials may take a place before one that does not fit is waited for (invariant 5).
PATIENCE = 8


class Queue:
    """The trials that wait (PENDING) and those that are paused, as a scheduler's `Candidates`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: dict[Resources, SortedDict] = {}  # trials by number, of each shape
        self._paused: dict[int, Trial] = {}
        self._paused_shapes: Counter[Resources] = Counter()
        self._misfits: SortedDict = SortedDict()  # of those that wait: what no idle cluster could hold
        self._lost: set[int] = set()  # ... but it could once, before it lost nodes
        self._starved: SortedList = SortedList()  # numbers of waiting trials whose patience is at its end
        self.size = 0  # how many wait

    @property
    def paused_size(self) -> int:
        """How many are paused."""
        return len(self._paused)

    def shapes(self) -> list[tuple[Resources, int]]:
        """Return how many wait for each kind of place."""
        return [(resources, len(group)) for resources, group in self._waiting.items() if group]

    # ------------------------------------------------------------------------------- coming and going

    def add(self, trial: Trial) -> None:
        """Have a trial wait for a place."""
        group = self._waiting.get(trial.resources)
        if group is None:
            group = self._waiting[trial.resources] = SortedDict()
        group[trial.number] = trial
        self.size += 1
        if not self._ledger.possible(trial.resources):
            self._misfits[trial.number] = trial
            if self._ledger.was_possible(trial.resources):
                self._lost.add(trial.number)
        if trial.bypassed >= PATIENCE:  # as a snapshot has it
            self._starved.add(trial.number)

    def add_paused(self, trial: Trial) -> None:
        """Have a paused trial wait for the scheduler to send it on."""
        self._paused[trial.number] = trial
        self._paused_shapes[trial.resources] += 1

    def discard(self, trial: Trial) -> None:
        """Take a trial out, before its status changes; nothing if it is not in."""
        shape, number = trial.resources, trial.number
        if trial.status is TrialStatus.PENDING:
            group = self._waiting.get(shape)
            if group is not None and group.pop(number, None) is not None:
                self.size -= 1
                if self._misfits.pop(number, None) is not None:
                    self._lost.discard(number)
                if trial.bypassed >= PATIENCE:
                    self._starved.remove(number)
                trial.bypassed = 0
                if not group:
                    del self._waiting[shape]
        elif trial.status is TrialStatus.PAUSED:
            del self._paused[number]
            self._paused_shapes[shape] -= 1
            if not self._paused_shapes[shape]:
                del self._paused_shapes[shape]

    @property
    def has_misfits(self) -> bool:
        """Whether some trial waits that would not fit into an idle cluster either, and never did."""
        return len(self._misfits) > len(self._lost)

    @property
    def has_lost(self) -> bool:
        """Whether some trial waits that would not fit into an idle cluster, but did before that lost nodes."""
        return bool(self._lost)

    def misfits(self) -> list[Trial]:
        """Return the waiting trials that would not fit into an idle cluster either, oldest first."""
        return list(self._misfits.values())

    def lost(self, trial: Trial) -> bool:
        """Whether it is one of those that did fit before the cluster lost nodes."""
        return trial.number in self._lost

    def refit(self) -> None:
        """See anew which trials fit into an idle cluster: it has changed."""
        ledger = self._ledger
        groups = {shape: group for shape, group in self._waiting.items() if not ledger.possible(shape)}
        self._misfits = SortedDict(item for group in groups.values() for item in group.items())
        self._lost = {number for shape, group in groups.items() if ledger.was_possible(shape) for number in group}

    def all_paused(self) -> list[Trial]:
        """Return the paused trials, oldest first."""
        return [self._paused[number] for number in sorted(self._paused)]

    def unfit(self) -> int:
        """Return how many of those that wait do not fit now."""
        return sum(len(group) for shape, group in self._waiting.items() if not self._ledger.fits(shape))

    @property
    def reserved(self) -> bool:
        """Whether free places are kept for a waiting trial that has been passed over too often."""
        return self._first_starved() is not None

    def is_waiting(self, trial: Trial) -> bool:
        """Whether the trial waits to start, or to start again."""
        return trial.number in self._waiting.get(trial.resources, ())

    def is_paused(self, trial: Trial) -> bool:
        """Whether the trial is in as a paused one."""
        return trial.number in self._paused

    # ------------------------------------------------------------------------------- places

    def stuck(self) -> bool:
        """Whether it is certain, at little cost, that none of them fits now."""
        shapes = len(self._waiting) + len(self._paused_shapes)
        if shapes > 32:  # many shapes (resources drawn from a continuum): look at the trials one by one
            return False
        return not self.fits_any()

    def fits_any(self) -> bool:
        """Whether any of them fits now, at a cost of O(shapes)."""
        fits = self._ledger.fits
        return any(map(fits, self._waiting)) or any(map(fits, self._paused_shapes))

    def waiting(self) -> Iterator[TrialView]:
        """Trials that wait and fit, oldest first; none younger than one that has been passed over too often."""
        groups = [group for shape, group in self._waiting.items() if self._ledger.fits(shape)]
        last = self._first_starved()
        if len(groups) == 1:
            (group,) = groups
            for number in group:
                if last is not None and number > last:
                    return
                yield group[number]
            return
        for number, trial in heapq.merge(*(group.items() for group in groups), key=_number):
            if last is not None and number > last:
                return
            yield trial

    def paused(self, number: int) -> TrialView | None:
        """The paused trial, if the scheduler may send it on now."""
        last = self._first_starved()
        if last is not None and number > last:
            return None
        trial = self._paused.get(number)
        return trial if trial is not None and not trial.held and self._ledger.fits(trial.resources) else None

    def pass_over(self, number: int) -> None:
        """Note that trial `number` takes a place (before it does) ahead of older ones that do not fit.

        Those that would not fit into an idle cluster either are not waited for.
        """
        for shape, group in self._waiting.items():
            if group.peekitem(0)[0] < number and not self._ledger.fits(shape) and self._ledger.possible(shape):
                for older in group.irange(maximum=number):
                    group[older].bypassed += 1
                    if group[older].bypassed == PATIENCE:
                        self._starved.add(older)

    def _first_starved(self) -> int | None:
        """The oldest whose patience is at its end, of those that the cluster (as it is now) could hold at all."""
        for number in self._starved:
            shape = next(shape for shape, group in self._waiting.items() if number in group)
            if self._ledger.possible(shape):
                return int(number)
        return None
