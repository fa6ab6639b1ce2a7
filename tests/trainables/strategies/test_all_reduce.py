"""Synchronous data parallelism: replicas equal bit for bit, one worker with a larger batch up to rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.strategies.toys import (
    Toy,
    check_resume,
    count_parameters,
    die,
    digest,
    make,
    models,
    reports,
    vectors,
)
from tune_platform.distributed import Gang, PeerLost
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.all_reduce import AllReduce

CONFIG: dict[str, Any] = {"strategy": "all_reduce", "lr": 0.1, "momentum": 0.9, "updates": 20, "report_every": 5}


class Halved(Toy):
    """A model with a layer that only the second half of the steps uses, and one that none does."""

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.always, self.later, self.never = nn.Linear(20, 2), nn.Linear(20, 2), nn.Linear(20, 2)
                self.steps = 0

            def forward(self, x: Tensor) -> Tensor:
                self.steps += self.training
                y: Tensor = self.always(x)
                return y + self.later(x) if self.steps > 5 else y

        return Model()


@pytest.fixture(scope="module")
def processes() -> Iterator[Gang]:
    gang = Gang("processes", 2)
    yield gang
    gang.close()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_replicas_are_equal_bit_for_bit(optimizer: str) -> None:
    trainable = make({**CONFIG, "optimizer": optimizer, "report_every": 1}, workers=3)
    before = vectors(trainable)
    assert torch.equal(before[0], before[1])
    for _ in range(6):
        trainable.step()
        assert len({digest(model) for model in models(trainable)}) == 1
    assert not torch.equal(before[0], vectors(trainable)[0])


@pytest.mark.parametrize(
    ("optimizer", "double", "tolerance"), [("sgd", False, 1e-6), ("adamw", False, 1e-6), ("sgd", True, 1e-14)]
)
def test_equals_one_worker_with_a_larger_batch(optimizer: str, double: bool, tolerance: float) -> None:
    config = {**CONFIG, "optimizer": optimizer, "double": double, "weight_decay": 1e-3}
    four, one = make({**config, "batch_size": 4}, workers=4), make({**config, "batch_size": 16}, workers=1)
    reports(four, 4)
    reports(one, 4)
    assert (vectors(four)[0] - vectors(one)[0]).abs().max() <= tolerance


def test_processes_equal_threads(processes: Gang, tmp_path: Path) -> None:
    config = {**CONFIG, "dropout": 0.2, "norm": True}
    threads, gang = make(config), make(config, gang=processes)
    assert reports(threads, 2) == reports(gang, 2)
    gang.save_checkpoint(tmp_path)
    resumed = make(config, gang=processes)
    resumed.load_checkpoint(tmp_path)
    assert reports(threads, 2) == reports(resumed, 2)


def test_ddp_is_underneath_and_says_how_long_it_waited(processes: Gang) -> None:
    trainable = make({**CONFIG, "report_every": 20}, gang=processes)
    assert isinstance(worker_zero(trainable).strategy.module, nn.parallel.DistributedDataParallel)
    report = trainable.step()
    assert report["bytes_per_step"] == AllReduce.bytes_per_step(186, 2, {})
    assert report["communication_s"] > 0


def worker_zero(trainable: Any) -> Any:
    return trainable.group._member._sessions[trainable._session]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_parameters_that_not_every_step_uses(kind: str, processes: Gang) -> None:
    config = {**CONFIG, "strategy": {"name": "all_reduce", "find_unused": True}}
    trainable = make(config, gang=processes if kind == "processes" else "threads", toy=Halved)
    assert reports(trainable, 4)[-1]["done"]


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_bytes_are_those_of_the_formula(workers: int) -> None:
    trainable = make(CONFIG, workers)
    expected = AllReduce.bytes_per_step(count_parameters(trainable), workers, {})
    assert trainable.step()["bytes_per_step"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("config", [{"dropout": 0.3}, {"optimizer": "adamw", "norm": True}])
def test_resume_equals_uninterrupted(config: dict[str, Any], tmp_path: Path) -> None:
    check_resume({**CONFIG, **config}, tmp_path)
    assert (tmp_path / "worker-00000.pt").stat().st_size > 1.2 * (tmp_path / "worker-00001.pt").stat().st_size


@pytest.mark.parametrize("workers", [1, 3])
def test_another_number_of_workers_goes_on_from_the_checkpoint(workers: int, tmp_path: Path) -> None:
    first = make(CONFIG, 2)
    reports(first, 2)
    first.save_checkpoint(tmp_path)
    second = make(CONFIG, workers)
    second.load_checkpoint(tmp_path)
    assert all(torch.equal(row, vectors(first)[0]) for row in vectors(second))
    assert reports(second, 2)[-1]["done"]


def test_batch_norm_statistics_are_averaged_and_counts_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def statistics() -> tuple[Tensor, Tensor]:
        trainable = make({**CONFIG, "norm": True}, workers=2)
        trainable.step()
        buffers = [dict(model.named_buffers()) for model in models(trainable)]
        assert all(int(each["1.num_batches_tracked"]) == 5 for each in buffers)
        return buffers[0]["1.running_mean"], buffers[1]["1.running_mean"]

    one, other = statistics()
    assert torch.equal(one, other)
    monkeypatch.setattr("tune_platform.trainables.strategies.data_parallel.average_buffers", lambda *given: None)
    own, others = statistics()
    assert not torch.equal(own, others)
    assert torch.equal(one, (own + others) / 2)


def test_replicas_that_differ_are_noticed() -> None:
    def disturb(toy: Toy) -> None:
        with torch.no_grad():
            next(toy.worker.model.parameters()).add_(1e-6)

    trainable = make({**CONFIG, "events": {(1, 3): disturb}})
    with pytest.raises(RuntimeError, match="no longer equal"):
        trainable.step()


def test_a_training_that_diverges_is_not_mistaken_for_replicas_that_differ() -> None:
    trainable = make({**CONFIG, "lr": 1e38})
    reports(trainable, 4)
    assert not vectors(trainable).isfinite().all()


def test_the_loss_of_a_worker_ends_the_attempt() -> None:
    trainable = make({**CONFIG, "events": {(1, 7): die}}, workers=3)
    trainable.step()
    with pytest.raises(PeerLost, match="needs all of its workers"):
        trainable.step()


@pytest.mark.slow
def test_the_loss_of_a_process_ends_the_attempt_and_the_checkpoint_goes_on(tmp_path: Path) -> None:
    gang = Gang("processes", 2)
    try:
        trainable = make({**CONFIG, "events": {(1, 12): die}}, gang=gang)
        expected = reports(make(CONFIG), 4)
        assert reports(trainable, 2) == expected[:2]
        trainable.save_checkpoint(tmp_path)
        with pytest.raises(PeerLost, match="needs all of its workers"):
            trainable.step()
        again = make(CONFIG, gang=gang)
        again.load_checkpoint(tmp_path)
        assert reports(again, 2) == expected[2:]
    finally:
        gang.close()


def fail(toy: Toy) -> None:
    raise ValueError("a mistake in the loss")


class Unhurried(Toy):
    """Whoever waits for the time-out waits longer than a test may take."""

    collective_timeout_s = 300.0


@pytest.mark.slow
@pytest.mark.timeout(100)
@pytest.mark.parametrize("name", ["all_reduce", "post_local_sgd", "codistillation", "local_sgd"])
def test_a_mistake_on_one_worker_frees_the_others_at_once(name: str) -> None:
    """DDP must not keep the connections open that the others wait on."""
    gang = Gang("processes", 4 if name == "codistillation" else 2)  # two in each group, with a DDP of their own
    try:
        trainable = make({**CONFIG, "strategy": name, "events": {(1, 3): fail}}, gang=gang, toy=Unhurried)
        with pytest.raises(RuntimeError, match=r"worker 1 of .*: ValueError: a mistake in the loss"):
            trainable.step()
    finally:
        gang.close()


@pytest.mark.parametrize("option", ["find_unused", "static_graph"])
def test_options_are_checked(option: str) -> None:
    with pytest.raises(SpecError, match=rf"'all_reduce': {option} is true or false, got 'yes'"):
        AllReduce({option: "yes"})
    with pytest.raises(SpecError, match="has no option 'period'"):
        AllReduce({"period": 3})
