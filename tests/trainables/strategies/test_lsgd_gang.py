"""LSGD when workers go at speeds of their own, are lost, and join."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.trainables.strategies.test_lsgd import SLOW, config, lead, still, strategy
from tests.trainables.strategies.toys import Held, Toy, die, digest, make, models, reports, vectors, worker_of
from tune_platform.distributed import Cost, Gang, LocalGroup
from tune_platform.trainables.strategies.lsgd import LSGD


class Patient(Toy):
    """Processes may take long to start where the machine is busy; a dead one is noticed without a time-out."""

    collective_timeout_s = 120.0


def test_the_trigger_counts_the_steps_of_all() -> None:
    """Between exchanges lie exactly W period steps, each worker enters each exchange once, the slow one steps less."""
    found = []
    for _ in range(2):
        trainable = make({**config(period=4, asynchronous=True), "updates": 24, "report_every": 24}, 4, cost=SLOW)
        at: list[list[int]] = []
        for rank in range(4):
            each = strategy(trainable, rank)

            def noted(each: LSGD = each, begin: Any = each._begin_exchange, at: list[list[int]] = at) -> None:
                at.append([each.worker.place.worker, each.rounds, each.worker.updates])
                begin()

            each._begin_exchange = noted  # type: ignore[method-assign]
        report = trainable.step()
        steps = [worker_of(trainable, rank).updates for rank in range(4)]
        assert sum(steps) == 4 * 24
        assert report["updates"] == 24
        assert steps[3] < min(steps[:3])
        for exchange in range(6):
            taking_part = [entry for entry in at if entry[1] == exchange]
            assert sorted(entry[0] for entry in taking_part) == [0, 1, 2, 3]
            assert sum(entry[2] for entry in taking_part) == 4 * 4 * (exchange + 1)
        assert strategy(trainable).rounds == 6
        found.append((steps, [digest(model) for model in models(trainable)]))
    assert found[0] == found[1]


def test_where_answers_take_long_a_worker_asks_for_several_steps_at_once() -> None:
    """A quarter of a step an answer: asking before each step would take a fifth of the time."""
    cost = Cost(step_s=(1.0, 1.0, 1.0, 5.0), latency_s=0.25)
    trainable = make({**config(period=64, asynchronous=True), "updates": 128, "report_every": 128}, 4, cost=cost)
    counters = [strategy(trainable, rank)._counter for rank in range(4)]
    asked = [0] * 4
    for rank, counter in enumerate(counters):
        assert counter is not None

        def counted(question: Any, rank: int = rank, ask: Any = counter._request) -> Any:
            asked[rank] += 1
            return ask(question)

        counter._request = counted
    report = trainable.step()
    steps = [worker_of(trainable, rank).updates for rank in range(4)]
    assert sum(steps) == 4 * 128
    assert report["updates"] == 128
    assert strategy(trainable).rounds == 2
    assert sum(asked[1:]) < sum(steps[1:]) / 2
    assert steps[3] < min(steps[:3])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_worker_is_lost_and_another_joins(asynchronous: bool) -> None:
    group = LocalGroup(3)
    given = config(period=4, asynchronous=asynchronous)
    trainable = make({**given, "events": {(1, 5): lambda toy: group.kill(1)}}, 3, gang=Held(group))
    trainable.replace_lost = False
    first = trainable.step()
    assert (first["workers"], first["workers_lost"], first["updates"]) == (2, 1, 8)
    trainable.replace_lost = True
    second = trainable.step()
    assert (second["workers"], second["done"]) == (3, True)
    assert second["leader"] in (0, 2, 3)
    rounds = [strategy(trainable, rank).rounds for rank in range(3)]
    assert len(set(rounds)) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("group_size", [None, 2])
def test_a_leader_that_dies_before_its_broadcast_is_replaced_at_once(
    asynchronous: bool, group_size: int | None
) -> None:
    group = LocalGroup(4)
    given = still(pull=0.5, group_size=group_size, global_period=1, global_pull=0.5, asynchronous=asynchronous)
    trainable = make({**given, "report_every": 2, "updates": 2}, 4, gang=Held(group))
    trainable.replace_lost = False
    lead(trainable, 4.0, 3.0, 1.0, 2.0)
    leader = strategy(trainable, 2)
    gather = leader._gather

    def die_after_the_election() -> Any:
        found = gather()
        if leader.rounds == 1:
            group.kill(2)
        return found

    leader._gather = die_after_the_election  # type: ignore[method-assign]
    x = vectors(trainable)
    report = trainable.step()
    assert (report["workers"], report["workers_lost"]) == (3, 1)
    once = torch.stack([torch.lerp(row, x[2], 0.5) for row in x])
    twice = torch.stack([torch.lerp(once[rank], once[3], 0.5) for rank in (0, 1, 3)])  # 3 is the next best
    assert torch.allclose(vectors(trainable), twice, rtol=0, atol=1e-14)
    assert [strategy(trainable, rank).rounds for rank in range(3)] == [2, 2, 2]
    assert report["leader"] == 3
    assert report["updates_skipped"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_death_of_a_process_does_not_end_the_trial(asynchronous: bool) -> None:
    gang = Gang("processes", 3)
    try:
        # In its first step: asynchronously there may be no fifth before the others have done the work of all.
        given = {**config(period=4, asynchronous=asynchronous, group_size=2, global_period=8), "report_every": 40}
        trainable = make({**given, "updates": 80, "events": {(2, 0): die}}, 3, gang=gang, toy=Patient)
        first, second = trainable.step(), trainable.step()
        assert (first["workers"], first["workers_lost"], first["updates"]) == (2, 1, 40)
        assert (second["updates"], second["done"]) == (80, True)
    finally:
        gang.close()


@pytest.mark.slow
def test_threads_and_processes_give_the_same_numbers() -> None:
    found = []
    for kind in ("threads", "processes"):
        gang = Gang(kind, 3)
        try:
            # The mean of three differs in its last bit with the order; broadcasts do not.
            given = config(period=3, group_size=2, global_period=6, init="different", probe=True, evaluate="leader")
            found.append(reports(make(given, 3, gang=gang, toy=Patient), 2))
        finally:
            gang.close()
    assert found[0] == found[1]
