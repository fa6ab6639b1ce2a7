"""DiLoCo: torch's Nesterov SGD on the anchor, the cases in which it is something simpler, and lost workers."""

from __future__ import annotations

import math
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
    means_of,
    models,
    reports,
    vectors,
    worker_of,
)
from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.diloco import DiLoCo

CONFIG: dict[str, Any] = {"optimizer": "adamw", "lr": 0.01, "updates": 24, "report_every": 6}


def outer(**options: Any) -> dict[str, Any]:
    return {"strategy": {"name": "diloco", "period": 6, **options}}


@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.5), (0.3, 0.0)])
def test_the_outer_step_is_that_of_torch(lr: float, momentum: float) -> None:
    trainable = make({**CONFIG, "double": True, **outer(lr=lr, momentum=momentum)}, 3)
    theta = nn.Parameter(vectors(trainable)[0].clone())
    optimizer = torch.optim.SGD([theta], lr=lr, momentum=momentum, nesterov=momentum > 0)
    means = means_of(trainable)
    for number in range(4):
        trainable.step()
        theta.grad = theta.detach() - means[number]  # old minus new
        optimizer.step()
        assert torch.allclose(vectors(trainable)[0], theta.detach(), atol=1e-13, rtol=0)


def test_it_descends() -> None:
    """New minus old with a descending optimizer would be ascent."""
    found = reports(make({**CONFIG, **outer(), "lr": 0.003, "updates": 120, "report_every": 30}, 2), 4)
    losses = [report["train_loss"] for report in found]
    assert losses[-1] < 0.5 * losses[0]


def test_workers_are_equal_bit_for_bit_after_each_round() -> None:
    trainable = make({**CONFIG, **outer(), "report_every": 2}, 3)
    for report in range(1, 7):
        trainable.step()
        assert (len({digest(model) for model in models(trainable)}) == 1) == (report % 3 == 0)


def test_with_one_worker_and_no_momentum_it_is_plain_training_bit_for_bit() -> None:
    one, alone = make({**CONFIG, **outer(lr=1, momentum=0)}, 1), make({**CONFIG, "strategy": "independent"}, 1)
    reports(one, 4)
    reports(alone, 4)
    assert torch.equal(vectors(one), vectors(alone))
    with_momentum = make({**CONFIG, **outer(lr=1, momentum=0.5)}, 1)
    reports(with_momentum, 4)
    assert not torch.equal(vectors(with_momentum), vectors(alone))


def test_without_momentum_it_is_local_sgd_and_slowmo_bit_for_bit() -> None:
    found = []
    for strategy in (
        {"name": "diloco", "lr": 1, "momentum": 0}, {"name": "slowmo", "lr": 1, "momentum": 0}, {"name": "local_sgd"}
    ):  # fmt: skip
        trainable = make({**CONFIG, "strategy": {**strategy, "period": 6}}, 3)
        reports(trainable, 4)
        found.append(vectors(trainable))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_period_of_one_with_plain_sgd_is_data_parallelism() -> None:
    config = {**CONFIG, "optimizer": "sgd", "momentum": 0.0, "lr": 0.1}
    one = make({**config, **outer(period=1, lr=1, momentum=0)}, 4)
    other = make({**config, "strategy": "all_reduce"}, 4)
    reports(one, 4)
    reports(other, 4)
    assert (vectors(one)[0] - vectors(other)[0]).abs().max() <= 1e-6


def test_the_inner_state_is_kept_and_weight_decay_is_not_the_outer_optimizers() -> None:
    trainable = make({**CONFIG, **outer()}, 2)
    reports(trainable, 2)
    states = worker_of(trainable, 0).optimizer.state.values()
    assert {int(state["step"]) for state in states} == {12}
    still = make({**CONFIG, "optimizer": "sgd", "lr": 0.0, "weight_decay": 0.5, **outer()}, 2)
    before = vectors(still)
    reports(still, 4)
    assert torch.equal(vectors(still), before)


@pytest.mark.parametrize("name", ["diloco", "slowmo", "local_sgd"])
def test_the_inner_schedule_counts_inner_steps_over_all_rounds(name: str) -> None:
    rates: list[float] = []

    class Cosine(Toy):
        def build_scheduler(self, config: Mapping[str, Any], optimizer: torch.optim.Optimizer, total: int) -> Any:
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            if self.worker.comm.rank == 1:
                rates.append(float(self.worker.optimizer.param_groups[0]["lr"]))
            return super().loss(model, batch)

    trainable = make({**CONFIG, "strategy": {"name": name, "period": 5}}, 2, toy=Cosine)
    reports(trainable, 4)
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 24)) / 2 for step in range(24)])


def test_first_step_moves_as_far_as_is_documented() -> None:
    trainable = make({**CONFIG, **outer()}, 2)
    before = vectors(trainable)[0]
    means = means_of(trainable)
    trainable.step()
    assert torch.allclose(vectors(trainable)[0] - before, 1.33 * (means[0] - before), atol=1e-6)


def test_bytes_are_those_of_the_formula() -> None:
    trainable = make({**CONFIG, **outer()}, 4)
    expected = DiLoCo.bytes_per_step(count_parameters(trainable), 4, {"period": 6})
    assert trainable.step()["bytes_per_step"] == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(8 * 186 * 3 / 6)


@pytest.mark.parametrize("extra", [{"dropout": 0.3}, {"norm": True}])
def test_resume_equals_uninterrupted(extra: dict[str, Any], tmp_path: Path) -> None:
    check_resume({**CONFIG, **outer(period=5), **extra}, tmp_path, 3)


def test_another_number_of_workers_goes_on_from_the_anchor(tmp_path: Path) -> None:
    first = make({**CONFIG, **outer(period=4)}, 2)
    reports(first, 2)
    first.save_checkpoint(tmp_path)
    second = make({**CONFIG, **outer(period=4)}, 4)
    second.load_checkpoint(tmp_path)
    anchors = [worker_of(second, rank).strategy._anchor for rank in range(4)]
    assert all(torch.equal(anchor, worker_of(first, 0).strategy._anchor) for anchor in anchors)
    assert reports(second, 2)[-1]["done"]


@pytest.mark.parametrize(("codec", "tolerance"), [("bf16", 4e-3), ("int8", 8e-3)])
def test_compressed_movements_cost_less_and_lead_nearly_to_the_same_place(codec: str, tolerance: float) -> None:
    plain = make({**CONFIG, **outer(lr=1, momentum=0), "norm": True}, 3)
    start = vectors(plain)[0]
    squeezed = make({**CONFIG, **outer(lr=1, momentum=0, compression=codec), "norm": True}, 3)
    cost = plain.step()["bytes_per_step"], squeezed.step()["bytes_per_step"]
    moved = (vectors(plain)[0] - start).norm()
    assert len({digest(model) for model in models(squeezed)}) == 1
    assert 0 < (vectors(squeezed)[0] - vectors(plain)[0]).norm() < tolerance * moved
    formulas = [
        DiLoCo.bytes_per_step(count_parameters(plain), 3, {"period": 6, "compression": name})
        for name in ("none", codec)
    ]
    buffers = 8 * 16 * 2 / 6  # BatchNorm's statistics are not compressed
    assert cost == pytest.approx([formula + buffers for formula in formulas], rel=1e-9)
    assert DiLoCo.bytes_per_step(10**6, 4, {"period": 6, "compression": codec}) == pytest.approx(
        DiLoCo.bytes_per_step(10**6, 4, {"period": 6}) / (2 if codec == "bf16" else 4), rel=5e-3
    )


def test_what_rounding_took_is_sent_the_next_time() -> None:
    config = {**CONFIG, "optimizer": "sgd", "lr": 0.0, **outer(period=1, lr=1, momentum=0, compression="int8")}
    trainable = make(config, 2)
    strategy = worker_of(trainable, 0).strategy
    owed = torch.linspace(-1, 1, strategy._outer.numel())
    strategy._owed = owed.clone()
    before = vectors(trainable)[0]
    trainable.step()
    # nothing else moved: after six rounds all that was owed by one of two workers has arrived, within one rounding
    assert torch.allclose(before - vectors(trainable)[0], owed / 2, atol=1e-2)
    assert strategy._owed.abs().max() <= 0.5 / 127


def test_compressed_rounds_resume_exactly(tmp_path: Path) -> None:
    check_resume({**CONFIG, **outer(period=5, compression="int8")}, tmp_path, 3)


@pytest.mark.parametrize("step", [7, 11])
def test_a_lost_worker_does_not_end_the_training(step: int) -> None:
    """In the middle of a round, and at the step whose exchange the others wait in."""
    trainable = make({**CONFIG, **outer(), "events": {(2, step): die}}, 3)
    found = reports(trainable, 4)
    assert [report["workers"] for report in found] == [3, 2, 3, 3]
    assert [report["updates"] for report in found] == [6, 12, 18, 24]
    strategies = [worker_of(trainable, rank).strategy for rank in range(3)]
    assert all(torch.equal(strategies[0]._outer, other._outer) for other in strategies)
    assert len({digest(model) for model in models(trainable)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diloco", "slowmo", "local_sgd"])
def test_a_process_that_is_killed_does_not_end_the_training(name: str) -> None:
    gang = Gang("processes", 3)
    strategy = {"strategy": {"name": name, "period": 6}}
    try:
        trainable = make({**CONFIG, **strategy, "events": {(1, 8): die}}, gang=gang)
        trainable.replace_lost = False
        found = reports(trainable, 4)
        assert [report["workers"] for report in found] == [3, 2, 2, 2]
        assert found[-1]["done"]
        threads = make({**CONFIG, **strategy, "events": {(1, 8): die}}, 3)
        threads.replace_lost = False
        expected = reports(threads, 4)
        assert [report["accuracy"] for report in found] == pytest.approx([r["accuracy"] for r in expected], abs=0.02)
    finally:
        gang.close()


@pytest.mark.parametrize("options", [{"momentum": 1.5}, {"lr": -0.7}, {"lr": True}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"'diloco': {next(iter(options))} is a number"):
        DiLoCo(options)
    with pytest.raises(SpecError, match=r"compression is one of none, bf16, int8, got 'int4'.*int8"):
        DiLoCo({"compression": "int4"})
