"""The ledger of places."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_platform.errors import SpecError
from tune_platform.resources import Ledger, Resources

nodes = st.lists(st.fixed_dictionaries({"cpu": st.integers(0, 4), "gpu": st.integers(0, 2)}), min_size=0, max_size=4)
shapes = st.builds(
    Resources,
    cpu=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]),
    gpu=st.sampled_from([0.0, 0.0, 0.25, 1.0]),
    workers=st.integers(1, 4),
    strategy=st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
)
moves = st.lists(
    st.one_of(st.tuples(st.just("lease"), shapes), st.tuples(st.just("release"), st.integers(0, 20))), max_size=40
)


@settings(max_examples=200, deadline=None)
@given(nodes, moves)
def test_never_more_is_leased_than_there_is(cluster: list[dict[str, float]], steps: list[Any]) -> None:
    ledger = Ledger(cluster)
    leases: dict[int, tuple[Resources, list[int]]] = {}
    for number, (move, what) in enumerate(steps):
        if move == "release":
            ledger.release(what)
            leases.pop(what, None)
        else:
            fits = ledger.fits(what)
            placed = ledger.lease(number, what)
            assert fits == (placed is not None)
            assert not fits or ledger.possible(what)
            if placed is not None:
                leases[number] = what, placed
                assert len(placed) == what.workers
                if what.strategy == "STRICT_PACK":
                    assert len(set(placed)) == 1
                if what.strategy == "STRICT_SPREAD":
                    assert len(set(placed)) == what.workers
        ledger.check()
        assert ledger.leases() == len(leases)
        for n in range(len(cluster)):
            for name in ("cpu", "gpu"):
                used = sum(r.bundle().get(name, 0) * placed.count(n) for r, placed in leases.values())
                assert used <= cluster[n][name] + 1e-6
        assert all(ledger.fits(shape) == (ledger.place(shape) is not None) for shape, _ in leases.values())
    for number in list(leases):
        ledger.release(number)
    assert all(ledger.fits(shape) == ledger.possible(shape) for shape in (Resources(), Resources(gpu=1)))


@settings(max_examples=100, deadline=None)
@given(nodes, shapes.filter(lambda shape: shape.workers == 1 and shape.bundle()))
def test_slots_counts_what_an_idle_cluster_holds(cluster: list[dict[str, float]], shape: Resources) -> None:
    ledger, count = Ledger(cluster), 0
    while ledger.lease(count, shape) is not None:
        count += 1
    assert ledger.slots(shape) == count


def test_slots_of_gangs_and_of_nothing() -> None:
    ledger = Ledger([{"cpu": 3}, {"cpu": 3}])
    assert ledger.slots(Resources(workers=2)) == 3
    assert ledger.slots(Resources(workers=2, strategy="STRICT_PACK")) == 2
    assert ledger.slots(Resources(cpu=0)) == 0


def test_ten_tenths_fit_into_one() -> None:
    ledger = Ledger([{"cpu": 1}])
    assert [ledger.lease(n, Resources(cpu=0.1)) for n in range(11)] == [[0]] * 10 + [None]


def test_spread_and_pack() -> None:
    ledger = Ledger([{"cpu": 2}, {"cpu": 2}])
    assert ledger.place(Resources(workers=3)) == [0, 0, 1]
    assert ledger.place(Resources(workers=3, strategy="SPREAD")) == [0, 1, 0]
    assert ledger.place(Resources(workers=3, strategy="STRICT_PACK")) is None
    assert ledger.place(Resources(workers=2, strategy="STRICT_SPREAD")) == [0, 1]


def test_custom_resources() -> None:
    ledger = Ledger([{"cpu": 8}, {"cpu": 1, "tpu": 2}])
    assert ledger.place(Resources(custom={"tpu": 1})) == [1]
    assert ledger.place(Resources(custom={"tpu": 3})) is None
    assert Resources(custom={"a": 1}) != Resources(custom={"a": 2})
    assert hash(Resources(custom={"a": 1})) == hash(Resources(custom={"a": 1}))


def test_a_node_that_shrinks_is_overdrawn_until_its_leases_end() -> None:
    ledger = Ledger([{"cpu": 2}, {"cpu": 1}])
    for number in range(3):
        ledger.lease(number, Resources())
    ledger.resize([{"cpu": 1}])
    assert not ledger.fits(Resources())
    ledger.release(0)
    assert not ledger.fits(Resources())
    ledger.release(2)  # its node is gone
    ledger.release(1)
    assert ledger.fits(Resources())
    ledger.check()
    ledger.resize([{"cpu": 1}, {"cpu": 5}])
    assert ledger.possible(Resources(cpu=5))


def test_releasing_nothing_changes_nothing() -> None:
    ledger = Ledger([{"cpu": 1}])
    ledger.release(7)
    assert not ledger.holds(7)
    assert ledger.lease(7, Resources()) == [0] == ledger.nodes(7)
    ledger.release(7)
    ledger.release(7)
    assert ledger.fits(Resources())
    assert not ledger.fits(Resources(cpu=1.5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cpu": -1}, "resource cpu: must be a number of at least 0, got -1"),
        ({"gpu": math.nan}, "resource gpu"),
        ({"custom": {"tpu": math.inf}}, "resource tpu"),
        ({"workers": 0}, "workers: must be at least 1, got 0"),
        ({"strategy": "spred"}, "did you mean 'SPREAD'"),
    ],
)
def test_bad_values(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Resources(**options)


def test_in_words() -> None:
    assert str(Resources(gpu=0.5)) == "1 cpu, 0.5 gpu"
    assert str(Resources(cpu=0)) == "nothing"
    assert str(Resources(workers=2)) == "2 x (1 cpu), PACK"


def test_what_a_ledger_remembers_does_not_grow_with_the_number_of_shapes() -> None:
    ledger = Ledger([{"cpu": 4.0}])
    for number in range(5000):
        shape = Resources(cpu=1.0 + number / 1000)
        assert ledger.possible(shape) == (number <= 3000)
        assert ledger.slots(shape) == int(4.000001 // shape.cpu)
        assert ledger.fits(shape) == (number <= 3000)
        ledger.lease(0, shape)
        ledger.release(0)
    assert max(len(ledger._possible), len(ledger._slots), len(ledger._fits)) <= 1024


def test_an_accelerator_is_wanted_by_its_name() -> None:
    wants = Resources(cpu=1, gpu=1, accelerator="A100")
    assert str(wants) == "1 cpu, 1 gpu, A100"
    nodes = [
        {"cpu": 8.0, "gpu": 4.0, "accelerator_type:H100": 1.0},
        {"cpu": 8.0, "gpu": 2.0, "accelerator_type:A100": 1.0},
    ]
    ledger = Ledger(nodes)
    assert [ledger.lease(trial, wants) for trial in range(3)] == [[1], [1], None]
    assert ledger.lease(9, Resources(gpu=1)) == [0]
    assert not ledger.possible(Resources(gpu=1, accelerator="L4"))
    with pytest.raises(SpecError, match="the name of a type is wanted"):
        Resources(gpu=1, accelerator="A 100")


@pytest.mark.parametrize(("gpu", "count"), [(0.6, 2), (0.5, 4), (0.4, 4), (0.34, 4), (1 / 3, 6), (0.1, 20), (1, 2)])
def test_a_fraction_of_a_gpu_comes_from_one_gpu(gpu: float, count: int) -> None:
    ledger, wants = Ledger([{"cpu": 99.0, "gpu": 2.0}]), Resources(gpu=gpu)
    assert ledger.slots(wants) == count
    leased = 0
    while ledger.lease(leased, wants) is not None:
        leased += 1
    assert leased == count


def test_small_trials_are_packed_or_spread_over_nodes_by_choice() -> None:
    nodes = [{"cpu": 8.0, "gpu": 1.0}] * 3
    packed, spread = Resources(gpu=0.25), Resources(gpu=0.25, strategy="SPREAD")
    for wants, placed in ((packed, [0, 0, 0, 0, 1, 1]), (spread, [0, 1, 2, 0, 1, 2])):
        ledger = Ledger(nodes)
        assert [(ledger.lease(trial, wants) or [-1])[0] for trial in range(6)] == placed


@pytest.mark.parametrize(("workers", "custom"), [(1, {}), (1, {"license": 1.0}), (2, {})])
def test_what_has_nothing_to_double_cannot_grow(workers: int, custom: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="grow: the trial holds no CPU and no GPU that could be doubled"):
        Resources(cpu=0, workers=workers, custom=custom, grow=True)


def test_a_gang_that_holds_something_of_its_own_can_grow() -> None:
    assert Resources(cpu=0, workers=2, custom={"license": 1}, grow=True).grown().workers == 4


def test_a_ledger_knows_what_its_nodes_could_hold_once() -> None:
    ledger = Ledger([{"cpu": 4}, {"cpu": 2, "gpu": 1}])
    ledger.resize([{"cpu": 1}, {}])
    ledger.resize([{"cpu": 2}, {}, {"cpu": 1}])
    needs = Resources(cpu=1, gpu=1), Resources(cpu=4), Resources(cpu=5), Resources(cpu=1, workers=7)
    assert [ledger.possible(each) for each in needs] == [False] * 4
    assert [ledger.was_possible(each) for each in needs] == [True, True, False, True]
    ledger.resize([])  # another cluster
    ledger.resize([{"cpu": 2}])
    assert not any(ledger.was_possible(each) for each in needs)
