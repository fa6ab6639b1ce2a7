"""What the page reads: experiments of one storage, each kept in memory and brought up to date when it is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np

from tune_platform.dashboard.filtering import passing
from tune_platform.dashboard.table import Table
from tune_platform.errors import ExperimentError, did_you_mean
from tune_platform.plots.columns import Reports, Trials, Whole, take
from tune_platform.plots.view import View
from tune_platform.results import Results
from tune_platform.store.records import ExperimentRow
from tune_platform.store.sql import open_store

#: Reports of an experiment that are held at most; those of trials that are looked at are read besides.
HELD = 200_000
#: So many times as long as it took to find them words stay, of an experiment that runs.
REST = 300

Found = TypeVar("Found")


@dataclass(frozen=True)
class Picture:
    """A view, and for each of its trials the revision that changed it last. Nothing changes: threads share it.

    What was made of it is kept with it: its figures in `drawings`. What outlives the revision: in `resting` the last of
    each figure, in `sent` figures that browsers may have, by their keys, in `passed` the trials that pass a filter, in
    `curves` all reports of the trials whose curves were drawn last.
    """

    view: View
    changed: Whole
    drawings: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    resting: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    sent: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    passed: dict[str, tuple[int, list[int] | None]] = field(default_factory=dict, repr=False, compare=False)
    curves: dict[int, Reports] = field(default_factory=dict, repr=False, compare=False)

    @property
    def kept(self) -> dict[str, Any]:
        """What outlives the revision."""
        return {"resting": self.resting, "sent": self.sent, "passed": self.passed, "curves": self.curves}

    @cached_property
    def table(self) -> Table:
        """The trials as a table."""
        return Table(self.view)

    def since(self, revision: int) -> Table:
        """Return the trials that have changed since a revision, as a table."""
        return Table(replace(self.view, trials=take(self.view.trials, self.changed > revision)))

    def passing(self, text: str) -> list[int] | None:
        """Return which trials pass a filter, all for None. Raises SpecError.

        It is found once for all parts of the page; of a later revision only those that have changed are looked at.
        """
        at, found = self.passed.get(text, (-1, None))
        if at < 0 or at > self.view.revision:
            at, found = self.view.revision, passing(text, self.table)
        elif found is not None and at < self.view.revision:
            rows = self.changed > at
            again = passing(text, self.since(at)) if rows.any() else []
            others = np.isin(found, self.view.trials.number[rows], invert=True)
            at, found = self.view.revision, sorted([*np.array(found, np.int64)[others].tolist(), *(again or ())])
        if len(self.passed) >= 8:
            self.passed.clear()
        self.passed[text] = at, found
        return found

    def rested(self, name: str, find: Callable[[], Found]) -> Found:
        """Return what is found; while the experiment runs, for `REST` times as long as that took, what was found last.

        What is told with each look so costs at most so small a share of one processor.
        """
        at, until, found = self.resting.get(name, (None, 0.0, None))
        if at == self.view.revision or (self.view.running and time.monotonic() < until):
            return cast(Found, found)
        began = time.monotonic()
        found = find()
        now = time.monotonic()
        self.resting[name] = (self.view.revision, now + REST * (now - began), found)
        return found


class Source:
    """The experiments of a storage; `only` is the one that the page was opened for, if it was opened for one."""

    def __init__(self, storage: str, only: str | None = None) -> None:
        self.storage = storage
        self.only = only
        self._lock = threading.Lock()
        self._pictures: dict[str, Picture] = {}
        self._locks: dict[str, threading.Lock] = {}

    def experiments(self) -> Sequence[ExperimentRow]:
        """Return all experiments, newest first."""
        with open_store(self.storage) as store:
            return sorted(store.experiments(), key=lambda row: -row.created)

    def check(self, name: str) -> str:
        """Return a name that is one. Raises ExperimentError for any other text, a path for instance."""
        with open_store(self.storage) as store:
            names = store.names()
        if name not in names:
            raise ExperimentError(f"there is no experiment {name!r} here{did_you_mean(name, names)}")
        return name

    def results(self, name: str) -> Results:
        """Return the results of an experiment. Raises ExperimentError where there is none of exactly this name."""
        return Results(self.check(name), storage=self.storage)

    def picture(self, name: str) -> Picture:
        """Return the experiment as it is now. Raises ExperimentError where there is none of exactly this name."""
        with self._lock:
            known = name in self._locks
        if not known:
            self.check(name)
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:  # of many browsers that ask at once one reads
            old = self._pictures.get(name)
            view = View.of(name, storage=self.storage, limit=HELD) if old is None else old.view.newer()
            if old is None or view is not old.view:
                same = {} if old is None or old.view.created != view.created else old.kept
                self._pictures[name] = Picture(view, _changed(view, old), **same)
            return self._pictures[name]

    def known(self, name: str) -> Picture:
        """Return the experiment as it was when somebody looked last; all parts of a page show the same moment."""
        found = self._pictures.get(name)
        return self.picture(name) if found is None else found


def _changed(view: View, old: Picture | None) -> Whole:
    found = np.full(len(view.trials), view.revision, np.int64)
    if old is None or old.view.created != view.created:
        return found
    before = old.view.trials
    at = np.minimum(np.searchsorted(view.trials.number, before.number), max(len(view.trials) - 1, 0))
    there = view.trials.number[at] == before.number if len(view.trials) else np.zeros(len(before), bool)
    same = there & np.all([a[at] == b for a, b in zip(_keys(view.trials), _keys(before), strict=True)], axis=0)
    found[at[same]] = old.changed[same]
    return found


def _keys(trials: Trials) -> tuple[np.ndarray, ...]:
    """Return what tells a trial from what it was."""
    ended = np.nan_to_num(trials.ended, nan=-1.0)
    return trials.state, trials.step, trials.attempt, trials.reason, ended
