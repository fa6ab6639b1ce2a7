"""A scheduler with a stopper before it keeps the rules of every scheduler: cut and resumed, it decides alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform import ASHA
from tune_platform.protocol.scheduler import Scheduler
from tune_platform.ray_tune.stopping import Stopping
from tune_platform.testing.schedulers import SchedulerContract


class Fourth:
    """Ends a trial at its fourth report, and counts what it was told."""

    def __init__(self) -> None:
        self.told: dict[str, int] = {}

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        self.told[trial_id] = self.told.get(trial_id, 0) + 1
        return self.told[trial_id] >= 4


class TestStoppingContract(SchedulerContract):
    def make_scheduler(self) -> Scheduler:
        return Stopping(ASHA(min=1, max=9), Fourth())


class TestStoppingPromotionContract(SchedulerContract):
    def make_scheduler(self) -> Scheduler:
        return Stopping(ASHA(min=1, max=9, type="promotion"), Fourth())
