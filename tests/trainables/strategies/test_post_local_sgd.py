"""Post-local SGD: data parallelism to the switch, local SGD after it, and gradients averaged inside nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainables.strategies.toys import (
    Held,
    check_resume,
    count_parameters,
    die,
    digest,
    make,
    models,
    reports,
    vectors,
    worker_of,
)
from tune_platform.distributed import Gang, LocalGroup
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.post_local_sgd import PostLocalSGD

CONFIG: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "updates": 24, "report_every": 6}


def post(**options: Any) -> dict[str, Any]:
    return {"strategy": {"name": "post_local_sgd", "period": 4, **options}}


def groups(trainable: Any) -> list[str]:
    return [digest(model) for model in models(trainable)]


def test_before_the_switch_it_is_data_parallelism_bit_for_bit() -> None:
    one, other = make({**CONFIG, **post(start=0.5)}, 3), make({**CONFIG, "strategy": "all_reduce"}, 3)
    for _ in range(2):
        assert one.step()["evaluated"] == other.step()["evaluated"]
        assert torch.equal(vectors(one), vectors(other))
    one.step()
    other.step()
    assert not torch.equal(vectors(one), vectors(other))


def test_after_the_switch_workers_agree_after_each_period_and_only_then() -> None:
    trainable = make({**CONFIG, **post(start=0.25, period=4), "report_every": 1}, 2)
    agreed = []
    for _ in range(24):
        trainable.step()
        agreed.append(len(set(groups(trainable))) == 1)
    # six steps together; the first average comes a whole period after the switch, the last at the end
    assert [step for step, same in enumerate(agreed, 1) if same] == [1, 2, 3, 4, 5, 6, 10, 14, 18, 22, 24]


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_the_ends_of_the_range_are_local_sgd_and_data_parallelism(start: float) -> None:
    one = make({**CONFIG, **post(start=start)}, 2)
    plain: Any = "all_reduce" if start else {"name": "local_sgd", "period": 4}
    other = make({**CONFIG, "strategy": plain}, 2)
    reports(one, 4)
    reports(other, 4)
    assert torch.equal(vectors(one), vectors(other))


@pytest.mark.parametrize("node_size", [2, "host"])
def test_gradients_are_averaged_inside_nodes(node_size: Any) -> None:
    gang = Held(LocalGroup(4, hosts=["a", "a", "b", "b"]))
    trainable = make({**CONFIG, **post(start=0, node_size=node_size), "report_every": 3}, gang=gang)
    trainable.step()
    one, two, three, four = groups(trainable)
    assert (one, three) == (two, four)
    assert one != three
    trainable.step()
    trainable.step()
    trainable.step()  # 12 steps: an average was the last thing
    assert len(set(groups(trainable))) == 1


@pytest.mark.parametrize(("node_size", "start"), [(1, 0.0), (1, 0.5), (2, 0.5), (2, 0.0)])
def test_bytes_are_those_of_the_formula(node_size: int, start: float) -> None:
    options = {"period": 4, "node_size": node_size, "start": start}
    trainable = make({**CONFIG, **post(**options), "report_every": 24}, 4)
    expected = PostLocalSGD.bytes_per_step(count_parameters(trainable), 4, options)
    assert trainable.step()["bytes_per_step"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("start", [0.25, 0.5, 0.75])
def test_resume_equals_uninterrupted(start: float, tmp_path: Path) -> None:
    """The checkpoint is taken in the second phase, at the switch, and in the first."""
    check_resume({**CONFIG, **post(start=start, node_size=2), "dropout": 0.3, "norm": True}, tmp_path, 4)


def nodes(trainable: Any, parts: list[list[int]]) -> None:
    """Assert that workers of one node, and only they, have the same model and the same momenta."""
    found = groups(trainable)
    momenta = [worker_of(trainable, rank).optimizer.state_dict()["state"] for rank in range(len(found))]
    for part in parts:
        assert {found[rank] for rank in part} == {found[part[0]]}
        for rank in part[1:]:
            for key, state in momenta[part[0]].items():
                assert torch.equal(state["momentum_buffer"], momenta[rank][key]["momentum_buffer"])
    assert len(set(found)) == len(parts)


@pytest.mark.parametrize(
    ("node_size", "before", "after", "parts"),
    [
        (2, "aab", "aabb", [[0, 1], [2, 3]]),
        (2, "aabb", "aab", [[0, 1], [2]]),
        ("host", "aab", "aabb", [[0, 1], [2, 3]]),
        ("host", "abba", "aabb", [[0, 1], [2, 3]]),  # as many workers, placed anew
    ],
)
def test_a_checkpoint_of_other_nodes_leaves_the_workers_of_each_equal(
    node_size: Any, before: str, after: str, parts: list[list[int]], tmp_path: Path
) -> None:
    config = {**CONFIG, **post(start=0, node_size=node_size, period=8), "norm": True, "dropout": 0.2}
    first = make(config, gang=Held(LocalGroup(len(before), hosts=list(before))))
    first.step()
    first.save_checkpoint(tmp_path)
    second = make({**config, "report_every": 7}, gang=Held(LocalGroup(len(after), hosts=list(after))))
    second.load_checkpoint(tmp_path)
    nodes(second, parts)
    second.step()  # one step, to the middle of a round
    nodes(second, parts)


@pytest.mark.parametrize(("node_size", "step"), [(1, 3), (2, 3), (1, 14), (2, 14), (2, 15)])
def test_a_lost_worker_does_not_end_the_training(node_size: int, step: int) -> None:
    trainable = make({**CONFIG, **post(start=0.5, node_size=node_size), "events": {(1, step): die}}, 4)
    found = reports(trainable, 4)
    assert {report["workers"] for report in found} == {3, 4}
    assert found[-1]["workers"] == 4
    assert found[-1]["done"]
    assert len(set(groups(trainable))) == 1


def test_a_step_that_only_some_have_taken_does_not_part_the_replicas() -> None:
    """Worker 2 dies in the middle of the first phase: those that are left stay equal bit for bit."""
    trainable = make({**CONFIG, **post(start=1.0), "events": {(2, 2): die}}, 3)
    trainable.step()
    assert len(set(groups(trainable))) == 1
    trainable.step()  # one joins
    assert len(set(groups(trainable))) == 1
    momenta = [worker_of(trainable, rank).optimizer.state_dict()["state"][0]["momentum_buffer"] for rank in range(3)]
    assert all(torch.equal(momenta[0], other) for other in momenta)


@pytest.mark.slow
def test_between_processes_ddp_is_replaced_at_the_switch_and_survives_a_loss() -> None:
    gang = Gang("processes", 2)
    try:
        for node_size in (1, 2):
            config = {**CONFIG, **post(start=0.5, node_size=node_size)}
            trainable, threads = make(config, gang=gang), make(config)
            strategy = trainable.group._member._sessions[trainable._session].strategy
            assert isinstance(strategy.module, nn.parallel.DistributedDataParallel)
            assert reports(trainable, 4) == reports(threads, 4)
            assert isinstance(strategy.module, nn.parallel.DistributedDataParallel) == (node_size == 2)
            trainable.cleanup()
        # DDP loses its only peer in the middle of a backward pass: the other goes on alone
        trainable = make({**CONFIG, **post(start=1.0), "events": {(1, 8): die}}, gang=gang)
        trainable.replace_lost = False
        found = reports(trainable, 4)
        assert [report["workers"] for report in found] == [2, 1, 1, 1]
        assert found[-1]["done"]
    finally:
        gang.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 1.5}, "start is a number between 0 and 1, got 1.5"),
        ({"node_size": 0}, "node_size is a number of at least 1, got 0; or 'host'"),
        ({"node_size": 1.5}, "node_size is a whole number, got 1.5; or 'host'"),
        ({"node_size": "hosts"}, "node_size is a number of at least 1, got 'hosts'; or 'host'"),
        ({"period": 0}, "period is a whole number of steps"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PostLocalSGD(options)
