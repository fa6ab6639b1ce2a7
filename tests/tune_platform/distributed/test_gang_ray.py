"""Gangs on a Ray of two nodes with two CPUs each: placement, warm reuse, death of workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.tune_platform.distributed.cloning import clones
from tests.tune_platform.distributed.recipes import Recipe
from tune_platform import CheckpointPolicy, Resources, Results, SearchSpec, run
from tune_platform.backends.ray import RayBackend

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CONFIG = {"strategy": {"name": "averaging", "period": 4}, "lr": 0.1, "updates": 24, "report_every": 6}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def search(cluster: Cluster, tmp_path: Path) -> Callable[..., Results]:
    def search(resources: Resources, trials: int = 1, **config: Any) -> Results:
        spec = SearchSpec(
            trainable=Recipe, param_space={**CONFIG, **config}, metric="accuracy", mode="max", num_samples=trials,
            resources=resources, backend=RayBackend(cluster.address), storage=str(tmp_path), searcher="random",
            checkpoint=CheckpointPolicy(every=1),
        )  # fmt: skip
        return run(spec)

    return search


def reports(results: Results, trial: int = 0) -> list[dict[str, Any]]:
    rows = results.dataframe(reports=True).to_dict("records")
    return [{str(k).removeprefix("metrics/"): v for k, v in row.items()} for row in rows if row["trial"] == trial]


def last(results: Results, trial: int = 0) -> dict[str, Any]:
    return reports(results, trial)[-1]


def test_the_workers_of_a_gang_are_on_the_nodes_of_its_lease_and_serve_one_trial_after_the_other(
    search: Callable[..., Results],
) -> None:
    results = search(Resources(cpu=1, workers=4), trials=3, strategy={"name": "by_host"}, says="hello")
    assert [trial.status for trial in results.trials()] == ["COMPLETED"] * 3
    ends = [last(results, trial) for trial in range(3)]
    assert {report["workers"] for report in ends} == {4}
    # Two groups of two neighbours: each group agrees within itself, and the two differ.
    assert {report["neighbours"] for report in ends} == {2}
    assert {report["distinct"] for report in ends} == {2}
    assert len({report["pid"] for report in ends}) == 1  # the mean over the gang: the same four processes
    for trial in results.trials():
        lines = trial.logs().splitlines()
        said = [[line for line in lines if line.startswith(f"[rank {rank}]")] for rank in (1, 2, 3)]
        assert said == [[f"[rank {rank}] hello from {rank}"] for rank in (1, 2, 3)]
        assert [line for line in lines if not line.startswith("[rank")] == ["hello from 0"]


def test_leaders_of_each_node_and_of_all(search: Callable[..., Results]) -> None:
    strategy = {"name": "lsgd", "group_size": "host", "period": 2, "global_period": 4}
    results = search(Resources(cpu=1, workers=4), strategy=strategy)
    assert [trial.status for trial in results.trials()] == ["COMPLETED"]
    # Two inner steps: one leader to its neighbour on each of the two nodes. Four: the global leader to the other three.
    parameters = sum(p.numel() for p in Recipe().build_model({}).parameters())
    losses = 12 * 4 * 3  # three floats of each of four workers to all others
    expected = (2 * 4 * parameters + losses) / 2 + 3 * 4 * parameters / 4
    counted = [report["bytes_per_step"] for report in reports(results)]
    assert sum(counted) / len(counted) == pytest.approx(expected, rel=1e-6)


def test_spread_places_one_worker_on_each_node(search: Callable[..., Results]) -> None:
    report = last(search(Resources(cpu=1, workers=2, strategy="STRICT_SPREAD"), strategy={"name": "by_host"}))
    assert (report["workers"], report["neighbours"], report["distinct"]) == (2, 1, 2)


def test_gangs_side_by_side_and_nothing_is_left_behind(search: Callable[..., Results], cluster: Cluster) -> None:
    results = search(Resources(cpu=1, workers=2, strategy="STRICT_PACK"), trials=4)
    assert [trial.status for trial in results.trials()] == ["COMPLETED"] * 4

    def left() -> tuple[float | None, set[str]]:
        groups = ray.util.placement_group_table().values()
        return ray.available_resources().get("CPU"), {group["state"] for group in groups} - {"REMOVED"}

    ray.init(address=cluster.address, log_to_driver=False)
    try:
        end = time.monotonic() + 60
        while left() != (4.0, set()) and time.monotonic() < end:
            time.sleep(0.1)
        assert left() == (4.0, set())
    finally:
        ray.shutdown()


def test_a_killed_worker_is_replaced_without_a_new_attempt(search: Callable[..., Results]) -> None:
    results = search(Resources(cpu=1, workers=3), kill_at=(1, 9))
    (trial,) = results.trials()
    assert (trial.status, trial.attempt) == ("COMPLETED", 1)
    lost = [report["workers_lost"] for report in reports(results)]
    assert lost == [0, 1, 1, 1]
    assert [report["workers"] for report in reports(results)][1] == 2


def test_where_all_are_needed_the_trial_starts_again_from_its_checkpoint(
    search: Callable[..., Results], tmp_path: Path
) -> None:
    strategy = {"name": "fragile", "period": 4}
    expected = search(Resources(cpu=1, workers=2), strategy=strategy)
    results = search(Resources(cpu=1, workers=2), strategy=strategy, kill_at=(1, 9), once=str(tmp_path / "killed"))
    (trial,) = results.trials()
    assert (trial.status, trial.attempt) == ("COMPLETED", 2)
    assert "needs all of its workers" in str(results.why(0))
    names = ("updates", "train_loss", "accuracy")
    assert [[r[n] for n in names] for r in reports(results)] == [[r[n] for n in names] for r in reports(expected)]


def test_the_first_worker_is_the_trial_itself(search: Callable[..., Results], tmp_path: Path) -> None:
    results = search(Resources(cpu=1, workers=2), kill_at=(0, 9), once=str(tmp_path / "killed"))
    (trial,) = results.trials()
    assert (trial.status, trial.attempt) == ("COMPLETED", 2)
    assert last(results)["workers"] == 2


def test_a_gang_that_is_cloned_takes_over_rank_by_rank_from_memory(cluster: Cluster, tmp_path: Path) -> None:
    """Two gangs on two nodes: the worse goes on with what each rank of the better one had."""
    found = clones(RayBackend(cluster.address), tmp_path, pause=1.0)
    assert any(report["in_memory"] for report in found)
    assert all((report["same"], report["alike"]) == (1, 0) for report in found)
