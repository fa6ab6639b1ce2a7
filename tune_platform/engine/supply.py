"""The supply of new trials: which are owed, how many may still come, and how early the searcher is asked.

A searcher that learns is asked as late as possible: when there is a place for the trial. How many suggestions may be
drawn before that is its own property (`Searcher.lookahead`) or the spec's (`prefetch`). Where it takes long to suggest,
it is asked as many trials ahead as start meanwhile, unless `prefetch` says how many.
"""

from __future__ import annotations

from tune_platform.engine.settings import Settings
from tune_platform.protocol.events import Suggested
from tune_platform.resources import Resources

#: Waiting trials that do not fit, beyond which no more are asked for in the hope of some that do: at most so many that
#: not even an idle cluster holds, and so many that fit later. A searcher that learns would rather suggest those later.
UNFIT, LARGE = 64, 8
#: Weight of the newest measurement in the moving averages.
_WEIGHT = 0.1


class Supply:
    """Counts suggestions. Numbers are given to trials in the order of their asking."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.next_number = 0
        self.asked: dict[int, None] = {}  # numbers that the searcher owes a suggestion for, in order
        self.exhausted = ""  # why there is nothing more
        self.told = False  # the scheduler knows that there is nothing more
        self.extra = 0  # trials that persons added or extended by
        self.ordinary: Resources = (
            settings.resources
        )  # of the last trial that got a place; the next is taken to be alike
        self.cost = 0.0  # seconds of a suggestion, on average
        self.interval = 0.0  # seconds between two launches, on average
        self.last_launch: float | None = None
        self.newest = -1  # the highest number that any trial has

    # ------------------------------------------------------------------------------- what happens

    def ask(self, number: int) -> None:
        """Note that the searcher owes a suggestion."""
        self.asked[number] = None
        self.next_number = max(self.next_number, number + 1)

    def suggested(self, event: Suggested) -> None:
        """Note a new trial."""
        if event.origin == "user":
            self.extra += 1
        self.asked.pop(event.trial, None)
        self.newest = max(self.newest, event.trial)
        self.next_number = max(self.next_number, event.trial + 1)
        if event.cost:
            self.cost += _WEIGHT * (event.cost - self.cost) if self.cost else event.cost

    def launched(self, elapsed: float, resources: Resources) -> None:
        """Note that a trial got a place."""
        self.ordinary = resources
        if self.last_launch is not None:
            passed = elapsed - self.last_launch
            self.interval += _WEIGHT * (passed - self.interval) if self.interval else passed
        self.last_launch = elapsed

    def exhaust(self, reason: str) -> None:
        """Note that the searcher has nothing more."""
        self.exhausted = reason
        self.asked.clear()
        self.next_number = self.newest + 1

    def extend(self, trials: int) -> None:
        """Note that a person wants more trials."""
        self.extra += trials
        self.told = self.told and self.over

    def reopen(self) -> None:
        """Ask again (a searcher that had failed, or a longer grid)."""
        if self.exhausted:
            self.exhausted, self.told = "", False

    # ------------------------------------------------------------------------------- what follows

    @property
    def limit(self) -> float:
        """How many trials there may be in all."""
        return self._settings.num_samples + self.extra

    @property
    def over(self) -> bool:
        """Whether no trial will come any more: there are enough, or the searcher has no more."""
        return not self.asked and (bool(self.exhausted) or self.next_number >= self.limit)

    def wanted(self, *, free: int, slots: int, waiting: int, unfit: int, misfits: int) -> range:
        """Return the numbers to ask for now.

        `free`: trials like the last one that would fit now; `slots`: into an idle cluster; `waiting`: those that wait
        for a place, of which `unfit` fit nowhere now, and `misfits` never. These are no supply for what is free.
        """
        if self.exhausted:
            return range(0)
        ahead = self._settings.prefetch
        if ahead is None:
            lookahead = self._settings.lookahead
            ahead = max(slots - free, 0) if lookahead is None else lookahead + self._lead(slots)
        ready = waiting + len(self.asked) - (unfit if free else 0)
        most = free + ahead + min(UNFIT, LARGE + misfits)
        count = min(free + ahead - ready, most - waiting - len(self.asked))
        return range(self.next_number, int(max(self.next_number, min(self.next_number + count, self.limit))))

    def _lead(self, slots: int) -> int:
        """Trials that start while the searcher thinks about one."""
        return min(round(self.cost / self.interval), slots) if self.interval and self.cost else 0
