from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainables.strategies.toys import Toy, digest, make, worker_of
from tune_platform.trainables.strategies.batchnorm import layers, reestimate, standing_in

CONFIG = {"lr": 0.05, "updates": 8, "report_every": 8, "norm": True, "dropout": 0.5, "strategy": "independent"}


def seen(model: nn.Module) -> int:
    tracked = layers(model)[0].num_batches_tracked
    assert tracked is not None
    return int(tracked)


def trained() -> Any:
    trainable = make(dict(CONFIG), 2)
    trainable.step()
    return worker_of(trainable, 0)


def test_statistics_are_those_of_the_batches_with_dropout_off() -> None:
    worker = trained()
    model = worker.model
    batches = list(worker.other_batches("batchnorm", 5))
    model.train()
    reestimate(worker, model, 5)
    norm = layers(model)[0]
    with torch.no_grad():
        inputs = [model[0](x) for x, _ in batches]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, torch.stack([x.mean(0) for x in inputs]).mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, torch.stack([x.var(0) for x in inputs]).mean(0), atol=1e-6)
    assert norm.momentum == 0.1
    assert all(module.training for module in model.modules())


def test_an_epoch_is_the_default_and_the_training_is_not_disturbed() -> None:
    one, other = trained(), trained()
    other.model.eval()
    before = other.model[0].weight.clone()
    reestimate(other, other.model)
    assert seen(other.model) == 16  # 128 examples of its own by 8
    assert not any(module.training for module in other.model.modules())
    assert torch.equal(before, other.model[0].weight)
    assert all(torch.equal(a, b) for a, b in zip(one._state, other._state, strict=True))
    assert one.position.state_dict()["batch"] == other.position.state_dict()["batch"]
    assert all(p.grad is None or torch.equal(p.grad, q.grad) for p, q in zip(
        other.model.parameters(), one.model.parameters(), strict=True
    ))  # fmt: skip


def test_a_stand_in_is_evaluated_and_gone_again_also_after_an_error() -> None:
    worker = trained()
    before, vector = digest(worker.model), torch.cat([2 * p.detach().reshape(-1) for p in worker.model.parameters()])
    first = copy.deepcopy([p.detach() for p in worker.model.parameters()])
    with standing_in(worker, vector, 2) as model:
        assert all(torch.equal(p, 2 * q) for p, q in zip(model.parameters(), first, strict=True))
        assert seen(model) == 2
    assert digest(worker.model) == before
    with pytest.raises(ZeroDivisionError), standing_in(worker, vector, 2):
        _ = 1 / 0
    assert digest(worker.model) == before


def test_the_mean_of_the_workers_needs_statistics_of_its_own() -> None:
    """What the re-estimation is for."""
    found: list[float] = []

    class Both(Toy):
        def evaluate(self, model: nn.Module) -> dict[str, Any]:
            x = next(iter(self.build_data(self.config, 0, 1)))
            with torch.no_grad():
                found.append(float(nn.functional.cross_entropy(model(x[0]), x[1])))
                norm = layers(model)[0]
                norm.reset_running_stats()  # as if they had been forgotten
                found.append(float(nn.functional.cross_entropy(model(x[0]), x[1])))
            return {}

    given = {**CONFIG, "dropout": 0.0, "updates": 64, "report_every": 64, "batch_size": 16}
    given["strategy"] = {"name": "lsgd", "period": 8}
    make(given, 4, toy=Both).step()
    assert found[0] < found[1]
