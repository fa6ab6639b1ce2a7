"""The settings of a `Tuner`, with Ray Tune's names and defaults. Ray Tune's own objects of these classes do as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, TypeVar


@dataclass
class TuneConfig:
    """What is optimised and by what: see Ray Tune's class of this name."""

    mode: str | None = None
    metric: str | None = None
    search_alg: Any = None
    scheduler: Any = None
    num_samples: int = 1
    max_concurrent_trials: int | None = None
    time_budget_s: float | timedelta | None = None
    reuse_actors: bool = False
    trial_name_creator: Callable[[Any], str] | None = None
    trial_dirname_creator: Callable[[Any], str] | None = None
    chdir_to_trial_dir: Any = None


@dataclass
class CheckpointConfig:
    """Which checkpoints are written and kept: see Ray Tune's class of this name."""

    num_to_keep: int | None = None
    checkpoint_score_attribute: str | None = None
    checkpoint_score_order: str | None = "max"
    checkpoint_frequency: int | None = 0
    checkpoint_at_end: bool | None = None


@dataclass
class FailureConfig:
    """How often a trial that failed is tried again (-1: for ever), and whether the first failure ends all."""

    max_failures: int = 0
    fail_fast: bool | str = False


@dataclass
class RunConfig:
    """Where the experiment lies and when its trials end: see Ray Tune's class of this name."""

    name: str | None = None
    storage_path: str | None = None
    storage_filesystem: Any = None
    failure_config: Any = None
    checkpoint_config: Any = None
    sync_config: Any = None
    verbose: int | None = None
    stop: Mapping[str, Any] | Callable[[str, Mapping[str, Any]], bool] | None = None
    callbacks: Sequence[Any] | None = None
    progress_reporter: Any = None
    log_to_file: Any = False
    local_dir: Any = None


Settings = TypeVar("Settings", TuneConfig, CheckpointConfig, FailureConfig, RunConfig)


def plain(given: Any, kind: type[Settings]) -> Settings:
    """Return settings as an object of ours: defaults for None, and for what Ray Train's class of this name gave up.

    Ray Tune takes that class too; its fields that mean nothing any more say so.
    """
    found = {field.name: getattr(given, field.name) for field in fields(kind) if hasattr(given, field.name)}
    return kind(**{name: value for name, value in found.items() if not _is_given_up(value)})


def _is_given_up(value: Any) -> bool:
    return isinstance(value, str) and value == "DEPRECATED"
