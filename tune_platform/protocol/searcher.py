"""What a searcher is: `ask` for a config, `tell` it how the trial ended, `restore` it on resume.

A searcher knows the space and the past, never a scheduler, a backend or a clock. All its random draws
come from `rng(seed, number)`, so that a resumed search draws what the uninterrupted one would have drawn.

A searcher may also have

- `ask_batch(numbers)`, for one that draws several faster at once: an iterable of what `ask` of each number would have
  returned, one after the other, so that a search does not depend on which asks happened to wait together. It is
  taken to its end before any other call; one that yields (a generator) hands each suggestion on as soon as it is drawn.
- `state() -> JSON values` and `load_state(data)`, so that a resumed search need not tell it the whole past: after
  `setup` it loads its state of some moment, then hears by `restore` of the trials suggested since and by `tell` what
  came of earlier ones.
- `follows = True`, for one that wants to hear of running trials as well: at each rung that a trial passes it is told
  how that one stands, as it is of a paused one. Else a trial that goes on is heard of when it ends.

- `longer_choices = True`, where a search may be resumed with more values at the end of a choice's list: the searcher is
  set up with the longer space then, and told of a past that was suggested from the shorter one.

Write your own in ten lines; `tune_platform.testing.SearcherContract` checks it:

    class Middle:
        synchronous = True
        lookahead = None
        def setup(self, space, *, mode, seed): self.space = space
        def ask(self, number): return Suggestion(self.space.build(lambda name, domain: domain.grid(1)[0]))
        def tell(self, number, outcome): pass
        def restore(self, past): pass
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from tune_platform.space import Space


#: Rungs of a trial that a searcher is told of at most: a population has thousands.
RUNGS = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended, or stands while it is paused or runs, as the searcher sees it.

    `status`: completed | stopped | failed, or paused or running, and then a later outcome takes its place. `value` is
    the best value of the (first) metric that the trial reached, and `config` the one that gave it: another than the
    suggested one where the trial was cloned since. `values` has the last number of each metric; where there are
    several, `config` is the one that gave these. `step` counts the reports; `resource` is how far the trial came, in
    the scheduler's unit. `rungs` are (resource, value) where it was judged under `config`, in order: the milestones
    that it reached, and its last report; the last `RUNGS` of them. `worst`: it was ended for a value that is no number,
    and counts as worse than all others; there is no `value` then, and there are no rungs.
    """

    status: str
    value: float | None
    step: int
    values: tuple[float, ...] = ()
    config: Mapping[str, Any] | None = None
    resource: float = 0.0
    rungs: tuple[tuple[float, float], ...] = ()
    worst: bool = False


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A config, and the searcher's own note about it: JSON values, handed back by `restore`."""

    config: dict[str, Any]
    memo: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PastTrial:
    """One trial of the log, as a resumed searcher is told it. `outcome` is the last it was told of, if any."""

    number: int
    config: Mapping[str, Any]
    memo: Mapping[str, Any] | None = None
    outcome: Outcome | None = None


@runtime_checkable
class Searcher(Protocol):
    """Says what to try. Called by one thread at a time."""

    #: True when `ask` takes microseconds: then it is called in the loop itself, else off the hot path.
    synchronous: bool
    #: How many suggestions may be drawn before there is a place for them: 0 for one that learns from each trial,
    #: None for as many as one likes, where suggestions do not depend on results.
    lookahead: int | None

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Take the space, `min` or `max` for each metric, and the seed; start from nothing.

        Raises SpecError when it cannot serve.
        """

    def ask(self, number: int) -> Suggestion | None:
        """Suggest the config of trial `number`, or None when there is nothing more to try, ever.

        Trials that were asked for or observed and not told of yet are running: suggest something different.
        """

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        """Hear that trial `number` runs with a config that this searcher did not suggest (a start point)."""

    def tell(self, number: int, outcome: Outcome) -> None:
        """Hear how a trial ended, or how it stands each time it is paused.

        A paused trial may go on or stay as it is for ever; what is told of it later takes the place of this. So it is
        with a running one, for a searcher that `follows`.
        """

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Hear the whole past (or all since a loaded state), in the order of the numbers, once, before any `ask`."""
