"""What a scheduler is: it hears of trials and decides about them, with verdicts as data.

A scheduler sees trials and reports, never a backend, a store or a clock. Its state is the fold of what it was told
(`on_...`), never of what it answered: whether a decision was carried out, it learns from `on_start` and `on_end`. So a
resumed experiment rebuilds it by telling it again, and one whose code has changed since still learns what happened.
It draws random numbers only from generators derived from `seed` and the trial's number. Persons pause trials, too, and
it is not told: one that does not come to its milestone, `choose` may find among the waiting or the paused.

A scheduler may also have `prepare(space, metrics, modes)`, which is called before `setup` with the search space and all
objectives; it raises SpecError where they do not fit. Several are refused unless it has `several_objectives = True`.
One with `needs_checkpoints = True` is refused for a trainable that cannot save. With `forecast(trials)`, see
`tune_platform.schedulers`, `check` says before the start what so many trials come to. It may have `state() -> plain
data` with `load_state(data)`: a resumed experiment then need not tell it the whole history.
`tune_platform.testing.SchedulerContract` checks an implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from tune_platform.errors import SchedulerError
from tune_platform.protocol.reports import Config, Report
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Decisions, Pause, Resize, Stop


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
        """The trials that wait to start, to start again or to be sent on and would fit now, oldest first."""

    def paused(self, number: int) -> TrialView | None:
        """The paused trial of that number, if it is paused, nobody holds it and it would fit now; else None."""


class Scheduler(Protocol):
    """Says who goes on."""

    #: The reported attribute that measures how far a trial is: "step", "epoch", "samples" ...
    resource: str

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Take the metric, `min` or `max`, and the seed; start from nothing."""

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the next milestone of a trial that is about to run, and whether to save there. Changes nothing.

        The milestone is a value of `resource` above that of the trial's last report; None is the trial's own end.
        """

    def choose(self, candidates: Candidates) -> int | None:
        """Return the trial that gets the free place, or None to leave it free for now. Changes nothing."""

    def on_add(self, trial: TrialView) -> Decisions:
        """Hear of a new trial, which waits for a place; or of one that had failed and that a person has tried again."""

    def on_start(self, trial: TrialView) -> None:
        """Hear that a trial got a place: for the first time, or again, after a pause, a failure or another driver."""

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """Hear of a report, and decide. At its milestone the trial waits for the answer.

        Without a verdict on it there, it goes on to what `until` says. Continue sets the next milestone, and means
        something only there; the other verdicts may come at any report. Reports without the metric are not told.
        """

    def on_end(self, trial: TrialView, status: str) -> Decisions:
        """Hear that a trial is completed, stopped or failed, wherever it stood. Each `on_add` is followed by one."""

    def on_supply_end(self) -> Decisions:
        """Hear that no trials will be added any more (unless a person extends the search)."""

    def describe(self) -> Mapping[str, Any]:
        """Return the scheduler's state for people (rungs and who is in them), as plain JSON values."""


def decisions_of(scheduler: Scheduler, answer: Decisions, trial: int | None = None) -> list[Decision]:
    """Return a scheduler's answer as decisions; a bare verdict is about `trial`. Raises SchedulerError for another."""
    if answer is None:
        return []
    name = type(scheduler).__name__
    if isinstance(answer, (Continue, Pause, Stop, Clone, Resize)):
        if trial is None:
            raise SchedulerError(
                f"the scheduler {name} answered {answer!r} to the end of the supply: which trial is it about? "
                "Answer [Decision(trial, verdict)]"
            )
        return [Decision(trial, answer)]
    found: Any = answer
    for decision in found if isinstance(found, (list, tuple)) else [found]:
        if not isinstance(decision, Decision):
            raise SchedulerError(
                f"the scheduler {name} answered {decision!r}; what is needed is a verdict on the trial that it was "
                "told of, a list of Decision(trial, verdict), or None"
            )
    return list(found)
