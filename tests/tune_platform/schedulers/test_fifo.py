"""First in, first out."""

from __future__ import annotations

from tests.support import TinyPBT
from tune_platform.protocol.reports import Report
from tune_platform.schedulers import FIFO
from tune_platform.testing.schedulers import FakeCandidates, FakeTrial, SchedulerContract


class TestFIFO(SchedulerContract):
    def make_scheduler(self) -> FIFO:
        return FIFO()


class TestTinyPBT(SchedulerContract):
    """The suite can be passed by a scheduler that clones."""

    def make_scheduler(self) -> TinyPBT:
        return TinyPBT()


def test_order_of_suggestion() -> None:
    trials = {n: FakeTrial(n, {}) for n in (2, 0, 1)}
    assert FIFO().choose(FakeCandidates(trials, unfit={0})) == 1


def test_judges_nothing() -> None:
    trial = FakeTrial(0, {}, Report(1, {"loss": 1.0}, 0.0))
    assert FIFO().until(trial) == (None, False)
    assert FIFO().on_report(trial, Report(1, {"loss": 1.0}, 0.0)) is None
