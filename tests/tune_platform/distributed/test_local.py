from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from tests.tune_platform.distributed.recipes import Exerciser
from tune_platform.distributed import Cost, LocalGroup
from tune_platform.distributed.communicator import PeerLost
from tune_platform.distributed.local import LocalCluster, LocalCommunicator


def communicators(cluster: LocalCluster) -> list[LocalCommunicator]:
    return [LocalCommunicator(cluster, range(cluster.size), rank) for rank in range(cluster.size)]


def run(cluster: LocalCluster, work: Callable[[LocalCommunicator], Any]) -> dict[int, Any]:
    comms = communicators(cluster)
    return cluster.run({rank: partial(work, comm) for rank, comm in enumerate(comms)})


def test_each_worker_has_a_generator_of_its_own_and_nothing_global_changes() -> None:
    def draw(comm: LocalCommunicator) -> list[float]:
        torch.manual_seed(comm.rank)
        drawn = []
        for _ in range(3):
            comm.barrier()  # the others draw meanwhile
            drawn.append(float(torch.rand(())))
        return drawn

    before = torch.get_rng_state()
    got = run(LocalCluster(3), draw)
    assert torch.equal(before, torch.get_rng_state())
    for rank in range(3):
        torch.manual_seed(rank)
        assert got[rank] == [float(torch.rand(())) for _ in range(3)]
    torch.set_rng_state(before)


def test_the_virtual_clock_waits_for_the_slowest_and_charges_the_links() -> None:
    cost = Cost(step_s=(1.0, 2.0), latency_s=0.5, bytes_per_s=100.0)

    def work(comm: LocalCommunicator) -> tuple[float, float, float]:
        for _ in range(3):
            comm.tick()
        comm.all_reduce(torch.ones(25))  # 100 bytes: each of two workers sends 2 (W - 1) / W of them
        return comm.clock(), comm.traffic.waiting_s, comm.traffic.communication_s

    got = run(LocalCluster(2, cost), work)
    assert got[0] == pytest.approx((6.0 + 0.5 + 1.0, 3.0, 1.5))
    assert got[1] == pytest.approx((6.0 + 0.5 + 1.0, 0.0, 1.5))


def test_with_a_centre_the_fast_take_more_turns() -> None:
    asked: list[int] = []

    def note(rank: int, given: torch.Tensor) -> torch.Tensor:
        asked.append(rank)
        return torch.zeros(1)

    def work(comm: LocalCommunicator) -> None:
        request = comm.open_centre(note)
        for _ in range(4):
            request(torch.zeros(1))
            comm.tick()

    run(LocalCluster(2, Cost(step_s=(1.0, 3.0))), work)
    # At 0 both; worker 0 again at 1, 2 and 3, where it has the lower number; then worker 1 at 3, 6 and 9.
    assert asked == [1, 0, 0, 0, 0, 1, 1, 1]
    first, asked[:] = list(asked), []
    run(LocalCluster(2, Cost(step_s=(1.0, 3.0))), work)
    assert asked == first


def test_without_a_cost_the_clock_is_what_a_worker_really_ran() -> None:
    def work(comm: LocalCommunicator) -> float:
        started = comm.clock()
        for _ in range(20):
            if comm.rank == 0:
                torch.randn(200, 200) @ torch.randn(200, 200)
            comm.barrier()
        return comm.clock() - started

    got = run(LocalCluster(2), work)
    assert got[0] > got[1] > 0


def test_a_mismatch_is_an_error_and_not_a_hang() -> None:
    def different(comm: LocalCommunicator) -> None:
        if comm.rank == 0:
            comm.all_reduce(torch.ones(2))
        else:
            comm.broadcast(torch.ones(2), 0)

    got = run(LocalCluster(2), different)
    assert isinstance(got[0], PeerLost)
    assert "different collectives" in str(got[1])

    def one_leaves(comm: LocalCommunicator) -> None:
        if comm.rank == 0:
            comm.barrier()

    assert isinstance(run(LocalCluster(3), one_leaves)[0], PeerLost)

    def in_parts(comm: LocalCommunicator) -> None:
        comm.subgroup([[0, 1], [2]] if comm.rank < 2 else [[0], [1, 2]]).barrier()

    got = run(LocalCluster(3), in_parts)
    assert isinstance(got[2], PeerLost)


def test_killing_a_worker_frees_those_that_wait_for_it() -> None:
    group = LocalGroup(3)
    group.open("test", Exerciser)
    group.kill(1)
    answers = group.call("test", "collectives")
    assert [(answer.worker, answer.lost, answer.broken) for answer in answers] == [
        (0, False, True),
        (1, True, False),
        (2, False, True),
    ]
    assert group.workers == [0, 2]
    group.regroup()
    assert [answer.value["sum"] for answer in group.call("test", "collectives")] == [[1.0, 3.0, 5.0, 7.0]] * 2
    assert group.refill() == 1
    assert [answer.value for answer in group.call("test", "who")] == [(0, 0, False), (2, 1, False), (3, 2, True)]
