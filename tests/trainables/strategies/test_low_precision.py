"""Models in bfloat16: what is added up over workers and rounds is so in single precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.trainables.strategies.toys import Toy, make, means_of, vectors, worker_of

CONFIG: dict[str, Any] = {"lr": 0.05, "updates": 24, "report_every": 6}


class Half(Toy):
    """The toy in bfloat16; keeps what it is given to evaluate."""

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        return super().build_model(config).bfloat16()

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.happen()
        return functional.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        self.__dict__["evaluated"] = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        return {}


def half(name: str, workers: int = 3, **options: Any) -> Any:
    config: dict[str, Any] = {key: options.pop(key) for key in ("lr", "report_every", "optimizer") if key in options}
    return make({**CONFIG, **config, "strategy": {"name": name, **options}}, workers, toy=Half)


def is_representable(vector: Tensor) -> bool:
    """Whether bfloat16 would have done."""
    return torch.equal(vector, vector.bfloat16().to(vector.dtype))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_dilocos_anchor_its_mean_and_its_momentum_are_in_single_precision(optimizer: str) -> None:
    trainable = half("diloco", period=6, optimizer=optimizer)
    anchor, momentum = vectors(trainable)[0].float(), torch.zeros(186)
    means = means_of(trainable)
    for number in range(4):
        trainable.step()
        strategy = worker_of(trainable, 0).strategy
        momentum = 0.9 * momentum + (anchor - means[number])
        anchor = torch.lerp(anchor, means[number], 0.7) - 0.7 * 0.9 * momentum
        for vector, expected in ((strategy._anchor, anchor), (strategy._outer, momentum)):
            assert vector.dtype == torch.float32
            assert torch.allclose(vector, expected, rtol=0, atol=1e-6)
            assert not is_representable(vector)
        assert means[number].dtype == torch.float32
        assert not is_representable(means[number])
        assert torch.equal(vectors(trainable), anchor.bfloat16().expand(3, -1))


@pytest.mark.parametrize("name", ["lsgd", "local_sgd"])
def test_the_mean_that_is_evaluated_is_rounded_once(name: str) -> None:
    more: dict[str, Any] = {"init": "different"} if name == "lsgd" else {}
    trainable = half(name, period=100, **more)
    trainable.step()
    expected = vectors(trainable).float().mean(0).bfloat16()
    assert torch.equal(worker_of(trainable, 0).recipe.evaluated, expected)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_centre_of_elastic_averaging_takes_steps_too_small_for_the_workers(asynchronous: bool) -> None:
    """At rate 0 and with a small beta: in bfloat16 the centre would stay where it began."""
    beta = 1e-3
    trainable = half("easgd", period=1, beta=beta, init="different", lr=0.0, asynchronous=asynchronous)
    x = vectors(trainable).float()
    centre = worker_of(trainable, 0).strategy.centre
    assert centre.dtype == torch.float32
    assert torch.allclose(centre, x.mean(0), rtol=0, atol=1e-6)
    offset = worker_of(trainable, 0).strategy.centre = centre + 0.5
    if not asynchronous:
        for rank in (1, 2):
            worker_of(trainable, rank).strategy.centre = offset
    trainable.step()
    found = worker_of(trainable, 0).strategy.centre
    moved = (found - offset) / (x.mean(0) - offset)
    assert found.dtype == torch.float32
    # Six exchanges. The workers' own steps towards the centre are lost in rounding, or nearly.
    assert torch.allclose(moved, torch.full_like(moved, 1 - (1 - beta) ** 6), rtol=0.1)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_downpours_server_has_all_that_the_workers_did(asynchronous: bool) -> None:
    """What a worker adds is what it did to the parameters that it was given: those are rounded."""
    trainable = half("downpour", 2, period=2, asynchronous=asynchronous, lr=0.01, report_every=24)
    strategies = [worker_of(trainable, rank).strategy for rank in range(2)]
    total = strategies[0].centre.clone()
    pushed: list[Tensor] = []
    for strategy in strategies:
        exchange = strategy.exchange

        def noted(update: Tensor, exchange: Any = exchange) -> Any:
            pushed.append(update.clone())
            return exchange(update)

        strategy.exchange = noted
    trainable.step()
    assert len(pushed) >= 12
    assert {update.dtype for update in pushed} == {torch.float32}
    assert torch.allclose(strategies[0].centre, total + torch.stack(pushed).sum(0), rtol=0, atol=1e-6)
    assert not is_representable(strategies[0].centre)
