"""Who waits for a place, grouped by what they need, and whose turn may not be taken any more.

A cluster has a few shapes of trials and thousands of trials, so each question costs O(shapes).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict, SortedList

from tune_platform.engine.trial import Trial, TrialStatus
from tune_platform.resources import Ledger, Resources

if TYPE_CHECKING:
    from tune_platform.protocol.scheduler import TrialView

#: How often younger trials may take a place before one that does not fit is waited for (invariant 5).
PATIENCE = 8


class Queue:
    """The trials that wait (PENDING) and those that are paused, as a scheduler's `Candidates`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: dict[Resources, SortedDict] = {}  # trials by number, of each shape
        self._paused: dict[Resources, dict[int, Trial]] = {}
        self._starved: SortedList = SortedList()  # numbers of waiting trials whose patience is at its end
        self.size = 0  # how many wait
        self.paused_size = 0

    # ------------------------------------------------------------------------------- coming and going

    def add(self, trial: Trial) -> None:
        """Have a trial wait for a place."""
        group = self._waiting.get(trial.resources)
        if group is None:
            group = self._waiting[trial.resources] = SortedDict()
        group[trial.number] = trial
        self.size += 1

    def add_paused(self, trial: Trial) -> None:
        """Have a paused trial wait for the scheduler to send it on."""
        self._paused.setdefault(trial.resources, {})[trial.number] = trial
        self.paused_size += 1

    def discard(self, trial: Trial) -> None:
        """Take a trial out, before its status changes; nothing if it is not in."""
        shape, number = trial.resources, trial.number
        if trial.status is TrialStatus.PENDING:
            group = self._waiting.get(shape)
            if group is not None and group.pop(number, None) is not None:
                self.size -= 1
                if trial.bypassed >= PATIENCE:
                    self._starved.remove(number)
                trial.bypassed = 0
                if not group:
                    del self._waiting[shape]
        elif trial.status is TrialStatus.PAUSED:
            del self._paused[shape][number]
            self.paused_size -= 1
            if not self._paused[shape]:
                del self._paused[shape]

    def all_waiting(self) -> list[Trial]:
        """Return the waiting trials, oldest first."""
        return sorted((t for group in self._waiting.values() for t in group.values()), key=lambda t: t.number)

    def is_waiting(self, trial: Trial) -> bool:
        """Whether the trial waits to start, or to start again."""
        return trial.number in self._waiting.get(trial.resources, ())

    def is_paused(self, trial: Trial) -> bool:
        """Whether the trial is in as a paused one."""
        return trial.number in self._paused.get(trial.resources, ())

    # ------------------------------------------------------------------------------- places

    def stuck(self) -> bool:
        """Whether it is certain, at little cost, that none of them fits now."""
        shapes = len(self._waiting) + len(self._paused)
        if shapes > 32:  # many shapes (resources drawn from a continuum): look at the trials one by one
            return False
        fits = self._ledger.fits
        return not (any(map(fits, self._waiting)) or any(map(fits, self._paused)))

    def waiting(self) -> Iterator[TrialView]:
        """Trials that wait and fit, oldest first; none younger than one that has been passed over too often."""
        groups = [group for shape, group in self._waiting.items() if self._ledger.fits(shape)]
        last = self._starved[0] if self._starved else None
        if len(groups) == 1:
            (group,) = groups
            for number in group:
                if last is not None and number > last:
                    return
                yield group[number]
            return
        for number, trial in heapq.merge(*(group.items() for group in groups), key=lambda item: item[0]):
            if last is not None and number > last:
                return
            yield trial

    def paused(self, number: int) -> TrialView | None:
        """The paused trial, if the scheduler may send it on now."""
        if self._starved and number > self._starved[0]:
            return None
        for shape, group in self._paused.items():
            trial = group.get(number)
            if trial is not None:
                return trial if not trial.held and self._ledger.fits(shape) else None
        return None

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
