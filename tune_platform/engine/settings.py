"""What the controller knows of a spec."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tune_platform.engine.spending import Limits
from tune_platform.protocol.milestones import OnBadMetric
from tune_platform.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the controller needs to know of the spec. `math.inf` stands for "no bound"."""

    metrics: tuple[str, ...]
    modes: tuple[str, ...]
    num_samples: float = math.inf
    max_concurrent: float = math.inf
    prefetch: int | None = None  # suggestions drawn before there is a place for them; None: as the searcher has it
    lookahead: int | None = None  # ... which is this many, and some for the time that it takes; None: freely
    follow: bool = False  # the searcher hears of each rung that a running trial passes, too
    resources: Resources = field(default_factory=Resources)  # of a trial whose suggestion says nothing else
    stop: Mapping[str, float] = field(default_factory=dict)
    on_bad_metric: OnBadMetric = "fail"
    retries: Mapping[str, int] = field(default_factory=dict)  # by cause of failure
    more_memory: float = 1.0  # what a trial's memory is multiplied by when it is tried again after it ran out
    max_failures: float = math.inf  # failed trials that the experiment survives
    fail_alike: int = 0  # so many first trials (as many as run at a time, if more) that fail alike end it; 0: never
    time_budget: float = math.inf  # seconds
    limits: Limits = field(default_factory=Limits)  # of what else may be spent
    target: float | None = None  # value of the first metric that ends the experiment
    step_timeout: float = math.inf  # seconds without a report
    misfit_after: float = 0.0  # seconds for which the cluster has not changed before what never fitted into it fails
    node_patience: float = 0.0  # ... and what did fit, before nodes were lost
    keep_last: int | None = 1
    keep_best: int | None = None
    keep_warm: bool = False
    seed: int = 0  # of the scheduler's draws
