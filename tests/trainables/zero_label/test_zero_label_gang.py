"""Zero-label segmentation by a gang: the single process's training, one teacher for all, exact resume, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainable import DONE, TrialContext
from tune_platform.trainables.zero_label.gang import Share, ZeroLabelGangTrainable
from tune_platform.trainables.zero_label.trainable import ZeroLabelTrainable

SMALL: dict[str, Any] = {
    "train_scenes": 24, "width": 8, "base_steps": 6, "round_steps": 4, "batch_size": 6, "rounds": 2, "views": "shift",
}  # fmt: skip
#: Figures of the machine.
CLOCK = {"samples_per_s", "step_s", "compute_s", "communication_s", "waiting_s", "slowest_worker", "slowest_ratio"}


def make(gang: Gang | None = None, **config: Any) -> ZeroLabelGangTrainable:
    trainable = ZeroLabelGangTrainable(TrialContext(seed=3, gang=gang or Gang("threads", 2)))
    trainable.setup({**SMALL, **config})
    return trainable


def report(trainable: ZeroLabelGangTrainable) -> dict[str, Any]:
    return {name: value for name, value in trainable.step().items() if name not in CLOCK}


def workers(trainable: ZeroLabelGangTrainable) -> list[Any]:
    """The workers of a gang of threads."""
    group: Any = trainable.group
    return [next(iter(group._sessions[worker].values())) for worker in group.workers]


@pytest.fixture(scope="module")
def processes() -> Iterator[Gang]:
    gang = Gang("processes", 2)
    yield gang
    gang.close()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"ema": 0.5, "class_agreement": 0.1, "class_weights": "agreement", "stage": "final"},
        {"report_every": 3, "relabel": "crop", "optimizer": "sgd", "head_lr": 2.0},
    ],
)
def test_a_gang_of_one_is_the_single_process(config: dict[str, Any]) -> None:
    gang = make(Gang("threads", 1), **config)
    single = ZeroLabelTrainable(TrialContext(seed=3, resources={"cpu": 1}))
    single.setup({**SMALL, **config, "diagnostics": False})
    done = False
    while not done:
        ours, theirs = report(gang), single.step()
        done = theirs[DONE]
        assert ours[DONE] == done
        for name in theirs.keys() - {"images_per_s"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6), name
    worker, their = workers(gang)[0], single.training.model.state_dict()
    with worker._averages.standing_in():
        for name, value in worker.model.state_dict().items():
            torch.testing.assert_close(value, their[name], rtol=1e-5, atol=1e-7)


def test_processes_under_ddp_train_as_threads_do(processes: Gang) -> None:
    threads, ddp = make(), make(processes)
    for number in range(3):
        a, b = report(threads), report(ddp)
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
        assert a["round"] == b["round"] == number
        assert ("coverage" in a) == (number > 0)
        if number:
            assert a["coverage"] == pytest.approx(b["coverage"], abs=0.05)
    assert a[DONE]
    assert b[DONE]


def test_all_workers_have_one_teacher_and_its_counts() -> None:
    trainable = make(class_weights="agreement")
    for _ in range(2):
        trainable.step()
    one, two = (worker.rounds for worker in workers(trainable))
    for name, value in one.teacher.state_dict()["model"].items():
        assert torch.equal(value, two.teacher.state_dict()["model"][name]), name
    assert one.teacher.coverage == two.teacher.coverage > 0
    assert len(one.stored) == len(two.stored) == 12
    assert one.teacher._candidates > one.training.batch(torch.arange(12))[1].candidates.sum()
    weights = one.training._class_weights
    assert weights is not None
    assert torch.equal(weights, two.training._class_weights)


@pytest.mark.parametrize("config", [{}, {"report_every": 3, "ema": 0.5}, {"report_every": 3, "relabel": "crop"}])
def test_resume_is_exact_within_rounds_too(config: dict[str, Any], tmp_path: Path) -> None:
    through = make(**config)
    for number in range(4):
        one = report(through)
        folder = tmp_path / str(number)
        folder.mkdir()
        through.save_checkpoint(folder)
        if one[DONE]:
            break
        resumed = make(**config)
        resumed.load_checkpoint(folder)
        again = make(**config)
        again.load_checkpoint(folder)
        assert report(resumed) == report(again)
    last = make(**config)
    last.load_checkpoint(tmp_path / "0")
    for number in range(1, 3):
        other = make(**config)
        other.load_checkpoint(tmp_path / str(number))
        report(last)
        for name, value in workers(last)[0].model.state_dict().items():
            assert torch.equal(value, workers(other)[0].model.state_dict()[name]), (number, name)


def test_another_number_of_workers_goes_on_in_the_round(tmp_path: Path) -> None:
    trainable = make(report_every=2)
    for _ in range(4):  # 6 steps of round 0, and 2 of round 1
        found = report(trainable)
    trainable.save_checkpoint(tmp_path)
    assert (found["round"], found["updates"]) == (1, 8)
    more = make(Gang("threads", 3), report_every=2)
    more.load_checkpoint(tmp_path)
    first = workers(trainable)[0].rounds.teacher.state_dict()["model"]
    for worker in workers(more):
        assert worker.rounds.training.rounds_done == 1
        assert len(worker.rounds.stored) == 8
        for name, value in worker.rounds.teacher.state_dict()["model"].items():
            assert torch.equal(value, first[name])
    found = report(more)
    assert (found["round"], found["updates"], found["workers"]) == (1, 10, 3)


def test_a_checkpoint_between_rounds_has_no_teacher(tmp_path: Path) -> None:
    trainable = make(report_every=2)
    sizes = []
    for _ in range(5):
        trainable.step()
        trainable.save_checkpoint(tmp_path)
        sizes.append([(tmp_path / f"worker-{rank:05d}.pt").stat().st_size for rank in range(2)])
    within, after = sizes[3], sizes[4]
    assert within[0] > after[0] + 4 * sum(p.numel() for p in workers(trainable)[0].model.parameters())
    assert abs(within[1] - after[1]) < 1000  # the second worker's has none


@pytest.mark.parametrize("stage", ["tune", "final"])
def test_evaluation_may_be_shared(stage: str) -> None:
    alone, shared = make(stage=stage), make(stage=stage, evaluation="sharded")
    assert report(alone) | {"bytes_sent": 0, "bytes_per_step": 0} == report(shared) | {
        "bytes_sent": 0, "bytes_per_step": 0,
    }  # fmt: skip


def test_shares_have_each_image_once() -> None:
    data = make().data.train
    shares = [Share(data, rank, 5) for rank in range(5)]
    assert sum(map(len, shares)) == len(data)
    assert torch.equal(shares[1].take(torch.tensor([2]))[0], data.take(torch.tensor([11]))[0])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"strategy": "local_sgd"}, "'local_sgd': the teacher of a round is the student of the round before"),
        ({"strategy": "fully_sharded"}, "'fully_sharded': the teacher of a round"),
        ({"strategy": "codistillation"}, "'codistillation': the teacher of a round"),
        ({"diagnostics": True}, "diagnostics: not for this trainable, they look at one teacher"),
        ({"round_step": 4}, "unknown hyperparameter 'round_step'.*round_steps"),
        ({"updates": 5}, "updates: not for this trainable, a training has as many steps"),
    ],
)
def test_what_cannot_be_is_refused_by_name(config: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        make(**config)


def test_the_single_process_names_it() -> None:
    named = f"{ZeroLabelGangTrainable.__module__}:{ZeroLabelGangTrainable.__name__}"
    assert named in ZeroLabelTrainable.one_process


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("count", [1, 2])
def test_it_trains_on_gpus(count: int) -> None:
    if count > torch.cuda.device_count():
        pytest.skip("a GPU for each worker")
    gang = Gang("processes", count, {"cpu": 1, "gpu": 1})
    try:
        trainable = make(gang, evaluation="sharded", precision="bfloat16", stage="final")
        told = [report(trainable) for _ in range(3)]
        assert told[-1][DONE]
        assert all(each["train_loss"] >= 0 for each in told)
        assert 0 < told[-1]["coverage"] <= 1
        assert told[-1]["test_seen_miou"] >= 0
    finally:
        gang.close()
