"""Multi-objective ASHA."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Scheduler
from tune_platform.protocol.verdicts import Continue, Stop
from tune_platform.schedulers.mo_asha import MOASHA, epsilon_net, first, nondominated
from tune_platform.space import Space
from tune_platform.testing.schedulers import FakeTrial, SchedulerContract


def mo_asha(**options: Any) -> MOASHA:
    scheduler = MOASHA(**options)
    scheduler.prepare(Space({}), ("loss", "size"), ("min", "max"))
    scheduler.setup(metric="loss", mode="min", seed=0)
    return scheduler


class TestMOASHA(SchedulerContract):
    def make_scheduler(self) -> MOASHA:
        return mo_asha(max=9)

    def metrics(self, scheduler: Scheduler, step: int, draw: random.Random) -> dict[str, Any]:
        return {"loss": round(draw.random(), 1), "size": round(draw.random(), 1)}


@pytest.mark.parametrize("seed", range(20))
def test_fronts_are_as_defined(seed: int) -> None:
    """Against the plain definition, with ties; the union of the first fronts is kept, whatever the order."""
    rng = np.random.default_rng(seed)
    losses = rng.integers(0, 6, size=(25, 2 + seed % 2)).astype(float)

    def dominates(a: Any, b: Any) -> bool:
        return bool((a <= b).all() and (a < b).any())

    left, fronts = list(range(25)), []
    while left:
        front = [i for i in left if not any(dominates(losses[j], losses[i]) for j in left)]
        fronts.append(front)
        left = [i for i in left if i not in front]
    assert np.flatnonzero(nondominated(losses)).tolist() == fronts[0]
    kept, numbers = first(losses, len(fronts[0]) + len(fronts[1]))
    assert kept == set(fronts[0]) | set(fronts[1])
    assert {i for i, number in enumerate(numbers) if number == 0} == set(fronts[0])


def test_a_net_spreads_over_the_front() -> None:
    """By hand: of five points on a line the ends come first, then the middle."""
    line = np.array([[0.0, 4.0], [1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [4.0, 0.0]])
    assert epsilon_net(line, 3, line) == [0, 4, 2]
    assert epsilon_net(line * [1, 1000], 3, line * [1, 1000]) == [0, 4, 2], "objectives are scaled"


def test_distances_are_in_shares_of_the_range_in_the_rung() -> None:
    """By hand, in shares: from the first 1.12 to the second, 0.52 to the third; as they are: 100 and 500."""
    front = np.array([[0.0, 0.5, 500.0], [1.0, 1.0, 400.0], [0.1, 0.4, 0.0], [0.1, 0.6, 900.0]])
    rung = np.vstack([front, [[0.0, 0.0, 0.0], [1.0, 1.0, 1000.0]]])
    assert epsilon_net(front, 2, rung) == [0, 1]
    assert epsilon_net(front, 3, rung) == [0, 1, 2], "0.52 from the first, and the fourth 0.42"


def arrive(scheduler: MOASHA, number: int, loss: float, size: float) -> Any:
    return scheduler.on_report(FakeTrial(number, {}), Report(1, {"loss": loss, "size": size}, 0.0))


def test_by_hand() -> None:
    """eta 3 keeps 2 of 6: those that trade one objective for the other, not the one that is worse in both."""
    scheduler = mo_asha(max=9)
    for number, (loss, size) in enumerate([(0.5, 0.5), (0.6, 0.4), (0.7, 0.3), (0.8, 0.2), (0.9, 0.1)]):
        arrive(scheduler, number, loss, size)
    said = "rung 0 (step 1): front 1, 6 arrived, keep 2"
    assert arrive(scheduler, 5, 0.1, 0.05) == Continue(until=3, reason=said)  # best in one, worst in the other
    assert isinstance(arrive(scheduler, 6, 0.95, 0.45), Stop)
    assert isinstance(arrive(scheduler, 7, 0.55, 0.9), Continue)
    assert scheduler.describe()["rungs"][0]["front"] == 3


def test_from_rung_to_rung_until_max() -> None:
    scheduler, trial = mo_asha(max=9), FakeTrial(0, {})
    untils = []
    for step in (0, 1, 2, 3, 9):
        trial.last = Report(step, {"loss": 1.0, "size": 1.0}, 0.0) if step else None
        untils.append(scheduler.until(trial)[0])
    assert untils == [1, 3, 3, 9, None]
    trial.last = Report(2, {"loss": 1.0, "size": 1.0}, 0.0)
    assert mo_asha(max=2, min=2).until(trial) == (None, False), "a single rung is the last too"
    done = scheduler.on_report(FakeTrial(0, {}), Report(9, {"loss": 1.0, "size": 1.0}, 0.0))
    assert done == Stop(reason="step 9: reached max", completed=True)


def test_what_is_missing_is_the_worst() -> None:
    scheduler = mo_asha(max=9)
    arrive(scheduler, 0, 0.5, 0.5)
    verdict = scheduler.on_report(FakeTrial(1, {}), Report(1, {"loss": 0.6}, 0.0))
    assert isinstance(verdict, Stop)


def test_one_objective_is_refused() -> None:
    with pytest.raises(SpecError, match=r"mo_asha: it needs several objectives, got \['loss'\]; for one use asha"):
        MOASHA().prepare(Space({}), ("loss",), ("min",))
