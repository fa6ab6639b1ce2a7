from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.strategies.toys import Held, check_resume, make, vectors, worker_of
from tune_platform.distributed import LocalGroup
from tune_platform.errors import SpecError

CONFIG = {"lr": 0.02, "updates": 24, "report_every": 12, "batch_size": 8, "weight_decay": 0.01, "double": True}


def config(**options: Any) -> dict[str, Any]:
    return {**CONFIG, "strategy": {"name": "eamsgd", "period": 4, "delta": 0.9, **options}}


def test_without_a_pull_it_is_nesterovs_momentum_as_torch_has_it() -> None:
    """Sutskever's v and x, seen where the gradient is taken, are torch's Nesterov: y = x + delta v moves alike."""
    ours = make(config(beta=0.0), 2)
    ours.step()
    for rank in range(2):
        strategy, worker = worker_of(ours, rank).strategy, worker_of(ours, rank)
        ahead = [p + 0.9 * v for p, v in zip(worker.model.parameters(), strategy.velocity, strict=True)]
        torchs = make({**CONFIG, "momentum": 0.9, "nesterov": True, "strategy": "independent"}, 2)
        torchs.step()
        theirs = list(worker_of(torchs, rank).model.parameters())
        assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(ahead, theirs, strict=True))


def test_the_pull_is_that_before_the_look_ahead_and_leaves_v_alone() -> None:
    given = {**config(beta=0.6, init="different"), "lr": 0.0, "updates": 1, "report_every": 1}
    trainable = make(given, 3)
    generator = torch.Generator().manual_seed(1)
    for rank in range(3):
        for v in worker_of(trainable, rank).strategy.velocity:
            v.copy_(torch.randn(v.shape, generator=generator, dtype=v.dtype))
    velocity = [
        torch.cat([v.reshape(-1).clone() for v in worker_of(trainable, rank).strategy.velocity]) for rank in range(3)
    ]
    x, centre = vectors(trainable), worker_of(trainable, 0).strategy.centre.clone()
    trainable.step()
    expected = x + 0.9 * torch.stack(velocity) - 0.2 * (x - centre)
    assert torch.allclose(vectors(trainable), expected, rtol=0, atol=1e-14)
    for rank in range(3):
        now = torch.cat([v.reshape(-1) for v in worker_of(trainable, rank).strategy.velocity])
        assert torch.allclose(now, 0.9 * velocity[rank], rtol=0, atol=1e-15)


def test_resume_equals_uninterrupted(tmp_path: Path) -> None:
    check_resume({**config(), "updates": 100, "report_every": 5, "dropout": 0.2}, tmp_path)


def test_a_worker_that_joins_has_no_speed_yet() -> None:
    group = LocalGroup(3)
    given = {**config(asynchronous=True), "events": {(2, 3): lambda toy: group.kill(2)}}
    trainable = make(given, 3, gang=Held(group))
    assert trainable.step()["workers"] == 2
    trainable._replace()
    assert all(not v.any() for v in worker_of(trainable, 2).strategy.velocity)
    assert all(v.any() for v in worker_of(trainable, 1).strategy.velocity)
    assert trainable.step()["workers"] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"momentum": 0.9}, r"brings its own momentum \(delta=0.9\): set the inner optimizer's momentum to 0"),
        ({"optimizer": "adamw"}, "needs plain SGD inside, got AdamW: choose SGD, or strategy 'easgd'"),
    ],
)
def test_the_inner_optimizer_has_to_be_plain(more: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):  # raised on a worker
        make({**config(), **more}, 2)


def test_mistakes() -> None:
    with pytest.raises(SpecError, match="delta is a number between 0 and 1, got 2"):
        make(config(delta=2), 2)
