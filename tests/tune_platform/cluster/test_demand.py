"""What the drivers of one cluster ask of its autoscaler together."""

from __future__ import annotations

import json

import pytest

from tests.tune_platform.cluster.test_admission import Notes
from tune_platform import SpecError
from tune_platform.backends.ray import RayBackend
from tune_platform.cluster.demand import Bundles, Demand
from tune_platform.resources import Resources

ONE = Resources(cpu=1)
GANG = Resources(cpu=2, gpu=0.5, workers=3)


class Asked(list[Bundles]):
    """What the autoscaler was told, in order."""

    def driver(self, name: str, notes: dict[str, str], most: float = 99) -> tuple[Demand, Notes]:
        board = Notes(name, notes)
        return Demand(board, self.append, most), board


def test_it_asks_for_each_worker_of_each_trial_and_for_no_more_than_may_be() -> None:
    asked = Asked()
    demand, _ = asked.driver("a", {}, most=3)
    demand.tell([(GANG, 2), (ONE, 40)])
    assert asked == [[{"cpu": 2.0, "gpu": 0.5}] * 6 + [{"cpu": 1.0}]]


def test_it_asks_again_only_where_something_has_changed_and_withdraws() -> None:
    asked = Asked()
    demand, board = asked.driver("a", {})
    for _ in range(3):
        demand.tell([(ONE, 2)])
    demand.tell([(ONE, 1)])
    demand.tell([])
    assert asked == [[{"cpu": 1.0}] * 2, [{"cpu": 1.0}], []]
    demand.tell([(ONE, 1)])
    demand.withdraw()
    assert asked[-1] == []
    assert board.notes == {}


def test_several_drivers_ask_for_the_sum_and_what_the_others_want_stays() -> None:
    asked, notes = Asked(), dict[str, str]()
    first, _ = asked.driver("a", notes)
    second, board = asked.driver("b", notes)
    first.tell([(ONE, 2)])
    second.tell([(Resources(gpu=1, cpu=0), 1)])
    both = [{"cpu": 1.0}, {"cpu": 1.0}, {"gpu": 1.0}]
    assert asked[-1] == both
    first.tell([(ONE, 2)])
    assert asked[-1] == both
    first.withdraw()
    assert asked[-1] == [{"gpu": 1.0}]
    assert list(notes) == ["b"]
    assert json.loads(notes["b"]) == [[{"gpu": 1.0}, 1]]
    assert board.notes is notes


def test_what_a_dead_driver_wanted_is_not_asked_for_any_more() -> None:
    asked, notes = Asked(), dict[str, str]()
    first, _ = asked.driver("a", notes)
    second, board = asked.driver("b", notes)
    first.tell([(ONE, 2)])
    board.dead.add("a")
    second.tell([(ONE, 1)])
    assert asked[-1] == [{"cpu": 1.0}]
    assert list(notes) == ["b"]


@pytest.mark.parametrize("wrong", [0, -1, "yes", 1.5])
def test_less_than_one_trial_cannot_be_asked_for(wrong: object) -> None:
    with pytest.raises(SpecError, match="true, false, or the number of trials"):
        RayBackend(autoscale=wrong)  # type: ignore[arg-type]
