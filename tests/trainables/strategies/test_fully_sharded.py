"""Fully sharded data parallelism: the steps of all-reduce, with a part of everything on each worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.strategies.toys import count_parameters, die, make
from tune_platform import Resources, SearchSpec, choice
from tune_platform.distributed import Gang, PeerLost
from tune_platform.errors import SpecError
from tune_platform.trainable import DONE, TrialContext
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.strategies.fully_sharded import FullySharded

CONFIG: dict[str, Any] = {"strategy": "fully_sharded", "lr": 0.1, "momentum": 0.9, "updates": 20, "report_every": 5}
#: Hidden layers of 33: no whole number of rows for each of two workers.
IMAGES: dict[str, Any] = {
    "task": "synthetic", "examples": 128, "width": 33, "layers": 2, "batch_size": 16, "updates": 8, "report_every": 4,
    "optimizer": "adamw", "lr": 0.01, "schedule": "cosine", "max_grad_norm": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def processes() -> Iterator[Gang]:
    gang = Gang("processes", 2)
    yield gang
    gang.close()


def images(gang: Gang, **config: Any) -> ClassificationTrainable:
    trainable = ClassificationTrainable(TrialContext(seed=5, gang=gang))
    trainable.setup({**IMAGES, **config})
    return trainable


def scores(report: dict[str, Any]) -> list[float]:
    return [report[name] for name in ("train_loss", "val_loss", "val_accuracy")]


def test_it_takes_the_steps_of_all_reduce(processes: Gang) -> None:
    divided, equal = (images(processes, strategy=name) for name in ("fully_sharded", "all_reduce"))
    for _ in range(2):
        a, b = divided.step(), equal.step()
        assert scores(a) == pytest.approx(scores(b), rel=1e-4)
    assert a[DONE]
    assert a["test_loss"] == pytest.approx(b["test_loss"], rel=1e-4)


def test_each_worker_holds_and_saves_its_part(processes: Gang, tmp_path: Path) -> None:
    trainable = images(processes, strategy="fully_sharded")
    trainable.step()
    trainable.save_checkpoint(tmp_path)
    states = [torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("worker-*.pt"))]
    held = [sum(value.numel() for value in state["model"].values()) for state in states]
    alone = images(Gang("threads", 1), strategy="all_reduce")
    alone.save_checkpoint(tmp_path)
    whole = torch.load(tmp_path / "worker-00000.pt", weights_only=True)["model"]
    assert sum(held) == sum(value.numel() for value in whole.values())
    assert max(held) < 0.6 * sum(held)
    moments = [each["exp_avg"].numel() for each in states[0]["optimizer"]["state"].values()]
    assert sum(moments) == held[0]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_resume_is_exact(precision: str, processes: Gang, tmp_path: Path) -> None:
    config = {"strategy": "fully_sharded", "precision": precision}
    through = images(processes, **config)
    through.step()
    through.save_checkpoint(tmp_path)
    expected = scores(through.step())
    resumed = images(processes, **config)
    resumed.load_checkpoint(tmp_path)
    assert scores(resumed.step()) == expected


def test_the_bytes_are_those_of_the_formula(processes: Gang) -> None:
    trainable = make(CONFIG, gang=processes)
    report = trainable.step()
    parameters = count_parameters(make({**CONFIG, "strategy": "all_reduce"}, workers=1))
    assert report["bytes_per_step"] == FullySharded.bytes_per_step(parameters, 2, {}) == 12 * parameters


def test_one_worker_is_plain_training() -> None:
    one, plain = (images(Gang("threads", 1), strategy=name) for name in ("fully_sharded", "all_reduce"))
    assert scores(one.step()) == scores(plain.step())


def test_another_number_of_workers_takes_the_parts_together_and_divides_them(processes: Gang, tmp_path: Path) -> None:
    def evaluated(trainable: Any) -> float:
        return next(float(one["val_loss"]) for one in trainable._survive("evaluate") if one is not None)

    def saved(trainable: Any, name: str) -> list[dict[str, Any]]:
        (tmp_path / name).mkdir()
        trainable.save_checkpoint(tmp_path / name)
        return [torch.load(path, weights_only=True) for path in sorted((tmp_path / name).glob("worker-*.pt"))]

    two = images(processes, strategy="fully_sharded")
    two.step()
    parts = saved(two, "two")
    one = images(Gang("threads", 1), strategy="fully_sharded")
    one.load_checkpoint(tmp_path / "two")
    assert evaluated(one) == pytest.approx(evaluated(two), rel=1e-6)
    (whole,) = saved(one, "one")
    for name, value in whole["model"].items():
        assert torch.equal(value, torch.cat([part["model"][name] for part in parts])), name
    for index, moments in whole["optimizer"]["state"].items():
        mine = [part["optimizer"]["state"][index] for part in parts]
        assert torch.equal(moments["exp_avg_sq"], torch.cat([each["exp_avg_sq"] for each in mine]))
        assert moments["step"] == mine[0]["step"] == 4
    again = images(processes, strategy="fully_sharded")
    again.load_checkpoint(tmp_path / "one")
    for before, after in zip(parts, saved(again, "again"), strict=True):
        for name, value in before["model"].items():
            assert torch.equal(value, after["model"][name]), name
        for index, moments in before["optimizer"]["state"].items():
            assert torch.equal(moments["exp_avg"], after["optimizer"]["state"][index]["exp_avg"])
    report = again.step()
    assert (report["updates"], report["workers"], report[DONE]) == (8, 2, True)


def test_what_it_has_no_place_for_is_told() -> None:
    for config, told in (
        ({}, "the workers of this gang are threads of one process"),
        ({"evaluation": "sharded"}, "has the whole model on worker 0 alone"),
        ({"ema": 0.9}, "takes a strategy whose workers are equal"),
    ):
        with pytest.raises(SpecError, match=told):
            images(Gang("threads", 2), strategy="fully_sharded", **config)


def test_a_lost_worker_ends_the_attempt() -> None:
    gang = Gang("processes", 2)
    try:
        trainable = make({**CONFIG, "events": {(1, 7): die}}, gang=gang)
        trainable.step()
        with pytest.raises(PeerLost, match="needs all of its workers"):
            trainable.step()
    finally:
        gang.close()


@pytest.mark.parametrize("chosen", ["fully_sharded", {"name": "fully_sharded"}])
def test_gangs_that_are_to_grow_are_refused_where_the_strategy_is_rigid(
    chosen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spec(strategies: list[Any], **more: Any) -> SearchSpec:
        return SearchSpec(
            trainable=ClassificationTrainable, param_space={"strategy": choice(strategies), "lr": 0.1},
            metric="val_accuracy", mode="max", num_samples=1, storage=str(tmp_path),
            resources=Resources(**{"cpu": 1, "workers": 2, "grow": True} | more),
        )  # fmt: skip

    spec(["allreduce", chosen]).check()
    monkeypatch.setattr(FullySharded, "elastic", False)  # as a strategy of a user's may be
    with pytest.raises(SpecError, match=r"resources: got grow: true, .* with more workers: strategy 'full"):
        spec(["allreduce", chosen]).check()
    spec(["allreduce"]).check()
    spec(["allreduce", chosen], grow=False).check()
    spec(["allreduce", chosen], workers=1).check()
