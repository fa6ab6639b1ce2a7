"""How a cluster is divided among searches: fair, whole, by priority, within quotas, and the same for everybody."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_platform.cluster.allocation import EVERYBODY, Wish, allocate
from tune_platform.resources import Ledger, Resources

ONE = Resources(cpu=1)
INF = float("inf")


def wish(name: str, resources: Resources = ONE, most: float = INF, **more: object) -> Wish:
    return Wish(name=name, resources=resources, most=most, **more)  # type: ignore[arg-type]


def counts(cpus: float, *wishes: Wish, **quotas: dict[str, float]) -> list[int]:
    found = allocate({"n": {"cpu": cpus, "gpu": 4.0}}, wishes, quotas)
    return [len(found[each.name].places) for each in wishes]


def test_equal_searches_have_equal_parts_and_the_oldest_what_is_left() -> None:
    assert counts(7, wish("a"), wish("b")) == [4, 3]


def test_one_that_wants_little_leaves_the_rest() -> None:
    assert counts(9, wish("a", most=1), wish("b"), wish("c")) == [1, 4, 4]


def test_weights() -> None:
    assert counts(8, wish("a"), wish("b", weight=3.0)) == [2, 6]


def test_different_trials_are_compared_by_what_they_hold_most_of() -> None:
    """The example of the paper: 9 CPUs and 18 GB; trials of 1 CPU and 4 GB, of 3 CPUs and 1 GB: 3 and 2 of them."""
    nodes = {"n": {"cpu": 9.0, "memory": 18.0}}
    some = wish("a", Resources(cpu=1, custom={"memory": 4})), wish("b", Resources(cpu=3, custom={"memory": 1}))
    assert {name: len(found.places) for name, found in allocate(nodes, some).items()} == {"a": 3, "b": 2}


def test_a_higher_priority_has_what_it_wants_first() -> None:
    assert counts(4, wish("a"), wish("b", priority=1)) == [0, 4]
    assert counts(4, wish("a"), wish("b", priority=1, most=3)) == [1, 3]


def test_a_gang_is_placed_whole_or_not_at_all() -> None:
    gang = Resources(cpu=1, workers=6)
    assert counts(8, wish("a"), wish("b", gang)) == [2, 1]
    assert counts(5, wish("a"), wish("b", gang)) == [5, 0]


def test_a_gang_that_has_waited_does_not_starve_behind_small_trials() -> None:
    """It needs all that there is: the others end their trials, it runs, and then it is their turn."""
    gang = Resources(cpu=1, workers=8)
    assert counts(8, wish("a"), wish("b", gang)) == [8, 0]
    assert counts(8, wish("a"), wish("b", gang, waited=3.0)) == [0, 1]
    running = [("n",) * 8]
    assert counts(8, wish("a", waited=4.0), wish("b", gang, running=running)) == [8, 0]


def test_where_there_are_more_searches_than_places_each_comes_to_its_turn() -> None:
    running: set[str] = set()
    waited: Counter[str] = Counter()
    had: Counter[str] = Counter()
    for _ in range(60):  # each second one trial may end, and its search has a place only if it is given one
        wishes = [
            wish(name, waited=float(waited[name]), running=[("n",)] if name in running else ()) for name in "abcde"
        ]
        found = allocate({"n": {"cpu": 2.0}}, wishes)
        running = {name for name in "abcde" if found[name].places}
        assert len(running) == 2
        had.update(running)
        waited = Counter({name: 0 if name in running else waited[name] + 1 for name in "abcde"})
    assert min(had.values()) >= 60 * 2 / 5 - 8, had


def test_who_runs_stays_where_it_is() -> None:
    nodes = {name: {"cpu": 2.0} for name in "pqr"}
    running = [("r",), ("r",), ("q",)]
    found = allocate(nodes, [wish("new"), wish("old", running=running)])
    assert found["old"].places == running
    assert sorted(found["new"].places) == [("p",), ("p",), ("q",)]


def test_a_quota_is_for_all_searches_of_a_user_together() -> None:
    ada = {"cpu": 3.0}
    some = wish("a", user="ada"), wish("b", user="ada"), wish("c", user="bob")
    assert counts(9, *some, ada=ada) == [2, 1, 6]
    found = allocate({"n": {"cpu": 9.0}}, some, {"ada": ada})
    assert [found[name].capped for name in "abc"] == [True, True, False]
    assert counts(9, *some, **{EVERYBODY: {"cpu": 1.0}, "bob": {"gpu": 1.0}}) == [1, 0, 8]


SHAPES = [ONE, Resources(cpu=2), Resources(cpu=1, gpu=1), Resources(cpu=1, workers=3), Resources(cpu=0.5),
          Resources(cpu=1, workers=2, strategy="STRICT_SPREAD")]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_all_together_fit_nothing_usable_is_left_and_order_of_nodes_does_not_matter(seed: int) -> None:
    draw = random.Random(seed)
    nodes = {f"n{n}": {"cpu": float(draw.randint(0, 8)), "gpu": float(draw.randint(0, 2))} for n in range(3)}
    wishes = [
        wish(
            f"w{n}", draw.choice(SHAPES), draw.choice([1, 2, 5, INF]), weight=draw.choice([0.5, 1.0, 4.0]),
            priority=draw.choice([0, 0, 1]), waited=draw.choice([0.0, 9.0]),
        )
        for n in range(draw.randint(1, 4))
    ]  # fmt: skip
    found = allocate(nodes, wishes)
    assert found == allocate(dict(reversed(nodes.items())), wishes)
    left = {name: dict(node) for name, node in nodes.items()}
    for each in wishes:
        assert len(found[each.name].places) <= each.most
        for place in found[each.name].places:
            assert len(place) == each.resources.workers
            for node in place:
                for name, amount in each.resources.bundle().items():
                    left[node][name] -= amount
    assert min(amount for node in left.values() for amount in node.values()) >= -1e-6
    ledger = Ledger([left[name] for name in sorted(left)])
    for each in wishes:
        if len(found[each.name].places) < each.most:
            assert not ledger.fits(each.resources), "somebody wants what nobody has"


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 5), (0.5, 3, 3)])
def test_shares_follow_the_weights(weights: tuple[float, ...]) -> None:
    found = counts(800, *(wish(f"w{n}", weight=weight) for n, weight in enumerate(weights)))
    assert [count / 800 for count in found] == pytest.approx([w / sum(weights) for w in weights], abs=0.005)


def mixed(name: str, *kinds: tuple[Resources, float], **more: Any) -> list[Wish]:
    """The wishes of a search whose trials hold different things."""
    return [
        Wish(name=f"{name}/{number}", search=name, resources=resources, most=most, **more)
        for number, (resources, most) in enumerate(kinds)
    ]


def test_kinds_of_one_search_count_as_one() -> None:
    """By what each has most of: 6 of 8 GPUs by trials of both kinds, and 12 of 16 CPUs."""
    one = mixed("one", (Resources(cpu=1, gpu=1), 2), (Resources(cpu=1, gpu=2), 99))
    other = Wish(name="other", resources=Resources(cpu=2), most=99)
    found = allocate({"a": {"cpu": 16, "gpu": 8}}, [*one, other])
    counts = {name: len(each.places) for name, each in found.items()}
    assert counts == {"one/0": 2, "one/1": 2, "other": 6}
    two = mixed("two", (Resources(gpu=1, cpu=0), 99))
    found = allocate({"a": {"cpu": 16, "gpu": 8}}, [*one, *two])
    assert len(found["one/0"].places) + 2 * len(found["one/1"].places) == len(found["two/0"].places) == 4


def test_the_first_kind_comes_first_and_what_does_not_fit_is_passed_over() -> None:
    kinds = (Resources(cpu=3), 9.0), (Resources(cpu=8), 9.0), (Resources(cpu=1), 9.0)
    found = allocate({"a": {"cpu": 7}}, mixed("one", *kinds))
    assert [len(found[f"one/{number}"].places) for number in range(3)] == [2, 0, 1]


def test_a_quota_holds_for_all_kinds_together() -> None:
    kinds = (Resources(cpu=2), 9.0), (Resources(cpu=1), 9.0)
    found = allocate({"a": {"cpu": 9}}, mixed("one", *kinds, user="ada"), {"ada": {"cpu": 5}})
    assert [len(found[f"one/{number}"].places) for number in range(2)] == [2, 1]
    assert found["one/1"].capped
