"""The contract of schedulers that decide about any trial. Whole experiments with them: engine/test_decisions.py."""

from __future__ import annotations

from tests.populations import Generations, Synchronous, Thaw
from tune_platform.testing.schedulers import SchedulerContract


class TestSynchronous(SchedulerContract):
    def make_scheduler(self) -> Synchronous:
        return Synchronous()


class TestThaw(SchedulerContract):
    def make_scheduler(self) -> Thaw:
        return Thaw()


class TestGenerations(SchedulerContract):
    def make_scheduler(self) -> Generations:
        return Generations()
