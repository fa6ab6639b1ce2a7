"""Local SGD: equal to data parallelism at H = 1, rounds, the inner state, and what becomes of lost workers."""

from __future__ import annotations

from collections.abc import Mapping
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
    worker_of,
)
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.averaging import optimizer_tensors
from tune_platform.trainables.strategies.local_sgd import LocalSGD

CONFIG: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "updates": 24, "report_every": 6}


def local(period: float = 4, **options: Any) -> dict[str, Any]:
    return {"strategy": {"name": "local_sgd", "period": period, **options}}


def inner(trainable: Any) -> list[Tensor]:
    """The inner optimizers' state, one vector a worker."""
    workers = [worker_of(trainable, rank) for rank in range(len(trainable.group.workers))]
    return [torch.cat([t.reshape(-1) for t in optimizer_tensors(worker.optimizer)]) for worker in workers]


@pytest.mark.parametrize("momentum", [{"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_a_period_of_one_is_data_parallelism_although_the_momenta_differ(momentum: dict[str, Any]) -> None:
    config = {**CONFIG, **momentum, "weight_decay": 1e-3}
    one, other = make({**config, **local(1)}, 4), make({**config, "strategy": "all_reduce"}, 4)
    reports(one, 4)
    reports(other, 4)
    assert (vectors(one)[0] - vectors(other)[0]).abs().max() <= 1e-6
    if momentum["momentum"]:
        assert not torch.allclose(inner(one)[0], inner(one)[1], atol=1e-4)


def test_a_period_of_one_is_not_data_parallelism_with_adam() -> None:
    config = {**CONFIG, "optimizer": "adamw"}
    one, other = make({**config, **local(1)}, 4), make({**config, "strategy": "all_reduce"}, 4)
    reports(one, 4)
    reports(other, 4)
    assert (vectors(one)[0] - vectors(other)[0]).abs().max() >= 1e-3


def test_one_worker_trains_as_if_alone() -> None:
    alone, one = make({**CONFIG, "strategy": "independent"}, 1), make({**CONFIG, **local()}, 1)
    reports(alone, 4)
    reports(one, 4)
    assert torch.equal(vectors(alone), vectors(one))


def test_workers_agree_after_each_period_and_only_then() -> None:
    trainable = make({**CONFIG, **local(4), "report_every": 1}, 3)
    for step in range(1, 13):
        before = vectors(trainable)
        trainable.step()
        agree = len({digest(model) for model in models(trainable)}) == 1
        assert agree == (step % 4 == 0), step
        assert not torch.equal(before, vectors(trainable))


def test_the_mean_of_the_workers_is_evaluated_and_nothing_changed_by_it() -> None:
    trainable = make({**CONFIG, **local(100), "report_every": 3, "norm": True}, 2)
    trainable.step()
    before = [digest(model) for model in models(trainable)]
    mean = make({**CONFIG, **local(3), "report_every": 3, "norm": True}, 2)
    # the same three steps, after which one averages in earnest and the other for the evaluation only
    assert mean.step()["evaluated"] == trainable._survive("evaluate")[0]["evaluated"]
    assert [digest(model) for model in models(trainable)] == before
    assert before[0] != before[1]


def test_the_last_step_closes_the_round() -> None:
    trainable = make({**CONFIG, **local(7)}, 2)
    reports(trainable, 4)
    assert len({digest(model) for model in models(trainable)}) == 1


def test_batch_norm_counts_are_not_averaged() -> None:
    trainable = make({**CONFIG, **local(6), "norm": True}, 2)
    trainable.step()
    one, other = (dict(model.named_buffers()) for model in models(trainable))
    assert torch.equal(one["1.running_var"], other["1.running_var"])
    assert one["1.num_batches_tracked"].dtype == torch.int64
    assert int(one["1.num_batches_tracked"]) == 6


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_inner_state(optimizer: str) -> None:
    config = {**CONFIG, "optimizer": optimizer}
    own = make({**config, **local(6)}, 2)
    own.step()
    assert not torch.equal(*inner(own))
    averaged = make({**config, **local(6, inner_state="average")}, 2)
    averaged.step()
    assert torch.equal(inner(averaged)[0], torch.stack(inner(own)).mean(0))
    assert torch.equal(*inner(averaged))
    reset = make({**config, **local(6, inner_state="reset")}, 2)
    reset.step()
    assert not worker_of(reset, 0).optimizer.state
    reset.step()
    assert [digest(model) for model in models(own)] != [digest(model) for model in models(reset)]


@pytest.mark.parametrize(("workers", "period"), [(2, 2), (3, 6), (4, 0.25)])
def test_bytes_are_those_of_the_formula(workers: int, period: float) -> None:
    trainable = make({**CONFIG, **local(period)}, workers)
    steps = {"period": period if period >= 1 else 6}
    expected = LocalSGD.bytes_per_step(count_parameters(trainable), workers, steps)
    assert trainable.step()["bytes_per_step"] == pytest.approx(expected, rel=1e-12)
    averaged = make({**CONFIG, **local(period, inner_state="average")}, workers)
    assert averaged.step()["bytes_per_step"] == pytest.approx(2 * expected, rel=1e-12)


@pytest.mark.parametrize("inner_state", ["local", "average", "reset"])
def test_resume_equals_uninterrupted(inner_state: str, tmp_path: Path) -> None:
    # the period does not divide that of the reports: the checkpoint is taken in the middle of a round
    check_resume({**CONFIG, **local(5, inner_state=inner_state), "dropout": 0.3, "norm": True}, tmp_path, 3)


@pytest.mark.parametrize("workers", [1, 3, 4])
def test_another_number_of_workers_goes_on_from_the_checkpoint(workers: int, tmp_path: Path) -> None:
    first = make({**CONFIG, **local(6)}, 2)
    reports(first, 2)
    first.save_checkpoint(tmp_path)
    second = make({**CONFIG, **local(6)}, workers)
    second.load_checkpoint(tmp_path)
    assert all(torch.equal(row, vectors(first)[0]) for row in vectors(second))
    assert reports(second, 2)[-1]["done"]


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_worker_is_left_out_of_the_average_and_another_joins(lost: int) -> None:
    trainable = make({**CONFIG, **local(6), "events": {(lost, 2): die}}, 3)
    first = trainable.step()
    assert (first["workers"], first["workers_lost"], first["updates"]) == (2, 1, 6)
    assert len({digest(model) for model in models(trainable)}) == 1
    second = trainable.step()
    assert (second["workers"], second["updates"]) == (3, 12)
    assert len({digest(model) for model in models(trainable)}) == 1
    assert reports(trainable, 2)[-1]["done"]


def test_a_round_that_a_death_left_open_is_closed_by_the_others() -> None:
    """Worker 2 dies at the step whose exchange the others already wait in: they average without it."""
    trainable = make({**CONFIG, **local(6), "events": {(2, 5): die}}, 3)
    report = trainable.step()
    assert (report["workers"], report["updates"], report["updates_skipped"]) == (2, 6, 0)
    other = make({**CONFIG, **local(100)}, 3)
    other.step()
    expected = vectors(other)[:2].mean(0)
    assert torch.allclose(vectors(trainable)[0], expected, atol=1e-7)
    assert len({digest(model) for model in models(trainable)}) == 1


class Frozen(Toy):
    """A model of which a part is not trained."""

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        model = super().build_model(config)
        next(model.parameters()).requires_grad_(False)
        return model


def test_only_what_is_trained_is_sent() -> None:
    trainable = make({**CONFIG, **local(6)}, 2, toy=Frozen)
    trained = count_parameters(trainable) - 160
    assert trainable.step()["bytes_per_step"] == LocalSGD.bytes_per_step(trained, 2, {"period": 6})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": 0}, "period is a whole number of steps, or a share"),
        ({"period": 2.5}, "period is a whole number of steps, or a share"),
        ({"period": -1}, "period is a number of at least 0"),
        ({"period": "often"}, "period is a number of at least 0, got 'often'"),
        ({"inner_state": "avrage"}, "inner_state is one of local, average, reset, got 'avrage'.*average"),
        ({"perod": 3}, "has no option 'perod'.*period"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        LocalSGD(options)


def test_bytes_of_a_share_of_an_unknown_training_are_not_made_up() -> None:
    with pytest.raises(SpecError, match="depend on 'updates'"):
        LocalSGD.bytes_per_step(100, 2, {"period": 0.1})
