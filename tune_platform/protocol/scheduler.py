"""What a scheduler is: the two callbacks of the Tune paper, with verdicts as data.

A scheduler sees trials and reports, never a backend, a store or a clock. Its state is the fold of what it
was told, so a resumed experiment rebuilds it by telling it again; it is never pickled. It draws
random numbers only from generators derived from `seed` and the trial's number.

`tune_platform.testing.SchedulerContract` checks an implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from tune_platform.protocol.reports import Config, Report
from tune_platform.protocol.verdicts import Verdict


class TrialView(Protocol):
    """What a scheduler may know of a trial (read-only)."""

    @property
    def number(self) -> int:
        """The trial's number: 0, 1, 2, ... in the order of suggestion."""

    @property
    def config(self) -> Config:
        """Its present config."""

    @property
    def last(self) -> Report | None:
        """Its latest report."""


class Candidates(Protocol):
    """The trials that could take a free place: those that wait to start, in order, and those paused."""

    def waiting(self) -> Iterator[TrialView]:
        """The trials that wait to start or to start again and would fit now, oldest first."""

    def paused(self, number: int) -> TrialView | None:
        """The paused trial of that number, if it is paused, nobody holds it and it would fit now; else None."""


class Scheduler(Protocol):
    """Says who goes on."""

    #: The reported attribute that measures how far a trial is: "step", "epoch", "samples" ...
    resource: str

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Take the metric, `min` or `max`, and the seed; start from nothing."""

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the next milestone of a trial that is about to run, and whether to save there.

        The milestone is a value of `resource` above that of the trial's last report; None is the trial's own end.
        """

    def on_report(self, trial: TrialView, report: Report) -> Verdict | None:
        """Judge a report. None (or no verdict) between milestones; at one, the trial waits for the answer."""

    def choose(self, candidates: Candidates) -> int | None:
        """Return the number of the trial that gets the free place, or None to leave it free for now."""

    def on_end(self, trial: TrialView, status: str) -> None:
        """Hear that a trial is completed, stopped or failed."""

    def describe(self) -> Mapping[str, Any]:
        """Return the scheduler's state for people (rungs and who is in them), as plain JSON values."""
