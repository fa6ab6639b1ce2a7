from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tune_platform import SpecError
from tune_platform.backends.ray import RayBackend
from tune_platform.cluster.admission import ALL, Admission, Kind, Share, Standing
from tune_platform.errors import ExperimentError
from tune_platform.resources import Resources

ONE = Resources(cpu=1)


class Notes:
    """The board of drivers in one process."""

    def __init__(self, name: str, notes: dict[str, str], quotas: dict[str, dict[str, float]] | None = None) -> None:
        self.name = name
        self.notes = notes
        self.dead: set[str] = set()
        self.limits = quotas if quotas is not None else {}

    def write(self, note: str) -> None:
        self.notes[self.name] = note

    def read(self) -> Mapping[str, str]:
        return dict(self.notes)

    def alive(self, names: Sequence[str]) -> set[str]:
        return set(names) - self.dead

    def remove(self, name: str) -> None:
        self.notes.pop(name, None)

    def quotas(self) -> Mapping[str, Mapping[str, float]]:
        return self.limits


def drivers(
    *most: float, standings: Sequence[Standing] = (), quotas: dict[str, dict[str, float]] | None = None
) -> list[Admission]:
    notes: dict[str, str] = {}
    given = [*standings, *[Standing()] * len(most)]
    return [Admission(Notes(f"d{n}", notes, quotas), ONE, count, given[n]) for n, count in enumerate(most)]


def shares(admissions: list[Admission], cpus: float, active: str = "", **more: Any) -> list[Share]:
    """Have all look twice, as the first look does not see those that come after; `active`: a letter y or n for each."""
    for _ in range(2):
        found = [
            one.share({"n": {"cpu": cpus}}, active=(active or "y" * len(admissions))[index] == "y", **more)
            for index, one in enumerate(admissions)
        ]
    return found


def places(found: Sequence[Share]) -> list[float]:
    return [share.places for share in found]


def test_one_that_is_alone_has_everything() -> None:
    assert shares(drivers(99), 4) == [ALL]


def test_two_have_half_each_and_are_told_why() -> None:
    found = shares(drivers(99, 99), 3)
    assert places(found) == [2, 1]
    assert found[1].parts == ({"cpu": 1.0},)
    assert found[1].why == "its share: 1 places of the cluster, while others want some too"
    assert not found[0].reclaim


def test_who_wants_little_leaves_the_rest() -> None:
    assert places(shares(drivers(1, 99, 99), 9)) == [1, 4, 4]
    one, other = drivers(99, 99)
    one.share({"n": {"cpu": 8}}, active=True, wanted=2)
    assert other.share({"n": {"cpu": 8}}, active=True).places == 6, "two are all that it still has"


def test_who_has_nothing_to_run_takes_nothing_and_still_knows_its_share() -> None:
    found = shares(drivers(99, 99), 4, active="yn")
    assert found[0] == ALL
    assert found[1].places == 2


def test_who_was_killed_is_forgotten_and_who_is_busy_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = drivers(99, 99)
    nodes = {"n": {"cpu": 4.0}}
    other.share(nodes, active=True)
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    assert one.share(nodes, active=True, running=[("n",)]).places == 2
    clock[0] += 3600.0
    assert one.share(nodes, active=True, running=[("n",)]).places == 2, "it is suspended, and its trials hold places"
    assert isinstance(one._board, Notes)
    one._board.dead.add("d1")
    assert one.share(nodes, active=True) == ALL
    assert set(one._board.notes) == {"d0"}


def test_who_closes_is_gone_at_once() -> None:
    one, other = drivers(99, 99)
    shares([one, other], 4)
    other.close()
    assert one.share({"n": {"cpu": 4}}, active=True) == ALL


def test_one_of_lower_priority_makes_room_at_once_and_is_told_for_whom() -> None:
    low, high = drivers(99, 99, standings=[Standing(), Standing(priority=2, user="ada")])
    high.share({"n": {"cpu": 4}}, active=True, about={"experiment": "urgent", "who": "ada@here"})
    found = low.share({"n": {"cpu": 4}}, active=True, running=[("n",)] * 4)
    assert found == Share(0, (), "urgent of ada@here has priority 2", "urgent of ada@here has priority 2")
    assert low.share({"n": {"cpu": 4}}, active=True, running=[]).reclaim == "", "it has made room"


def test_one_that_waits_with_nothing_running_comes_to_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    one, other = drivers(99, 99)
    nodes = {"n": {"cpu": 1.0}}
    for second in range(5):
        clock[0] = 100.0 + second
        found = one.share(nodes, active=True, running=[("n",)]), other.share(nodes, active=True)
    assert places(found) == [0, 1]
    assert not found[0].reclaim, "its trial may end"
    for second in range(5, 12):
        clock[0] = 100.0 + second
        found = one.share(nodes, active=True), other.share(nodes, active=True, running=[("n",)])
    assert places(found) == [1, 0]


def test_a_quota_holds_for_one_that_is_alone_too() -> None:
    (one,) = drivers(99, standings=[Standing(user="ada")], quotas={"ada": {"cpu": 3}})
    one.check_quota()
    assert one.share({"n": {"cpu": 8}}, active=True) == Share(3, ({"cpu": 3.0},), "", "the quota of ada: 3 cpu")


def test_a_quota_that_holds_not_one_trial_is_one_clear_message() -> None:
    (one,) = drivers(99, standings=[Standing(user="ada")], quotas={"ada": {"cpu": 0.5}})
    with pytest.raises(
        ExperimentError, match=r"the quota of ada on this cluster is 0.5 cpu, and each trial holds 1 cpu"
    ):
        one.check_quota()


def test_a_note_is_small_and_plain() -> None:
    (one,) = drivers(2)
    one.share({"n": {"cpu": 4}}, active=True, running=[("n",), ("n",)])
    assert isinstance(one._board, Notes)
    note = json.loads(one._board.notes["d0"])
    assert (note["most"], note["running"]) == (2, {"n": 2})
    assert len(one._board.notes["d0"]) < 300


@pytest.mark.parametrize("wrong", [0, -1, "2", True, float("inf")])
def test_a_weight_of_nothing_is_refused(wrong: object) -> None:
    with pytest.raises(SpecError, match="a number above 0 is wanted"):
        RayBackend(weight=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0.5, "1", True])
def test_a_priority_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(SpecError, match="a whole number is wanted"):
        RayBackend(priority=wrong)  # type: ignore[arg-type]


def test_a_driver_whose_trials_hold_different_things_takes_its_part() -> None:
    nodes = {"n": {"cpu": 8.0, "gpu": 4.0}}
    one, other = drivers(99, 99)
    kinds = [Kind(Resources(cpu=1, gpu=1), 1, [("n",)]), Kind(Resources(cpu=2, gpu=1), 9)]
    for _ in range(2):
        found = one.share(nodes, active=True, kinds=kinds)
        beside = other.share(nodes, active=True, kinds=[Kind(Resources(cpu=1, gpu=1), 9)])
    assert found.parts == ({"cpu": 3.0, "gpu": 2.0},)
    assert (found.places, beside.places) == (2, 2)
    assert beside.parts == ({"cpu": 2.0, "gpu": 2.0},)
    assert found.why == "its share: 2 places of the cluster, while others want some too"
    assert one.share(nodes, active=False, kinds=[]).places > 0, "it is known what it would have"
    assert other.share(nodes, active=True, kinds=[Kind(Resources(cpu=1, gpu=1), 9)]) == ALL


def test_kinds_share_what_may_run_at_a_time() -> None:
    (one,) = drivers(3, quotas={"": {"cpu": 99}})
    found = one.share({"n": {"cpu": 9}}, active=True, kinds=[Kind(Resources(cpu=1), 2), Kind(Resources(cpu=2), 9)])
    assert found.places == 3
    assert found.parts == ({"cpu": 4.0},)


def test_a_note_of_a_former_release_is_understood() -> None:
    one, other = drivers(99, 99)
    other.share({"n": {"cpu": 4}}, active=True)
    note = json.loads(other._board.read()[other._board.name])
    assert note.pop("others") == []
    other._board.write(json.dumps(note))
    assert one.share({"n": {"cpu": 4}}, active=True).places == 2
