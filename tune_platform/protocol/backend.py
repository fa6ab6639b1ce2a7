"""What a backend is: it carries out the controller's commands and tells what came of them, as events.

A backend knows places and processes; it never sees a searcher, a scheduler or the store. Whatever goes wrong with
one trial becomes a `Failed` event of that trial; a backend raises only when nothing can run any more.
`tune_platform.testing.BackendContract` checks an implementation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tune_platform.protocol.commands import Advance, Launch, Release, Save
from tune_platform.protocol.events import CapacityChanged, Event
from tune_platform.protocol.milestones import OnBadMetric
from tune_platform.protocol.trial_log import LOG_LIMIT
from tune_platform.resources import Resources

Work = Launch | Advance | Save | Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all trials of an experiment have in common; sent to each worker once.

    `trainable` is a class, a function, or an entrypoint "module:name" that the worker imports itself. `metrics` are
    the names that are judged: each must be a finite number wherever it is reported (`on_bad_metric`: fail | prune |
    ignore, where one is not). `resource` is the attribute
    in which milestones are measured. `stop` ends a trial once a reported value reaches the given one.
    `checkpoint_every` counts steps (0: never). `checkpoint_best` is min or max where a checkpoint is also written when
    an attempt reports a better value of the first metric than before. `flush_s` bounds how long a report may wait in a
    worker while the driver is there; one that is away finds all of them, in order.
    `keep_warm` paused trials stay in the memory of each worker. `own_folder`: a trial works in its own folder.
    `max` is the amount of the resource at which the scheduler ends a trial at the latest.
    `memory`: bytes of checkpoints of which each process keeps a copy, for trials that go on from them (0: none).
    `log_limit`: bytes of what a trial prints that are kept.
    """

    experiment: str
    trainable: Any
    metrics: tuple[str, ...]
    resource: str = "step"
    max: float = math.inf
    stop: Mapping[str, float] = field(default_factory=dict)
    on_bad_metric: OnBadMetric = "fail"
    step_timeout: float = math.inf  # seconds; for backends in the loop's own time: the engine watches the others
    checkpoint_every: int = 0
    checkpoint_best: str = ""
    checkpoint_at_end: bool = False
    checkpoints: str = ""  # root of the checkpoint storage: any fsspec path
    folder: str = ""  # the experiment's own: URIs of checkpoints within it are relative to it
    directory: str = ""  # root of the trials' own folders
    seed: int = 0
    flush_s: float = 1.0
    log_limit: int = LOG_LIMIT
    keep_warm: int = 0
    own_folder: bool = False
    memory: int = 0
    reuse_workers: bool = True
    resources: Resources | None = None  # of every trial, where all hold the same: workers can be started ahead
    max_concurrent: float = math.inf

    @property
    def horizon(self) -> Mapping[str, float]:
        """The values at which a trial ends at the latest, by the names of their metrics; of steps, "step" alone."""
        found: dict[str, float] = {}
        for name, value in ((self.resource, self.max), *self.stop.items()):
            name = "step" if name == "training_iteration" else name
            found[name] = min(value, found.get(name, math.inf))
        return {name: value for name, value in found.items() if value < math.inf}

    @property
    def timed(self) -> bool:
        """Whether reports are to say how many seconds their trial has trained (`time_total_s`)."""
        return "time_total_s" in self.stop or "time_total_s" in (self.resource, *self.metrics)

    @property
    def pruned(self) -> tuple[str, ...]:
        """The metrics that end a trial where they are no finite number."""
        return self.metrics if self.on_bad_metric == "prune" else ()


class Backend(Protocol):
    """Runs trials. All methods but `wake` are called from one thread.

    One whose places say nothing of how many trials may be open at once has an `at_a_time: float` that does. One that
    can have more places has an `expect(trials)`, which is told every few seconds for how many trials of which resources
    places are wanted, and a `misfit_after`: seconds for which a trial waits that fits into none of them.
    """

    #: True where trials run beside the loop: a slow searcher then works beside it as well.
    parallel: bool
    #: True for a virtual clock: time passes only in `poll`, and a new driver finds work in flight again by `replay`.
    virtual: bool

    @property
    def writing(self) -> bool:
        """Whether checkpoints of trials that have halted are still being written; `poll` brings them."""

    def start(self, job: Job) -> CapacityChanged:
        """Get ready to run trials of `job`; return what can be leased. Raises ExperimentError when it cannot."""

    def submit(self, work: Sequence[Work]) -> None:
        """Carry out commands, in order, without waiting for them."""

    def poll(self, timeout: float | None) -> list[Event]:
        """Return the events that are ready; wait for the first at most `timeout` seconds (None: for ever).

        On a virtual clock time passes only while somebody waits: with a timeout of 0 nothing happens.
        """

    def replay(self, event: Event, work: Sequence[Work]) -> None:
        """Pass through what an earlier driver has seen and done. Called only where `virtual`."""

    def wake(self) -> None:
        """Have a `poll` that waits return at once. The only method that another thread may call."""

    def now(self) -> float:
        """Return the backend's clock, in seconds."""

    def close(self) -> None:
        """End every lease and give everything back. Safe to call twice, and after an error."""
