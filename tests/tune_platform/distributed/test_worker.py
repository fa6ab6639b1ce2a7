"""What a worker carries over: slot, bytes, rates. Losses, replacements, clones, other numbers of workers."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.strategies.toys import Held, Toy, check_resume, die, make, models, reports, worker_of
from tune_platform.distributed import Cost, Gang, LocalGroup
from tune_platform.distributed.worker import load_optimizer, load_scheduler

CONFIG: dict[str, Any] = {"strategy": {"name": "local_sgd", "period": 4}, "updates": 64, "report_every": 8}


def slots(trainable: Any) -> list[tuple[int, int]]:
    found = [worker_of(trainable, rank).position.data for rank in range(len(trainable.group.workers))]
    return [(data.rank, data.world_size) for data in found]


def test_a_replacement_takes_the_data_of_the_one_that_was_lost(tmp_path: Path) -> None:
    trainable = make({**CONFIG, "events": {(1, 3): die}}, 3)
    trainable.step()
    assert slots(trainable) == [(0, 3), (2, 3)]
    trainable.step()
    assert slots(trainable) == [(0, 3), (2, 3), (1, 3)]
    trainable.save_checkpoint(tmp_path)
    expected = reports(trainable, 2)
    loaded = make(CONFIG, 3)
    loaded.load_checkpoint(tmp_path)
    assert slots(loaded) == [(0, 3), (2, 3), (1, 3)]
    assert reports(loaded, 2) == expected
    for ours, theirs in zip(models(loaded), models(trainable), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    loaded.group.kill(1)  # the worker in slot 2, not in 1
    reports(loaded, 2)
    assert slots(loaded) == [(0, 3), (1, 3), (2, 3)]


def test_a_recipe_may_copy_the_model_that_it_trains() -> None:
    trainable = make(CONFIG, 2)
    trainable.step()
    model = models(trainable)[0]
    copied = copy.deepcopy(model)
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), model.parameters(), strict=True))
    trainable.step()
    assert not all(torch.equal(a, b) for a, b in zip(copied.parameters(), model.parameters(), strict=True))


def test_what_a_gang_has_gone_through_is_nothing_to_the_next_trial() -> None:
    expected = reports(make(CONFIG, 3), 2)
    gang = Gang("threads", 3)
    first = make({**CONFIG, "events": {(1, 3): die}}, 3, gang=gang)
    reports(first, 2)
    first.cleanup()
    second = make(CONFIG, 3, gang=gang)
    assert second.group.workers == [0, 2, 3]
    assert reports(second, 2) == expected


def test_bytes_of_workers_that_are_gone_stay_sent(tmp_path: Path) -> None:
    trainable = make({**CONFIG, "events": {(1, 20): die}}, 3)
    trainable.replace_lost = False
    sent = [trainable.step()["bytes_sent"] for _ in range(5)]
    assert sent == sorted(sent)
    parameters = 4 * sum(p.numel() for p in models(trainable)[0].parameters())
    assert sent[1] == pytest.approx(2 * 2 * parameters * 4, rel=0.05)  # four exchanges of three workers
    assert sent[4] - sent[3] == pytest.approx(2 * 1 * parameters * 2, rel=0.1)  # two of two
    trainable.save_checkpoint(tmp_path)
    assert make_and_load(tmp_path, 2).step()["bytes_sent"] >= sent[4]


@pytest.mark.parametrize("workers", [1, 4])
def test_bytes_go_on_with_another_number_of_workers(workers: int, tmp_path: Path) -> None:
    first = make(CONFIG, 2)
    reports(first, 2)
    first.save_checkpoint(tmp_path)
    before = sum(worker_of(first, rank).bytes_total() for rank in range(2))
    second = make_and_load(tmp_path, workers)
    report = second.step()
    assert report["bytes_sent"] == pytest.approx(before + 8 * report["bytes_per_step"], rel=0.02)


def make_and_load(directory: Path, workers: int) -> Any:
    trainable = make(CONFIG, workers)
    trainable.load_checkpoint(directory)
    return trainable


def test_the_loss_is_of_the_steps_that_were_taken() -> None:
    """Asynchronously a slow worker may have come to no step between two reports."""
    config = {**CONFIG, "strategy": {"name": "easgd", "asynchronous": True, "period": 4}}
    found = reports(make(config, 2, cost=Cost(step_s=(1.0, 50.0))), 3)
    assert all(math.isfinite(report["train_loss"]) for report in found)


def test_a_straggler_shows_among_two_workers() -> None:
    report = make({**CONFIG, "strategy": "independent"}, 2, cost=Cost(step_s=(1.0, 20.0))).step()
    assert (report["slowest_worker"], report["slowest_ratio"]) == (1, pytest.approx(20.0))


class Unbuildable(Toy):
    """Whose replacement finds no data."""

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Any:
        if config.get("broken", {}).get("disk"):
            raise OSError("disk is not mounted here")
        return super().build_data(config, rank, world_size)


def test_a_replacement_that_cannot_begin_does_not_end_the_training(caplog: pytest.LogCaptureFixture) -> None:
    disk: dict[str, Any] = {}
    trainable = make({**CONFIG, "events": {(1, 3): die}, "broken": disk}, 3, toy=Unbuildable)
    assert trainable.step()["workers"] == 2
    disk["disk"] = True
    found = reports(trainable, 3)
    assert [report["workers"] for report in found] == [2, 2, 2]
    told = [record.getMessage() for record in caplog.records if "disk is not mounted" in record.getMessage()]
    assert len(told) == 1


def test_an_evaluation_may_take_longer_than_a_collective(monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = make(CONFIG, 2)
    trainable.evaluation_timeout_s = 1234.0
    patience: dict[str, Any] = {}
    call = trainable.group.call

    def noted(session: str, method: str, *args: Any, patience_s: float | None = None) -> Any:
        patience[method] = patience_s
        return call(session, method, *args, patience_s=patience_s)

    monkeypatch.setattr(trainable.group, "call", noted)
    trainable.step()
    assert patience == {"run": None, "evaluate": 1234.0}


# schedules


def schedule(kind: str, optimizer: torch.optim.Optimizer) -> Any:
    rates = torch.optim.lr_scheduler
    if kind == "lambda":
        return rates.LambdaLR(optimizer, lambda step: 0.5 if step >= 30 else 1.0)
    if kind == "cosine":
        return rates.CosineAnnealingLR(optimizer, 40)
    parts: list[Any] = [rates.LinearLR(optimizer, 0.1, total_iters=5), rates.ExponentialLR(optimizer, 0.9)]
    return rates.SequentialLR(optimizer, parts, milestones=[5])


def rates_of(kind: str, lr: float, steps: int, then: float | None = None) -> list[float]:
    """Return the rate at each of 20 steps; after `steps` of them the state is loaded into a training at `then`."""

    def begin(rate: float) -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], rate)
        return optimizer, schedule(kind, optimizer)

    optimizer, scheduler = begin(lr)
    found = []
    for step in range(20):
        if step == steps and then is not None:
            states = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = begin(then)
            load_optimizer(optimizer, states[0])
            load_scheduler(scheduler, states[1])
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("kind", ["lambda", "cosine", "sequential"])
def test_a_clone_keeps_its_own_rate_and_the_schedule_goes_on(kind: str) -> None:
    expected = rates_of(kind, 0.1, 0)
    found = rates_of(kind, 0.1, 10, then=0.02)
    assert found[:10] == expected[:10]
    assert found[10:] == pytest.approx([0.2 * rate for rate in expected[10:]], rel=1e-6)


@pytest.mark.parametrize("kind", ["lambda", "cosine", "sequential"])
@pytest.mark.parametrize("steps", [3, 7, 13])
def test_the_same_rate_goes_on_bit_for_bit(kind: str, steps: int) -> None:
    assert rates_of(kind, 0.1, steps, then=0.1) == rates_of(kind, 0.1, 0)


class Eager:
    """Data that keep their place, and draw from torch's generator when an iterator is made, as a DataLoader does."""

    def __init__(self, batches: Any) -> None:
        self._batches = list(batches)
        self._at = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Any:
        torch.rand(3)
        return self._left()

    def _left(self) -> Any:
        while self._at < len(self._batches):
            self._at += 1
            yield self._batches[self._at - 1]
        self._at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self._at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._at = state["at"]


class OwnPlace(Toy):
    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Any:
        return Eager(super().build_data(config, rank, world_size))


def test_resume_with_data_that_keep_their_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        check_resume.__globals__, "make", lambda config, n, **more: make(config, n, toy=OwnPlace, **more)
    )
    check_resume({**CONFIG, "dropout": 0.5, "report_every": 5}, tmp_path)


# processes


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", ["downpour", "codistillation", {"name": "lsgd", "asynchronous": True, "period": 4}]
)
def test_a_warm_gang_holds_no_more_after_many_trials(strategy: Any) -> None:
    gang = Gang("processes", 2)
    held = []
    try:
        for _ in range(6):
            trainable = make({"strategy": strategy, "updates": 8, "report_every": 8}, 2, gang=gang)
            trainable.step()
            trainable.cleanup()
            held.append(len(list(Path("/proc/self/fd").iterdir())))
    finally:
        gang.close()
    assert held[-1] <= held[0] + 8  # 5 to 10 a trial else; the last one's may still be closing


class Napping(Toy):
    """Evaluates slowly on any worker."""

    collective_timeout_s = 10.0

    def evaluate(self, model: torch.nn.Module) -> dict[str, Any]:
        time.sleep(15)
        return super().evaluate(model)


@pytest.mark.slow
def test_a_slow_evaluation_on_another_worker_is_waited_for() -> None:
    gang = Gang("processes", 2)
    try:
        strategy = {"name": "codistillation", "models": 2, "evaluate_model": 1}
        report = make({**CONFIG, "strategy": strategy}, 2, gang=gang, toy=Napping).step()
        assert (report["workers"], report["workers_lost"]) == (2, 0)
        assert "accuracy" in report
    finally:
        gang.close()


def test_a_held_gang_of_one_has_one_slot() -> None:
    trainable = make(CONFIG, 1, gang=Held(LocalGroup(1)))
    trainable.step()
    assert slots(trainable) == [(0, 1)]
