from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.studies.surfaces import Factorisation, Surface
from tests.trainables.strategies.toys import (
    Held,
    Toy,
    check_resume,
    count_parameters,
    digest,
    make,
    models,
    reports,
    vectors,
    worker_of,
)
from tune_platform.distributed import Cost, LocalGroup
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.lsgd import LSGD

CONFIG = {"lr": 0.05, "updates": 16, "report_every": 8, "batch_size": 8}
SLOW = Cost(step_s=(1.0, 1.0, 1.0, 5.0))


def config(**options: Any) -> dict[str, Any]:
    return {**CONFIG, "strategy": {"name": "lsgd", "period": 8, **options}}


def still(**options: Any) -> dict[str, Any]:
    """Workers at places of their own that only the pulls move: rate 0, an exchange after each step."""
    return {**config(period=1, init="different", **options), "lr": 0.0, "double": True, "report_every": 1}


def strategy(trainable: Any, rank: int = 0) -> LSGD:
    found: LSGD = worker_of(trainable, rank).strategy
    return found


def distances(trainable: Any) -> torch.Tensor:
    x = vectors(trainable)
    return torch.cdist(x, x)


def lead(trainable: Any, *losses: float) -> None:
    """Give the workers losses to be elected by, for all exchanges to come."""
    for rank, loss in enumerate(losses):
        window = strategy(trainable, rank).window
        window.mean = lambda loss=loss: loss  # type: ignore[method-assign, misc]


# the pull


def test_pulls_of_0_are_independent_training_without_a_byte() -> None:
    more = {"momentum": 0.9, "dropout": 0.2}
    alone = make({**CONFIG, **more, "strategy": "independent"}, 3)
    never = make({**config(pull=0.0, evaluate="own"), **more}, 3)
    expected, got = reports(alone, 2), reports(never, 2)
    assert [digest(model) for model in models(alone)] == [digest(model) for model in models(never)]
    assert [report["evaluated"] for report in expected] == [report["evaluated"] for report in got]
    assert got[-1]["bytes_sent"] == 0


def test_a_pull_of_1_brings_all_to_the_leader() -> None:
    trainable = make({**still(pull=1.0)}, 4)
    leader = vectors(trainable)[2]
    lead(trainable, 4.0, 3.0, 1.0, 2.0)
    trainable.step()
    assert all(torch.equal(row, leader) for row in vectors(trainable))


@pytest.mark.parametrize("pull", [0.1, 0.43])
def test_the_leader_and_all_optimizer_buffers_stay_as_they_are(pull: float) -> None:
    """Bit for bit: (1 - pull) x + pull x would move a leader by rounding."""
    given = {**config(period=8, pull=pull, init="different"), "momentum": 0.9}
    trainable, control = make(given, 3), make({**given, "strategy": {**given["strategy"], "pull": 0.0}}, 3)
    reports(trainable, 1)
    reports(control, 1)
    leader = int(strategy(trainable)._leader)
    ours, theirs = vectors(trainable), vectors(control)
    moved = [not torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert moved == [rank != leader for rank in range(3)]
    for rank in range(3):
        a, b = (worker_of(each, rank).optimizer.state_dict()["state"] for each in (trainable, control))
        assert all(torch.equal(a[key]["momentum_buffer"], b[key]["momentum_buffer"]) for key in b)
        if rank != leader:  # on the segment, at its share
            z = ours[leader]
            assert torch.allclose(ours[rank], theirs[rank] + pull * (z - theirs[rank]), rtol=1e-6, atol=1e-7)
            assert (ours[rank] - z).norm() == pytest.approx((1 - pull) * (theirs[rank] - z).norm().item(), rel=1e-5)


def test_one_leader_contracts_every_distance_by_the_same_factor() -> None:
    trainable = make(still(pull=0.3), 4)
    lead(trainable, 2.0, 1.0, 3.0, 4.0)
    before = distances(trainable)
    for count in (1, 2, 3):
        trainable.step()
        assert torch.allclose(distances(trainable), before * 0.7**count, rtol=0, atol=1e-12)


def test_two_levels_contract_inside_and_across_groups() -> None:
    """Ranks 0 1 | 2 3, led by 1 and 2, of which 2 leads all. Local comes first; the second step is global as well."""
    trainable = make(still(pull=0.3, group_size=2, global_period=2, global_pull=0.2), 4)
    lead(trainable, 4.0, 3.0, 1.0, 2.0)
    x = vectors(trainable)
    trainable.step()
    one = torch.stack([torch.lerp(x[0], x[1], 0.3), x[1], x[2], torch.lerp(x[3], x[2], 0.3)])
    assert torch.allclose(vectors(trainable), one, rtol=0, atol=1e-14)
    trainable.step()
    two = torch.stack([torch.lerp(one[0], x[1], 0.3), x[1], x[2], torch.lerp(one[3], x[2], 0.3)])
    two = torch.stack([torch.lerp(row, x[2], 0.2) for row in two])
    assert torch.allclose(vectors(trainable), two, rtol=0, atol=1e-14)
    assert torch.equal(vectors(trainable)[2], x[2])
    inside = (two[0] - two[1]).norm() / (x[0] - x[1]).norm()
    assert float(inside) == pytest.approx(0.7 * 0.7 * 0.8)
    assert [strategy(trainable, rank).led for rank in range(4)] == [0, 2, 3, 0]  # 2: twice its group, once all


def test_groups_of_the_workers_of_each_host() -> None:
    gang = Held(LocalGroup(4, hosts=["a", "b", "a", "b"]))
    trainable = make(still(pull=0.5, group_size="host", global_pull=0.0), 4, gang=gang)
    assert [strategy(trainable, rank).levels[0].ranks for rank in range(4)] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    lead(trainable, 1.0, 2.0, 3.0, 4.0)
    x = vectors(trainable)
    trainable.step()
    expected = torch.stack([x[0], x[1], torch.lerp(x[2], x[0], 0.5), torch.lerp(x[3], x[1], 0.5)])
    assert torch.allclose(vectors(trainable), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "single"),
    [
        ({"group_size": 4, "global_pull": 0.9}, {}),  # one group: pull every period steps
        ({"group_size": None, "global_period": 16, "global_pull": 0.9}, {}),
        ({"group_size": 1, "period": 2, "pull": 0.9, "global_period": 4, "global_pull": 0.3}, {}),
        ({"group_size": 2, "pull": 0.9, "global_period": 4, "global_pull": 0.3}, {}),
    ],
)
def test_where_there_is_a_single_leader_one_coefficient_counts(options: dict[str, Any], single: dict[str, Any]) -> None:
    base = {"period": 4, "pull": 0.3, "init": "different", **single}
    plain, same = (make(config(**each), 4) for each in (base, {**base, **options}))
    reports(plain, 1)
    reports(same, 1)
    assert torch.equal(vectors(plain), vectors(same))


def test_equal_workers_at_rest_do_not_move_and_windows_go_on_across_a_pull() -> None:
    trainable = make({**config(period=2, window=5), "lr": 0.0}, 3)
    before = vectors(trainable)
    trainable.step()
    assert torch.equal(before, vectors(trainable))
    assert len(strategy(trainable).window.state()) == 5


def test_losses_that_are_not_numbers_never_lead_and_without_any_nobody_is_pulled() -> None:
    trainable = make(still(pull=0.5), 3)
    lead(trainable, math.nan, 5.0, math.inf)
    x = vectors(trainable)
    trainable.step()
    assert torch.equal(vectors(trainable)[1], x[1])
    assert not torch.equal(vectors(trainable)[0], x[0])
    lead(trainable, math.nan, math.inf, math.nan)
    x = vectors(trainable)
    trainable.step()
    assert torch.equal(vectors(trainable), x)
    assert strategy(trainable).rounds == 2


def test_permuting_ranks_permutes_the_result() -> None:
    a, b = (make(still(pull=0.4), 3) for _ in range(2))
    order = [2, 0, 1]
    x = vectors(a)
    for rank, model in enumerate(models(b)):
        strategy(b, rank).flat.write(x[order[rank]])
        assert model is not None
    losses = (3.0, 1.0, 2.0)
    lead(a, *losses)
    lead(b, *(losses[old] for old in order))
    a.step()
    b.step()
    assert torch.equal(vectors(a)[order], vectors(b))


def test_every_worker_leads_at_times_and_the_report_says_so() -> None:
    given = {**config(period=4, init="same"), "updates": 160, "report_every": 160}
    trainable = make(given, 4)
    report = trainable.step()
    led = [strategy(trainable, rank).led for rank in range(4)]
    assert sum(led) == strategy(trainable).rounds == 40
    assert min(led) >= 1
    assert 8 < report["leader_switches"] < 40
    assert report["leader"] in range(4)
    assert report["leader_noise"] > 0
    assert report["loss_spread"] > 0


def test_the_probe_chooses_by_the_same_batch_for_all_and_disturbs_nothing() -> None:
    seen: list[tuple[int, torch.Tensor]] = []

    class Seen(Toy):
        def loss(self, model: Any, batch: Any) -> Any:
            if not model.training:
                seen.append((self.worker.place.worker, batch[0].clone()))
            return super().loss(model, batch)

    given = {**config(period=4, probe=True, pull=0.0, ppa=True, ppa_pull=0.0), "dropout": 0.3}
    trainable = make(given, 3, toy=Seen)
    alone = make({**CONFIG, "dropout": 0.3, "strategy": "independent"}, 3)
    trainable.step()
    alone.step()
    assert len(seen) == 2 * 3
    assert all(torch.equal(batch, seen[0][1]) for _, batch in seen[:3])
    assert not torch.equal(seen[0][1], seen[3][1])  # drawn anew for each exchange
    assert [digest(model) for model in models(trainable)] == [digest(model) for model in models(alone)]


def test_ppa_goes_on_pulling_towards_the_last_copy() -> None:
    trainable = make({**still(pull=0.5, ppa=True, ppa_pull=0.1), "report_every": 2, "updates": 2}, 2)
    lead(trainable, 1.0, 2.0)
    for rank in range(2):
        strategy(trainable, rank).levels[0].period = strategy(trainable, rank).period = 1
    x = vectors(trainable)
    trainable.step()
    first = torch.lerp(x[1], x[0], 0.5)
    second = torch.lerp(torch.lerp(first, x[0], 0.1), x[0], 0.5)
    assert torch.allclose(vectors(trainable)[1], second, rtol=0, atol=1e-14)


# what the paper says of losses that are known exactly


class Bowl(Surface):
    """A convex quadratic, a hundred times as steep in one direction as in another; its minimum is 0."""

    def value(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.logspace(0, -2, 6, dtype=torch.float64) * x.square()).sum() / 2

    def start(self, config: Any) -> torch.Tensor:
        return torch.randn(6, dtype=torch.float64)


@pytest.mark.parametrize(("pull", "seed"), [(0.02, 0), (0.1, 1), (0.1, 2)])
def test_in_a_convex_bowl_the_leader_never_rises_and_all_descend_faster_than_alone(pull: float, seed: int) -> None:
    """The probe is the loss of the parameters as they are: the leader is exactly the best. A worker's step is 0.1."""

    def descend(pull: float) -> list[dict[str, Any]]:
        exact = {"period": 1, "init": "different", "probe": True, "evaluate": "leader", "pull": pull}
        given = {"lr": 0.1, "updates": 30, "report_every": 1, "strategy": {"name": "lsgd", **exact}}
        trainable = make(given, 4, toy=Bowl, seed=seed)
        return [trainable.step() for _ in range(30)]

    together, alone = descend(pull), descend(0.0)
    leaders = [report["losses"][int(report["leader"])] for report in together]
    assert all(later <= earlier for earlier, later in itertools.pairwise(leaders))
    assert len({report["leader"] for report in together}) > 1
    sums, apart = ([sum(report["losses"]) for report in reports] for reports in (together, alone))
    assert all(ours < theirs for ours, theirs in zip(sums, apart, strict=True))
    assert sum(sums) < 0.9 * sum(apart)


@pytest.mark.parametrize("seed", range(4))
def test_in_a_factorisation_of_rank_1_the_mean_holds_all_back_and_a_leader_does_not(seed: int) -> None:
    """U and -U are as good: where workers begin on both sides, the centre lies between them and is no solution."""
    found, common = {}, {"period": 1, "init": "different"}
    for strategy_of in (
        {**common, "name": "easgd", "beta": 4 * 0.05},
        {**common, "name": "lsgd", "pull": 0.05, "window": 1, "evaluate": "leader"},
        {**common, "name": "lsgd", "pull": 0.0},
    ):
        given = {"size": 10, "rank": 1, "lr": 0.3, "updates": 100, "report_every": 100, "strategy": strategy_of}
        trainable = make(given, 4, toy=Factorisation, seed=seed)
        report = trainable.step()
        found[strategy_of["name"], strategy_of.get("pull")] = min(report["losses"])
        if strategy_of.get("pull") == 0.0:  # each in the minimum of its own side
            x = vectors(trainable)
            on_both_sides = bool(((x @ x[0]) < 0).any())
    assert found["lsgd", 0.05] < 1e-20
    assert found["lsgd", 0.0] < 1e-20
    if on_both_sides:
        assert found["easgd", None] > 1e-3
    else:
        assert seed == 2
        assert found["easgd", None] < 1e-10


# evaluation


def test_what_is_evaluated() -> None:
    found: dict[str, torch.Tensor] = {}

    class Looking(Toy):
        def evaluate(self, model: Any) -> dict[str, Any]:
            key = self.config["strategy"]["evaluate"]
            found[key] = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
            found[f"{key} batches"] = torch.tensor(float(model[1].num_batches_tracked))
            return {}

    for what in ("mean", "leader", "own"):
        trainable = make({**config(evaluate=what, period=4), "norm": True}, 3, toy=Looking)
        trainable.step()
        lead(trainable, 3.0, 1.0, 2.0)
        trainable._survive("evaluate")
        x = vectors(trainable)
        wanted = {"mean": x.mean(0), "leader": x[1], "own": x[0]}[what]
        assert torch.allclose(found[what], wanted, rtol=0, atol=1e-7)
    assert float(found["mean batches"]) == 10  # an epoch of training batches, for BatchNorm's statistics
    assert float(found["own batches"]) == float(found["leader batches"]) == 8


# bytes


@pytest.mark.parametrize(
    ("options", "per_step"),
    [
        ({"period": 4}, lambda n, w: (4 * n * (w - 1) + 12 * w * (w - 1)) / 4),
        ({"period": 4, "pull": 0.0}, lambda n, w: 0.0),
        (
            {"period": 2, "global_period": 8, "group_size": 2},
            lambda n, w: (2 * 4 * n * 1 + 12 * w * (w - 1)) / 2 + 4 * n * (w - 1) / 8,
        ),
        (
            {"period": 4, "asynchronous": True},
            # each of the others asks before each step at most, and for each exchange
            lambda n, w: (4 * n * (w - 1) + 12 * w * (w - 1)) / 4 + 20 * (w - 1) * (1 + 1 / 4),
        ),
    ],
)
def test_bytes_are_those_of_the_formula(options: dict[str, Any], per_step: Any) -> None:
    # On a clock that an answer takes nothing of, workers ask before each step.
    trainable = make({**config(**options), "updates": 8}, 4, cost=Cost(step_s=(1.0,) * 4))
    n = count_parameters(trainable)
    expected = LSGD.bytes_per_step(n, 4, options)
    assert expected == pytest.approx(per_step(n, 4))
    more = 3 * 20 / 8 if options.get("asynchronous") else 0  # to be told to stop
    assert trainable.step()["bytes_per_step"] == pytest.approx(expected + more)


@pytest.mark.parametrize("hosts", ["aaaa", "aabb", "abab", "aaab", "aabc", "abcd"])
@pytest.mark.parametrize("options", [{}, {"global_pull": 0.0}, {"pull": 0.0}, {"asynchronous": True}])
def test_what_is_said_of_hosts_is_the_most_that_they_cost(hosts: str, options: dict[str, Any]) -> None:
    given = {"period": 2, "group_size": "host", **options}
    gang = Held(LocalGroup(4, hosts=list(hosts)))
    trainable = make({**config(**given), "updates": 8}, 4, gang=gang)
    n = count_parameters(trainable)
    told_to_stop = 3 * 20 / 8 if options.get("asynchronous") else 0
    assert trainable.step()["bytes_per_step"] <= LSGD.bytes_per_step(n, 4, given) + told_to_stop + 1e-9


def test_two_hosts_of_two_cost_what_is_said_and_groups_given_by_size_do_so_exactly() -> None:
    for given, hosts in (({"group_size": "host"}, "aabb"), ({"group_size": 2}, "abcd"), ({"group_size": 3}, "aaaa")):
        trainable = make({**config(period=2, **given), "updates": 8}, 4, gang=Held(LocalGroup(4, hosts=list(hosts))))
        expected = LSGD.bytes_per_step(count_parameters(trainable), 4, {"period": 2, **given})
        assert trainable.step()["bytes_per_step"] == pytest.approx(expected, rel=1e-12)
    assert LSGD.bytes_per_step(10**6, 4, {"period": 64, "group_size": "host"}) == pytest.approx(218_752, abs=1)


@pytest.mark.parametrize("updates", [30, 50, 130, 150, 250, 350, 16])
@pytest.mark.parametrize(("period", "times"), [(0.01, 2), (0.1, 3), (0.07, 5)])
def test_shares_that_are_multiples_are_so_whatever_the_length(updates: int, period: float, times: int) -> None:
    strategy_of = {"period": period, "global_period": period * times, "group_size": 2}
    trainable = make({**config(**strategy_of), "updates": updates}, 4)
    inner, outer = (level.period for level in strategy(trainable).levels)
    assert inner == max(1, round(period * updates))
    assert outer == inner * times


def test_period_64_sends_a_hundredth_of_all_reduce() -> None:
    n = 1_000_000
    assert LSGD.bytes_per_step(n, 4, {"period": 64}) / (8 * n * 3) == pytest.approx(1 / 128, rel=1e-4)


# checkpoints


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"period": 3, "group_size": 2, "global_period": 6, "ppa": True, "probe": True, "init": "different"},
    ],
)
def test_resume_equals_uninterrupted(options: dict[str, Any], tmp_path: Path) -> None:
    more = {"momentum": 0.9, "dropout": 0.2, "norm": True, "updates": 100, "report_every": 5}
    check_resume({**config(**options), **more}, tmp_path, 4)


def test_an_asynchronous_run_goes_on_from_its_counts(tmp_path: Path) -> None:
    given = {**config(period=4, asynchronous=True), "updates": 20, "report_every": 6}
    first = make(given, 4, cost=SLOW)
    first.step()
    first.save_checkpoint(tmp_path)
    second = make(given, 4, cost=SLOW)
    second.load_checkpoint(tmp_path)
    report = second.step()
    assert report["updates"] == 12
    assert sum(worker_of(second, rank).updates for rank in range(4)) == 48
    assert strategy(second).rounds == 3


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_another_number_of_workers_takes_the_checkpoint_over(asynchronous: bool, workers: int, tmp_path: Path) -> None:
    given = config(period=4, asynchronous=asynchronous, ppa=True, group_size=2)
    first = make(given, 2)
    first.step()
    first.save_checkpoint(tmp_path)
    second = make(given, workers)
    second.load_checkpoint(tmp_path)
    assert torch.equal(vectors(second)[0], vectors(first)[0])
    report = second.step()
    assert (report["updates"], report["done"]) == (16, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pull": 1.5}, "pull is a number between 0 and 1, got 1.5"),
        ({"global_pull": -0.1}, "global_pull is a number between 0 and 1, got -0.1"),
        ({"period": 0}, "period is a whole number of steps, or a share"),
        ({"group_size": 2, "global_period": 12}, "global_period is a multiple of period, got 12 and 8"),
        ({"group_size": 2, "period": 0.01, "global_period": 0.025}, "global_period is a multiple of period, got 0.025"),
        ({"group_size": "node"}, "group_size is a number of at least 1, got 'node'"),
        ({"window": 0}, "window is a number of at least 1, got 0"),
        ({"evaluate": "best"}, "evaluate is one of mean, leader, own, got 'best'"),
        ({"probe": 1}, "probe is true or false, got 1"),
        ({"pul": 0.1}, "has no option 'pul'.*pull"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make(config(**options), 2)
