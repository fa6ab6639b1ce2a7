from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_platform import SpecError
from tune_platform.backends.ray import RayBackend
from tune_platform.cluster.admission import ALL, Admission, Share, divide, offered
from tune_platform.resources import Ledger, Resources

ONE = Resources(cpu=1)


class Notes:
    """The board of drivers in one process."""

    def __init__(self, name: str, notes: dict[str, str]) -> None:
        self.name = name
        self.notes = notes
        self.dead: set[str] = set()

    def write(self, note: str) -> None:
        self.notes[self.name] = note

    def read(self) -> Mapping[str, str]:
        return dict(self.notes)

    def alive(self, names: Sequence[str]) -> set[str]:
        return set(names) - self.dead

    def remove(self, name: str) -> None:
        self.notes.pop(name, None)


def drivers(*most: float, resources: Resources = ONE) -> list[Admission]:
    notes: dict[str, str] = {}
    return [Admission(Notes(f"d{index}", notes), resources, count) for index, count in enumerate(most)]


def shares(admissions: list[Admission], *nodes: Mapping[str, float], active: str = "") -> list[Share]:
    """Have all look twice, as the first look does not see those that come after; `active`: a letter y or n for each."""
    for _ in range(2):
        found = [
            one.share(nodes, active=(active or "y" * len(admissions))[index] == "y")
            for index, one in enumerate(admissions)
        ]
    return found


def test_one_that_is_alone_has_everything() -> None:
    assert shares(drivers(99), {"cpu": 4}) == [ALL]


def test_what_does_not_divide_evenly_is_not_left_lying() -> None:
    assert shares(drivers(99, 99), {"cpu": 3}) == [Share(0, 1), Share(1, 2)]
    assert sum(share.places for share in shares(drivers(*[99] * 7), {"cpu": 16})) == 16


def test_who_wants_little_leaves_the_rest() -> None:
    assert shares(drivers(1, 99, 99), {"cpu": 9}) == [Share(0, 1), Share(1, 4), Share(5, 4)]


def test_who_has_nothing_to_run_takes_nothing_and_still_knows_its_share() -> None:
    assert shares(drivers(99, 99), {"cpu": 4}, active="yn") == [ALL, Share(2, 2)]


def test_each_has_a_turn_where_there_are_more_drivers_than_places() -> None:
    found = shares(drivers(9, 9, 9), {"cpu": 2})
    assert [share.places for share in found] == [1, 1, 1]
    assert all(share.crowded and share.skip < 2 for share in found)


def test_who_was_killed_is_forgotten_and_who_is_busy_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = drivers(99, 99)
    nodes = [{"cpu": 4.0}]
    other.share(nodes, active=True)
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    assert one.share(nodes, active=True).places == 2
    clock[0] += 3600.0
    assert one.share(nodes, active=True).places == 2, "it is suspended, and its trials hold their places"
    assert isinstance(one._board, Notes)
    one._board.dead.add("d1")
    assert one.share(nodes, active=True) == ALL
    assert set(one._board.notes) == {"d0"}


def test_who_closes_is_gone_at_once() -> None:
    one, other = drivers(99, 99)
    shares([one, other], {"cpu": 4})
    other.close()
    assert one.share([{"cpu": 4}], active=True) == ALL


def test_a_note_is_small_and_plain() -> None:
    (one,) = drivers(2)
    one.share([{"cpu": 4}], active=True)
    assert isinstance(one._board, Notes)
    assert json.loads(one._board.notes["d0"])["wants"] == 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_the_stretches_are_disjoint_fair_and_use_what_is_wanted(wants: list[float]) -> None:
    stretches = divide({str(index): want for index, want in enumerate(wants)})
    at = 0.0
    for (start, end), want in zip(stretches.values(), wants, strict=True):
        assert start == pytest.approx(at)
        assert end - start <= want + 1e-5
        assert end - start >= min(want, 1 / len(wants)) - 1e-5
        at = end
    assert at == pytest.approx(min(1.0, sum(wants)), abs=1e-4)


@pytest.mark.parametrize(
    "resources", [ONE, Resources(cpu=2), Resources(gpu=1, cpu=1), Resources(cpu=1, workers=2), Resources(cpu=0.5)]
)
def test_the_offers_of_all_drivers_fit_into_the_cluster_together(resources: Resources) -> None:
    nodes = [{"cpu": 4.0, "gpu": 2.0}, {"cpu": 2.0, "gpu": 2.0}, {"cpu": 8.0, "gpu": 0.0}]
    found = shares(drivers(99, 3, 99, resources=resources), *nodes)
    offers = [offered(nodes, resources, share) for share in found]
    for index, node in enumerate(nodes):
        for name, amount in node.items():
            assert sum(offer[index].get(name, 0.0) for offer in offers) <= amount
    for share, offer in zip(found, offers, strict=True):
        assert Ledger(offer).slots(resources) >= 1
        ledger, leased = Ledger(offer), 0
        while ledger.lease(leased, resources) is not None:
            leased += 1
        assert leased == share.places


def test_the_offer_of_one_that_is_alone_is_the_cluster() -> None:
    assert offered([{"cpu": 4.0, "gpu": 1.0}], ONE, ALL) == ({"cpu": 4.0, "gpu": 1.0},)


def test_a_driver_has_as_much_as_its_weight_beside_the_others() -> None:
    notes: dict[str, str] = {}
    weights = (1.0, 3.0)
    some = [Admission(Notes(f"d{index}", notes), ONE, 99, weight) for index, weight in enumerate(weights)]
    assert shares(some, {"cpu": 8}) == [Share(0, 2), Share(2, 6)]
    few = Admission(Notes("d2", notes), ONE, 2, 100.0)
    assert shares([*some, few], {"cpu": 8})[2].places == 2, "no more than it wants, whatever its weight"
    assert [share.places for share in shares([*some, few], {"cpu": 8})[:2]] == [1, 5]


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.1, 10.0)), min_size=1, max_size=8),
)
def test_weighted_shares_are_those_of_max_min_fairness(drivers: list[tuple[float, float]]) -> None:
    """Nobody has more than it wants, all is given out, and who has less than it wants has the most per weight."""
    wants = {f"d{index}": want for index, (want, _) in enumerate(drivers)}
    weights = {f"d{index}": weight for index, (_, weight) in enumerate(drivers)}
    given_to = {name: end - start for name, (start, end) in divide(wants, weights).items()}
    assert sum(given_to.values()) == pytest.approx(min(1.0, sum(wants.values())), abs=1e-4)
    for name, got in given_to.items():
        assert got <= wants[name] + 1e-4
        if got < wants[name] - 1e-3:
            others = [given_to[other] / weights[other] for other in wants]
            assert got / weights[name] >= max(others) - 1e-3


@pytest.mark.parametrize("wrong", [0, -1, "2", True, float("inf")])
def test_a_weight_of_nothing_is_refused(wrong: object) -> None:
    with pytest.raises(SpecError, match="a number above 0 is wanted"):
        RayBackend(weight=wrong)  # type: ignore[arg-type]
