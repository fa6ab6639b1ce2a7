from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.strategies.toys import (
    Held,
    Toy,
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
from tune_platform.distributed import Cost, Gang, LocalGroup
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.downpour import Downpour

CONFIG = {"lr": 0.05, "updates": 24, "report_every": 12, "batch_size": 8}


class Patient(Toy):
    """Processes may take long to start where the machine is busy; a dead one is noticed without a time-out."""

    collective_timeout_s = 120.0


def config(**options: Any) -> dict[str, Any]:
    return {**CONFIG, "strategy": {"name": "downpour", **options}}


@pytest.mark.parametrize("period", [1, 3, 7])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_one_worker_alone_is_plain_training(period: int, asynchronous: bool) -> None:
    alone = make({**CONFIG, "momentum": 0.9, "strategy": "independent"}, 1)
    server = make({**config(period=period, asynchronous=asynchronous), "momentum": 0.9}, 1)
    reports(alone, 2)
    reports(server, 2)
    assert torch.allclose(vectors(alone), vectors(server), rtol=0, atol=1e-6)


def test_together_with_period_1_the_updates_of_all_add_up() -> None:
    """One step is one of a batch as large as all of theirs, at W times the rate."""
    together = make({**config(period=1, asynchronous=False), "updates": 6, "report_every": 6, "double": True}, 2)
    whole = make({**CONFIG, "lr": 0.1, "updates": 6, "report_every": 6, "double": True, "strategy": "all_reduce"}, 2)
    together.step()
    whole.step()
    assert torch.allclose(vectors(together), vectors(whole), rtol=0, atol=1e-12)
    assert torch.equal(vectors(together)[0], vectors(together)[1])


def test_what_is_not_pushed_yet_is_not_in_the_server() -> None:
    trainable = make({**config(period=5, asynchronous=False), "updates": 14, "report_every": 7}, 2)
    trainable.step()  # pushed at 5
    server = worker_of(trainable, 0).strategy.centre
    assert not torch.equal(vectors(trainable)[0], server)
    assert torch.equal(worker_of(trainable, 1).strategy._fetched, server)


def test_asynchronously_each_fetches_what_the_others_pushed_before() -> None:
    trainable = make({**config(period=1), "updates": 1, "report_every": 1, "double": False}, 3, cost=Cost())
    start = worker_of(trainable, 0).strategy.centre.clone()
    trainable.step()
    x, server = vectors(trainable), worker_of(trainable, 0).strategy.centre
    assert torch.equal(x[2], server)  # the last to come has all of it
    first, second = x[0] - start, x[1] - x[0]
    assert first.norm() > 0
    assert second.norm() > 0
    assert not torch.equal(x[0], x[2])


def test_bytes_are_those_of_the_formula() -> None:
    for asynchronous in (False, True):
        trainable = make({**config(period=3, asynchronous=asynchronous)}, 3)
        n = count_parameters(trainable)
        expected = Downpour.bytes_per_step(n, 3, {"period": 3, "asynchronous": asynchronous})
        more = 2 * 8 / 12 if asynchronous else 0  # to hear that the run is over
        asked = 2 * 8 if asynchronous else 0  # before each step, at most
        assert expected - asked - 1e-9 <= trainable.step()["bytes_per_step"] <= expected + more + 1e-9
        assert expected == pytest.approx(8 * 2 * ((n + 1) / 3 + 1) if asynchronous else 8 * 2 * n / 3)


def test_resume_equals_uninterrupted(tmp_path: Path) -> None:
    given = {**config(period=3, asynchronous=False), "momentum": 0.9, "dropout": 0.2, "updates": 100, "report_every": 5}
    check_resume(given, tmp_path)


def test_the_virtual_clock_makes_it_repeatable() -> None:
    found = []
    for _ in range(2):
        trainable = make(config(period=2), 4, cost=Cost(step_s=(1, 1, 1, 5), latency_s=0.1))
        report = trainable.step()
        steps = [worker_of(trainable, rank).updates for rank in range(4)]
        assert steps[0] == 12
        assert all(10 <= count <= 12 for count in steps[1:3])  # their requests take time, worker 0's do not
        assert steps[3] in (3, 4)  # it asks every 10 s whether the run is over
        found.append((report["evaluated"], [digest(model) for model in models(trainable)]))
    assert found[0] == found[1]


def test_the_loss_of_a_worker_loses_what_it_had_not_pushed() -> None:
    group = LocalGroup(3)
    given = {**config(period=4), "events": {(2, 6): lambda toy: group.kill(2)}}
    trainable = make(given, 3, gang=Held(group))
    first = trainable.step()
    assert (first["workers"], first["workers_lost"]) == (2, 1)
    server = worker_of(trainable, 0).strategy.centre.clone()
    trainable._replace()
    assert torch.equal(vectors(trainable)[2], server)
    second = trainable.step()
    assert (second["workers"], second["done"]) == (3, True)


@pytest.mark.slow
def test_the_death_of_a_process_does_not_end_the_trial() -> None:
    gang = Gang("processes", 3)
    try:
        # In its first step: there may be no fifth before another worker has come to the end of the run.
        trainable = make({**config(period=2), "events": {(1, 0): die}}, 3, gang=gang, toy=Patient)
        first, second = trainable.step(), trainable.step()
        assert (first["workers"], first["workers_lost"]) == (2, 1)
        assert second["done"]
    finally:
        gang.close()


def test_mistakes() -> None:
    with pytest.raises(SpecError, match="has no option 'init'"):  # all begin at the server's parameters
        make(config(init="different"), 2)
    with pytest.raises(SpecError, match="period is a whole number of steps"):
        make(config(period=1.5), 2)
