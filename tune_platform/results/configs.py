"""Configs that were tried more than once, each with the mean of its trials: `search.duplicates: replicate`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from tune_platform.protocol.configs import to_json
from tune_platform.results.trials import TrialResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigResult:
    """A config, and what its trials came to."""

    config: Mapping[str, Any]
    trials: tuple[TrialResult, ...]  #: by number, those without a value as well
    mean: float | None  #: of the trials' values; None where none has one
    spread: float | None  #: their standard deviation; None where there are fewer than two
    count: int  #: how many of the trials have a value


def ranked(trials: Sequence[TrialResult], mode: str, times: int) -> list[ConfigResult]:
    """Return the configs of trials, best first: by the mean of the trials' `best`, those tried `times` times first.

    A config with fewer values may owe its mean to luck, so it stands behind all those that have theirs.
    """
    groups: dict[str, list[TrialResult]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        groups.setdefault(json.dumps(to_json(trial.config), sort_keys=True, default=repr), []).append(trial)
    found = [_result(group) for group in groups.values()]
    sign = -1.0 if mode == "max" else 1.0
    return sorted(found, key=lambda each: (each.count < times, math.inf if each.mean is None else sign * each.mean))


def _result(trials: Sequence[TrialResult]) -> ConfigResult:
    values = [trial.best for trial in trials if trial.best is not None]
    return ConfigResult(
        config=trials[0].config,
        trials=tuple(trials),
        mean=fmean(values) if values else None,
        spread=stdev(values) if len(values) > 1 else None,
        count=len(values),
    )
