"""SlowMo: its formula, the rate in force, and that it is local SGD without the momentum."""

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
    means_of,
    models,
    reports,
    vectors,
    worker_of,
)
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.slowmo import SlowMo

CONFIG: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "updates": 24, "report_every": 6}


def slow(**options: Any) -> dict[str, Any]:
    return {"strategy": {"name": "slowmo", "period": 6, **options}}


class Scheduled(Toy):
    """A learning rate that changes with each step, to the values of the config."""

    def build_scheduler(self, config: Mapping[str, Any], optimizer: torch.optim.Optimizer, total: int) -> Any:
        rates = config["rates"]
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)])


class TwoGroups(Toy):
    """Two groups of parameters with rates of their own."""

    def build_optimizer(self, config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
        first, *rest = model.parameters()
        return torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": rest, "lr": 0.05}], momentum=0.5)


def by_hand(config: dict[str, Any], toy: type[Toy], rates: list[Tensor | float], beta: float, alpha: float) -> Tensor:
    """The anchor after as many rounds as there are rates: the formulas of the paper, over averages of local SGD."""
    rounds = make({**config, "strategy": {"name": "slowmo", "period": 6, "momentum": beta, "lr": alpha}}, 2, toy=toy)
    x = vectors(rounds)[0].double()
    u = torch.zeros_like(x)
    means = means_of(rounds)
    for number, gamma in enumerate(rates):
        rounds.step()
        u = beta * u + (x - means[number].double()) / gamma
        x = x - alpha * gamma * u
        assert torch.allclose(vectors(rounds)[0].double(), x, atol=1e-6)
    return x


@pytest.mark.parametrize(("beta", "alpha"), [(0.5, 1.0), (0.7, 0.6), (0.0, 0.5)])
def test_formula(beta: float, alpha: float) -> None:
    by_hand(CONFIG, Toy, [0.1, 0.1, 0.1], beta, alpha)


def test_the_rate_is_the_one_that_the_last_step_was_taken_with() -> None:
    rates = [1.0 - 0.04 * step for step in range(25)]
    config = {**CONFIG, "rates": rates}
    by_hand(config, Scheduled, [0.1 * rates[5], 0.1 * rates[11], 0.1 * rates[17]], 0.5, 1.0)


def test_each_group_has_its_own_rate() -> None:
    gamma = torch.full((186,), 0.05, dtype=torch.float64)
    gamma[:160] = 0.2
    by_hand(CONFIG, TwoGroups, [gamma, gamma, gamma], 0.5, 1.0)


def test_a_rate_of_zero_divides_nothing() -> None:
    rates = [1.0] * 11 + [0.0] * 13  # zero at the last step of the second round, and in the third
    trainable = make({**CONFIG, "rates": rates, **slow()}, 2, toy=Scheduled)
    trainable.step()
    outer = worker_of(trainable, 0).strategy._outer.clone()
    means = means_of(trainable)
    trainable.step()
    assert torch.equal(worker_of(trainable, 0).strategy._outer, outer)
    assert torch.equal(vectors(trainable)[0], means[0])
    reports(trainable, 2)
    assert vectors(trainable).isfinite().all()


def test_without_momentum_it_is_local_sgd_bit_for_bit() -> None:
    one = make({**CONFIG, **slow(momentum=0.0, lr=1.0)}, 3)
    other = make({**CONFIG, "strategy": {"name": "local_sgd", "period": 6}}, 3)
    for _ in range(4):
        one.step()
        other.step()
        assert torch.equal(vectors(one), vectors(other))


def test_the_anchor_is_evaluated_in_the_middle_of_a_round() -> None:
    trainable = make({**CONFIG, **slow(), "report_every": 4, "norm": True}, 2)
    ends = [trainable.step()["evaluated"] for _ in range(2)]
    assert ends[0] == digest_of_start({**CONFIG, **slow(), "norm": True})
    whole = make({**CONFIG, **slow(), "report_every": 6, "norm": True}, 2)
    whole.step()
    # The counts of BatchNorm are those of worker 0, which has gone on; parameters and statistics are the anchor's.
    strategy = worker_of(trainable, 0).strategy
    assert torch.equal(strategy._anchor, worker_of(whole, 0).strategy._anchor)
    assert ends[1] != digest(models(trainable)[0])


def digest_of_start(config: dict[str, Any]) -> str:
    """The digest of the initial model, with the counts of four batches."""
    model = models(make(config, 2))[0]
    dict(model.named_buffers())["1.num_batches_tracked"] += 4
    return digest(model)


def test_bytes_are_those_of_the_formula() -> None:
    trainable = make({**CONFIG, **slow()}, 3)
    expected = SlowMo.bytes_per_step(count_parameters(trainable), 3, {"period": 6})
    assert trainable.step()["bytes_per_step"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("inner_state", ["local", "average", "reset"])
def test_resume_equals_uninterrupted(inner_state: str, tmp_path: Path) -> None:
    check_resume({**CONFIG, **slow(period=5, inner_state=inner_state), "dropout": 0.3}, tmp_path, 3)


def test_the_anchor_survives_a_worker_and_reaches_the_one_that_joins() -> None:
    trainable = make({**CONFIG, **slow(), "events": {(1, 8): die}}, 3)
    assert [report["workers"] for report in reports(trainable, 3)] == [3, 2, 3]
    strategies = [worker_of(trainable, rank).strategy for rank in range(3)]
    assert all(torch.equal(strategies[0]._anchor, other._anchor) for other in strategies)
    assert all(torch.equal(strategies[0]._outer, other._outer) for other in strategies)
    assert all(torch.equal(row, strategies[0]._anchor) for row in vectors(trainable))
    assert trainable.step()["done"]


@pytest.mark.parametrize("options", [{"momentum": 1.1}, {"momentum": -0.1}, {"lr": -1}, {"lr": "fast"}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"'slowmo': {next(iter(options))} is a number"):
        SlowMo(options)
