"""The rows that the store takes and gives: plain data, no decisions. `docs/files.md` describes the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class LogRow:
    """One fact or one verdict. `seq` counts from 1 within the experiment, without gaps."""

    seq: int
    time: float
    kind: str
    trial: int | None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One report of one trial; `seq` is the log row of the batch that brought it."""

    trial: int
    step: int
    seq: int
    time: float
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """What is known of a trial now: a projection of the log, written in the same transaction."""

    trial: int
    status: str  # PENDING | RUNNING | PAUSING | PAUSED | COMPLETED | STOPPED | FAILED
    config: Mapping[str, Any]
    reason: str = ""  # why it is in this state
    origin: str = "searcher"
    attempt: int = 0
    step: int = 0  # number of committed reports
    metrics: Mapping[str, Any] = field(default_factory=dict)  # the last report
    best: float | None = None  # best value of the (first) metric so far
    best_step: int | None = None
    error: str = ""  # traceback or message of the last failure
    worker: str = ""
    created: float = 0.0
    started: float | None = None
    ended: float | None = None


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
    """One experiment. `status`: running | finished | failed | stopped | interrupted.

    A `running` experiment whose `heartbeat` is old has crashed; `driver` says where it ran ("host:pid").
    """

    name: str
    spec: Mapping[str, Any]
    status: str
    reason: str = ""
    created: float = 0.0
    heartbeat: float = 0.0
    driver: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)  # trials by status
