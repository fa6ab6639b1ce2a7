"""The rows that the store takes and gives: plain data, no decisions. `docs/files.md` describes the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LOG_FORMAT = 2
"""Which kinds of rows a log of this release has; 1 is the log of the releases with schema version 3 and lower."""


# A million of each is read back on resume: a tuple is built in a third of the time of a frozen dataclass.
class LogRow(NamedTuple):
    """One fact or one effect. `seq` counts from 1 within the experiment, without gaps.

    `stimulus` is the `seq` of the fact that caused an effect; None for facts. `elapsed` is the search time, in seconds
    over all drivers, that had passed.
    """

    seq: int
    time: float
    kind: str
    trial: int | None
    data: Mapping[str, Any]
    stimulus: int | None = None
    elapsed: float = 0.0


class ReportRow(NamedTuple):
    """One report of one trial; `seq` is the log row of the batch that brought it."""

    trial: int
    step: int
    seq: int
    time: float
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """What is known of a trial now: a projection of the log, written in the same transaction.

    The one list of a trial's fields: the table, results, the data frame and JSON follow it. A new one that the engine's
    `Trial` has under the same name needs, beside its line here, a step in `migrations` and a row in docs/files.md.

    `status`: PENDING | STARTING (placed, its process is coming up) | RUNNING | PAUSING | PAUSED | COMPLETED | STOPPED |
    FAILED.
    """

    trial: int
    status: str
    config: Mapping[str, Any] = field(metadata={"what": "parameter"})  # nested, as the training code got it
    reason: str = ""  # why it is in this state
    origin: str = "searcher"  # searcher | start | user
    attempt: int = 0  # how often it was launched
    step: int = 0  # number of committed reports
    metrics: Mapping[str, Any] = field(default_factory=dict, metadata={"what": "metric"})  # the last report
    best: float | None = None  # best value of the (first) metric so far
    best_step: int | None = None  # ... and the report that had it
    error: str = ""  # traceback or message of the last failure
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    worker: str = ""  # where it ran last


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRow:
    """A checkpoint on disk. `deleted` ones keep their row, so that the history stays whole."""

    trial: int
    step: int
    uri: str
    bytes: int
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class RequestRow:
    """Something a person asked for; `id` counts from 1 within the experiment."""

    id: int
    time: float
    action: str
    trial: int | None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRow:
    """One experiment. `status`: running | finished | failed | stopped | interrupted | crashed.

    `driver` says where it ran last ("host:pid"), `heartbeat` when that was last heard of (epoch seconds). "crashed" is
    what a running one is read as whose driver is gone.
    """

    name: str
    spec: Mapping[str, Any]
    status: str
    reason: str = ""
    created: float = 0.0
    heartbeat: float = 0.0
    driver: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)  # trials by status
    tags: tuple[str, ...] = ()  # what persons have tagged it with, sorted
