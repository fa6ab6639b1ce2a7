"""A trial and the one table of states that it may move through.

        PENDING ──> STARTING ──> RUNNING ──> COMPLETED | STOPPED | FAILED     (final)
           ^            │           │
           │            │           v
           │            │        PAUSING      (its checkpoint is being written)
           │            v           │
           └──────── PAUSED <───────┘

A trial waits in PENDING for a place, holds one from STARTING to PAUSING, and runs once its process is up. PENDING is
also where a trial goes that is to start again (a retry, a resumed experiment) or that is sent on from a pause.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tune_platform.errors import IllegalTransition
from tune_platform.protocol.reports import CheckpointRef, Config, Report
from tune_platform.resources import Resources


class TrialStatus(StrEnum):
    """Where a trial stands. Ray Tune's words for the final ones are TERMINATED and ERROR."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self in _FINAL

    @property
    def placed(self) -> bool:
        """Whether a trial in this state holds a place."""
        return self in _PLACED


_FINAL = frozenset({TrialStatus.COMPLETED, TrialStatus.STOPPED, TrialStatus.FAILED})
_PLACED = frozenset({TrialStatus.STARTING, TrialStatus.RUNNING, TrialStatus.PAUSING})

_MOVES: dict[TrialStatus, frozenset[TrialStatus]] = {
    TrialStatus.PENDING: _FINAL | {TrialStatus.STARTING, TrialStatus.PAUSED},
    TrialStatus.STARTING: _FINAL | {TrialStatus.RUNNING, TrialStatus.PAUSED, TrialStatus.PENDING},
    TrialStatus.RUNNING: _FINAL | {TrialStatus.PAUSING, TrialStatus.PAUSED, TrialStatus.PENDING},
    TrialStatus.PAUSING: _FINAL | {TrialStatus.PAUSED, TrialStatus.PENDING},
    TrialStatus.PAUSED: frozenset({TrialStatus.PENDING, TrialStatus.COMPLETED, TrialStatus.STOPPED}),
    TrialStatus.COMPLETED: frozenset(),
    TrialStatus.STOPPED: frozenset(),
    # A person may ask for failed trials to be tried again when the experiment is resumed.
    TrialStatus.FAILED: frozenset({TrialStatus.PENDING}),
}


#: The reason of a pause that only a person lifts.
HELD = "a person paused it"
#: The reason of a pause that is to end the trial once its present step is over, and the reason of that end.
STOPPING = "a person stops it after its present step"
STOPPED_BY_A_PERSON = "a person stopped it"
#: The reason of a pause in which a trial is saved before a limit of the budget ends the search.
SAVED_FIRST = "it is saved before the budget ends the search"
#: How the reason begins of a pause in which a trial gives its place back, to go on in the next one that is free.
TAKEN_BACK = "its place is wanted: "
#: Moves of a trial that are kept in memory, for messages.
_HISTORY = 64


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint that a trial can go on from: `step` is the trial's own (a clone holds its source's checkpoint)."""

    step: int
    ref: CheckpointRef
    value: float | None


@dataclass(slots=True, eq=False)
class Trial:
    """One training run. Only the controller changes it; schedulers see it through `TrialView`."""

    number: int
    config: Config
    resources: Resources
    origin: str = "searcher"
    status: TrialStatus = TrialStatus.PENDING
    reason: str = ""
    attempt: int = 0  # counts launches; events of an earlier one are stale
    failures: dict[str, int] = field(default_factory=dict)  # by cause
    error: str = ""
    last: Report | None = None
    best: float | None = None
    best_step: int | None = None
    best_config: int = 0  # which of its configs, counted from 0, gave the best value: clones change it
    last_config: int = 0  # ... and the last report
    configs: list[tuple[int, Config]] = field(default_factory=list)  # former ones, with the step that ended each
    rungs: list[tuple[int, float, float]] = field(default_factory=list)  # (config, resource, value) at each milestone
    checkpoints: list[Kept] = field(default_factory=list)  # oldest first
    unsaved: list[tuple[int, float]] = field(default_factory=list)  # (step, value) of reports since the newest of them
    until: float | None = None  # the milestone of the present leg
    save: bool = False  # ... and whether a checkpoint is written there
    milestone: int = 0  # the step at which it last came to one
    waits: bool = False  # it is at its milestone, and its process does nothing until it hears of a verdict
    saving: bool = False  # a checkpoint of it is being written
    fresh: list[CheckpointRef] = field(default_factory=list)  # in its worker's memory, not written yet, oldest first
    lent: list[int] = field(default_factory=list)  # steps of those of them that a clone went on from
    again: tuple[int, ...] = ()  # steps by which this attempt comes again, and where it is then saved for clones
    known: int = 0  # the step up to which all of this attempt is known already
    sent_on: bool = False  # the scheduler has said how far it goes once it has a place
    resize: Resources | None = None  # what it is to hold once its checkpoint is there
    resizing: bool = False  # it pauses, or is paused, only for that
    bypassed: int = 0  # how often a younger trial took a place while this one did not fit
    pruned: bool = False  # a metric was no number, which ends it as the worst of all
    held: bool = False  # a person paused it: it waits for a person
    stopping: bool = False  # a person stops it: it ends as soon as its present step is over
    worker: str = ""
    created: float = 0.0
    launched: float = 0.0  # when it got its last place
    started: float | None = None
    ended: float | None = None
    history: list[tuple[float, str, str]] = field(default_factory=list)  # (time, status, reason)

    @property
    def step(self) -> int:
        """Number of the last committed report; 0 before the first."""
        return self.last.step if self.last else 0

    @property
    def checkpoint(self) -> Kept | None:
        """The newest checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def newest(self) -> CheckpointRef | None:
        """The newest checkpoint that others can go on from, in memory or written."""
        return self.fresh[-1] if self.fresh else self.checkpoints[-1].ref if self.checkpoints else None

    @property
    def onward(self) -> str:
        """Why a trial that pauses goes on as soon as it has paused; empty where it is to stay."""
        if self.resizing and self.reason.startswith(TAKEN_BACK):
            return self.reason
        if self.resizing:
            return f"it goes on with {self.resize or self.resources}"
        if self.reason == SAVED_FIRST:
            return "the budget ended the search"
        if self.sent_on:
            return "it was sent on while it paused"
        return "a person let it go on" if self.reason == HELD else ""

    def config_number(self, number: int) -> Config:
        """Return one of its configs, in the order in which it had them: 0, 1, ..."""
        return self.configs[number][1] if number < len(self.configs) else self.config

    def move(self, status: TrialStatus, time: float, reason: str = "") -> None:
        """Go to another state. Raises IllegalTransition, with the trial's history, where the table has no such move."""
        if status not in _MOVES[self.status]:
            raise IllegalTransition(self.number, self.status, status, self.history)
        self.status = status
        self.reason = reason
        self.history.append((time, status.value, reason))
        if len(self.history) > _HISTORY:  # a trial of a population pauses again and again; the log has all of it
            del self.history[: _HISTORY // 2]
        if status is TrialStatus.RUNNING and self.started is None:
            self.started = time
        self.ended = time if status.final else None
