"""Images that threads read ahead: the same batches, a bounded number of them early, and no thread that is left."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from torch.utils.data.distributed import DistributedSampler

from tests.trainables.conftest import colours
from tune_platform.distributed import ShardedBatches
from tune_platform.distributed.data import Position
from tune_platform.trainable import TrialContext
from tune_platform.trainables.augment import Augmented
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.pixels import AHEAD, Example, Stored, ThreadedLoader, read_ahead

CPU = torch.device("cpu")


class Files(Dataset[Example]):
    """Images of one pixel that say which were read; `bad` is one that cannot be."""

    in_threads = True

    def __init__(self, count: int = 40, bad: int = -1) -> None:
        self.targets = list(range(count))
        self.read: list[int] = []
        self.bad = bad

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Example:
        self.read.append(index)
        if index == self.bad:
            raise OSError(f"{index} cannot be read")
        return torch.full((1, 1, 1), float(index)), index


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("images")]


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    gc.collect()  # what trials of other tests have left
    gc.disable()  # it is not left to chance
    try:
        yield
        assert not readers()
    finally:
        gc.enable()


def loaders(dataset: Dataset[Example]) -> list[DataLoader[Example]]:
    """Return torch's loader, and the one whose threads read ahead."""
    made: list[DataLoader[Example]] = []
    for kind in (DataLoader, ThreadedLoader):
        sampler: DistributedSampler[Example] = DistributedSampler(dataset, 2, 1, seed=3, drop_last=True)
        made.append(kind(dataset, 3, sampler=sampler, drop_last=True))
    return made


@pytest.mark.parametrize("threads", [1, 3])
def test_the_batches_and_the_generator_are_those_of_torchs_loader(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    seen, drawn = [], []
    for loader in loaders(Files()):
        torch.manual_seed(7)
        position = Position(loader)
        batches = [position.next() for _ in range(15)]  # two epochs and a half
        seen.append([(images.tolist(), labels.tolist(), images.dtype, labels.dtype) for images, labels in batches])
        drawn.append(torch.rand(3).tolist())
        assert len(loader) == 6
        assert len(readers()) == (threads if loader.__class__ is ThreadedLoader else 0)
        position.close()
    assert seen[0] == seen[1]
    assert drawn[0] == drawn[1]


def test_a_bounded_number_is_read_while_one_batch_is_used() -> None:
    files = Files()
    batches = read_ahead(files, torch.split(torch.arange(40), 4))
    assert not files.read
    for taken in range(1, 4):
        images, labels = next(batches)
        assert labels.tolist() == images.flatten().tolist() == list(range(4 * (taken - 1), 4 * taken))
        wait_for(lambda taken=taken: len(files.read) == 4 * (taken + AHEAD))  # type: ignore[misc]
    time.sleep(0.05)
    assert sorted(files.read) == list(range(4 * (3 + AHEAD)))
    batches.close()


def test_threads_end_with_the_last_batch_with_an_error_and_when_closed_or_forgotten() -> None:
    assert len(list(read_ahead(Files(), torch.split(torch.arange(40), 4)))) == 10
    assert not readers()
    batches = read_ahead(Files(bad=6), torch.split(torch.arange(40), 4))
    next(batches)
    with pytest.raises(OSError, match="6 cannot be read"):
        next(batches)
    assert not readers()
    for moved in (False, True):
        position = Position(Augmented(ThreadedLoader(Files(), 4), 0, 0.5, 1, 0))
        start = position.state_dict()
        position.next()
        assert readers()
        if moved:
            position.load_state_dict(start)
        else:
            position.close()
        assert not readers()
    batches = read_ahead(Files(), torch.split(torch.arange(40), 4))
    next(batches)
    del batches
    assert not readers()


def test_stored_images_are_read_ahead_by_the_batches_of_a_worker() -> None:
    files = Files()
    stored: Any = Stored(Subset(Subset(files, range(2, 40)), range(30)), CPU)
    labels = torch.arange(2, 32)
    plain = ShardedBatches((labels.float().view(-1, 1, 1, 1), labels), 4, 1, 2, seed=5)
    data = ShardedBatches((stored, labels), 4, 1, 2, seed=5)
    both = zip(plain, data, strict=True)
    for number, (expected, found) in enumerate(both, start=1):
        assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
        wait_for(lambda number=number: len(files.read) == 4 * min(3, number + AHEAD))  # type: ignore[misc]
    position = Position(data)
    position.next()
    assert readers()
    position.close()


def test_images_that_may_draw_are_read_when_they_are_used() -> None:
    files = Files()
    files.in_threads = False
    stored: Any = Stored(files, CPU)
    batches = iter(ShardedBatches((stored, torch.arange(40)), 4))
    for number in range(1, 4):
        next(batches)
        assert len(files.read) == 4 * number


# ---------------------------------------------------------------------------------------- a trial


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return colours(tmp_path)


def begin(config: dict[str, Any], cpu: int = 1) -> ClassificationTrainable:
    trainable = ClassificationTrainable(TrialContext(seed=5, resources={"cpu": cpu}))
    trainable.setup(config)
    return trainable


def test_the_threads_of_a_trial_end_with_it(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = begin(config)
    trainable.step()  # 4 of the 12 batches of an epoch
    assert readers()
    trainable.reset_config({**config, "lr": 0.01})
    assert not readers()
    trainable.step()
    plain = ClassificationTrainable.loss

    def failing(self: Any, model: Any, batch: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("of the user's own")
        return plain(self, model, batch)

    monkeypatch.setattr(ClassificationTrainable, "loss", failing)
    with pytest.raises(RuntimeError, match="of the user's own"):
        trainable.step()
    trainable.cleanup()
    assert not readers()


def test_threads_and_processes_train_alike_and_a_resumed_trial_as_an_uninterrupted_one(
    config: dict[str, Any], tmp_path: Path
) -> None:
    def run(cpu: int, *cuts: int) -> list[tuple[float, float]]:
        seen = []
        trainable = begin(config, cpu)
        for report in range(5):
            if report in cuts:
                folder = tmp_path / f"checkpoint-{report}"
                folder.mkdir()
                trainable.save_checkpoint(folder)
                trainable.cleanup()
                trainable = begin(config, cpu)
                trainable.load_checkpoint(folder)
            metrics = trainable.step()
            seen.append((metrics["train_loss"], metrics["val_loss"]))
        trainable.cleanup()
        return seen

    through = run(1)
    assert run(1, 1, 2, 4) == through
    assert run(2) == through


def test_an_evaluation_that_fails_leaves_no_thread(config: dict[str, Any]) -> None:
    trainable = begin(config)
    model = trainable.build_model(config)

    def failing(*_: Any) -> None:
        raise RuntimeError("of the model")

    model.register_forward_hook(failing)
    with pytest.raises(RuntimeError, match="of the model"):  # which holds the frames that read
        trainable.evaluate(model)
    assert not readers()
    trainable.cleanup()
