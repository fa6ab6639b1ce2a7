"""Robust training by a gang: any strategy that makes sense for it, the same weights in threads and in processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainable import DONE, TrialContext
from tune_platform.trainables.pixels import ByteImages, Stored
from tune_platform.trainables.robustness.gang import OF_THE_GANG, SETTINGS, RobustnessGangTrainable, _share
from tune_platform.trainables.robustness.methods import METHODS
from tune_platform.trainables.robustness.trainable import DEFAULTS, RobustnessTrainable, rate_factor

SMALL = {
    "model": "cnn", "width": 2, "updates": 4, "report_every": 2, "lr": 0.01, "method": "at", "attack_steps": 2,
    "train_size": 120, "batch_size": 16, "optimizer": "sgd", "shift": 1, "dropout": 0.2, "schedule": "cosine",
    "analysis_images": 20, "pgd_steps": 2, "targeted_steps": 1, "lipschitz_steps": 1,
}  # fmt: skip
CPU = torch.device("cpu")
#: Figures of the machine.
CLOCK = {"samples_per_s", "step_s", "compute_s", "communication_s", "waiting_s", "slowest_worker", "slowest_ratio"}


def make(gang: Gang | None = None, **config: Any) -> RobustnessGangTrainable:
    trainable = RobustnessGangTrainable(TrialContext(seed=3, gang=gang or Gang("threads", 2)))
    trainable.setup({**SMALL, **config})
    return trainable


def report(trainable: RobustnessGangTrainable) -> dict[str, Any]:
    return {name: value for name, value in trainable.step().items() if name not in CLOCK}


@pytest.fixture(scope="module")
def processes() -> Iterator[Gang]:
    gang = Gang("processes", 2)
    yield gang
    gang.close()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "natural"])
def test_processes_under_ddp_train_as_threads_do(method: str, processes: Gang) -> None:
    """DDP sees several passes forward and one backward, and attacks that ask for gradients of images alone."""
    settings: dict[str, Any] = {"method": method, "strategy": "all_reduce"}
    threads, ddp = make(**settings), make(processes, **settings)
    for _ in range(2):
        a, b = report(threads), report(ddp)
        assert b.pop("bytes_sent") > 0
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
        assert a["val_adv_accuracy"] == b["val_adv_accuracy"]
    assert a[DONE]
    assert a["test_mt_accuracy"] == b["test_mt_accuracy"]
    assert a["adv_gap"] == pytest.approx(a["train_adv_accuracy"] - a["test_adv_accuracy"])


@pytest.mark.parametrize(
    "strategy", [{"name": "local_sgd", "period": 2}, {"name": "easgd", "period": 2}, {"name": "lsgd", "period": 2}]
)
def test_other_strategies_train_too(strategy: dict[str, Any]) -> None:
    trainable = make(strategy=strategy)
    assert not report(trainable)[DONE]
    assert report(trainable)["test_lipschitz"] > 0


@pytest.mark.parametrize("strategy", ["all_reduce", {"name": "local_sgd", "period": 2}])
def test_resume_is_exact(strategy: Any, tmp_path: Path) -> None:
    through = make(strategy=strategy)
    report(through)
    through.save_checkpoint(tmp_path)
    resumed = make(strategy=strategy)
    resumed.load_checkpoint(tmp_path)
    assert report(through) == report(resumed)


def test_batch_norm_of_an_averaged_model_is_recorded_on_attacked_images() -> None:
    config: dict[str, Any] = {"model": "wrn", "depth": 10, "width": 1, "updates": 2, "report_every": 2}
    found = report(make(**config, train_size=40, strategy={"name": "easgd", "period": 2, "batchnorm_batches": 1}))
    assert found["val_accuracy"] >= found["val_adv_accuracy"]


def test_a_gang_trains_in_float16() -> None:
    single, half = (make(strategy="all_reduce", precision=precision) for precision in ("float32", "float16"))
    for _ in range(2):
        one, other = report(single), report(half)
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=0.1)


def test_measurements_are_shared_by_the_workers() -> None:
    first, shared = (
        make(evaluation=how, strategy="all_reduce", pgd_steps=40, analysis_images=0) for how in ("first", "sharded")
    )
    for _ in range(2):
        a, b = report(first), report(shared)
        assert a["val_accuracy"] == b["val_accuracy"]  # the attacks' random starts differ
    assert {"gap", "adv_gap"} <= b.keys()
    assert a["gap"] == b["gap"]


def test_the_rate_follows_its_schedule_step_by_step() -> None:
    trainable = make()
    config = {**DEFAULTS, "schedule": "step", "warmup": 0.1}
    optimizer = trainable.build_optimizer({"optimizer": "sgd"}, torch.nn.Linear(1, 1))
    rule = trainable.build_scheduler({"schedule": "step", "warmup": 0.1}, optimizer, 60)
    assert [rule.lr_lambdas[0](step) for step in (0, 2, 5, 19, 20, 40, 50)] == pytest.approx(  # type: ignore[attr-defined]
        [1 / 6, 0.5, 1, 1, 0.1, 0.01, 0.001]
    )
    assert rate_factor(config, 0.0, 0.05) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"strategy": "codistillation"}, "strategy 'codistillation' compares what two models return"),
        (
            {"strategy": "fully_sharded"},
            "strategy 'fully_sharded' gathers weights for one pass forward and one backward",
        ),
        ({"metod": "at"}, "unknown hyperparameter 'metod' \\(did you mean 'method'"),
        ({"analysis_every": 2}, "analysis_every: not for this trainable, the paper's measurements come"),
        ({"method": "best"}, "method is one of natural"),
        ({"ema": 0.9, "strategy": {"name": "local_sgd", "period": 2}}, "ema: takes a strategy whose workers are equal"),
    ],
)
def test_what_cannot_be_is_told_before_a_step(config: dict[str, Any], told: str) -> None:
    with pytest.raises((SpecError, ValueError), match=told):
        make(**config)


def test_it_takes_what_one_process_takes() -> None:
    assert set(DEFAULTS) - {"analysis_every"} == set(SETTINGS) - set(OF_THE_GANG)
    assert f"{RobustnessGangTrainable.__module__}:RobustnessGangTrainable" in RobustnessTrainable.one_process


def test_images_in_files_are_shared_as_they_lie() -> None:
    images = Stored(ByteImages(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10)), CPU)
    mine, labels = _share((images, torch.arange(10)), 1, 3, CPU)
    assert isinstance(mine, Stored)
    assert labels.tolist() == [1, 4, 7]
    torch.testing.assert_close(mine[:].flatten() * 255, torch.tensor([1.0, 4.0, 7.0]))


def test_torch_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    report(make())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("workers", [1, 2])
def test_it_trains_on_gpus(workers: int) -> None:
    if workers > torch.cuda.device_count():
        pytest.skip("a GPU for each worker")
    gang = Gang("processes", workers, {"cpu": 1, "gpu": 1})
    try:
        trainable = make(gang, strategy="all_reduce", evaluation="sharded", dropout=0.2)
        report(trainable)
        assert report(trainable)["val_accuracy"] >= 0
    finally:
        gang.close()
