"""The parts of a gang's checkpoint: each worker writes and reads its own, where it sees the directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.strategies.toys import make
from tune_platform.distributed import Gang, TrainingWorker
from tune_platform.distributed.parts import META, is_here, part_name, write_part

CONFIG: dict[str, Any] = {"strategy": "local_sgd", "lr": 0.1, "momentum": 0.9, "updates": 20, "report_every": 5}


@pytest.fixture(scope="module")
def processes() -> Iterator[Gang]:
    gang = Gang("processes", 2)
    yield gang
    gang.close()


def saved(trainable: Any, directory: Path) -> list[Any]:
    """Save into `directory`; return what each worker answered: the size of its file, or the bytes for it."""
    answers: list[Any] = []
    plain = trainable.group.call_each

    def noting(session: str, method: str, args: Any, **more: Any) -> Any:
        found = plain(session, method, args, **more)
        answers.extend(answer.value for answer in found if method == "save")
        return found

    trainable.group.call_each = noting
    try:
        directory.mkdir()
        trainable.save_checkpoint(directory)
    finally:
        del trainable.group.call_each
    return answers


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the workers of this process not see the directory."""
    monkeypatch.setattr("tune_platform.distributed.worker.write_part", lambda *_: False)
    monkeypatch.setattr("tune_platform.distributed.worker.is_here", lambda *_: False)


def test_each_worker_writes_its_own_part(processes: Gang, tmp_path: Path) -> None:
    trainable = make(CONFIG, gang=processes)
    trainable.step()
    answers = saved(trainable, tmp_path / "saved")
    sizes = [(tmp_path / "saved" / part_name(rank)).stat().st_size for rank in range(2)]
    assert answers == sizes
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [META, part_name(0), part_name(1)]


@pytest.mark.parametrize("strategy", ["local_sgd", "all_reduce"])
def test_a_part_that_is_sent_is_the_same_and_either_is_resumed_exactly(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**CONFIG, "strategy": strategy}
    trainable = make(config, workers=2)
    trainable.step()
    assert all(isinstance(answer, int) for answer in saved(trainable, tmp_path / "own"))
    with monkeypatch.context() as patched:
        elsewhere(patched)
        assert all(isinstance(answer, bytes) for answer in saved(trainable, tmp_path / "sent"))
    for rank in range(2):
        own, sent = ((tmp_path / name / part_name(rank)).read_bytes() for name in ("own", "sent"))
        assert own == sent
    expected = trainable.step()["train_loss"]
    for name in ("own", "sent"):
        for here in (True, False):
            with monkeypatch.context() as patched:
                if not here:
                    elsewhere(patched)
                resumed = make(config, workers=2)
                resumed.load_checkpoint(tmp_path / name)
            assert resumed.step()["train_loss"] == expected


def test_a_directory_of_the_same_name_on_another_host_is_not_taken_for_it(tmp_path: Path) -> None:
    sign = json.dumps({"workers": 2, "token": "a"})
    path = tmp_path / part_name(1)
    assert not is_here(tmp_path, sign)
    for other in ("{}", json.dumps({"workers": 2, "token": "b"})):
        (tmp_path / META).write_text(other)
        assert not is_here(tmp_path, sign)
        assert not write_part(path, sign, b"part")
    assert not path.exists()
    (tmp_path / META).write_text(sign)
    assert is_here(tmp_path, sign)
    assert write_part(path, sign, b"part")
    assert path.read_bytes() == b"part"
    old = json.dumps({"workers": 2})  # of a release without a token: two may be equal
    (tmp_path / META).write_text(old)
    assert not is_here(tmp_path, old)


def test_a_part_that_cannot_be_written_is_left_to_the_first_worker(tmp_path: Path) -> None:
    sign = json.dumps({"token": "a"})
    (tmp_path / META).write_text(sign)
    (tmp_path / part_name(1)).mkdir()
    assert not write_part(tmp_path / part_name(1), sign, b"part")


def test_a_part_that_is_not_whole_fails_the_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = make(CONFIG, workers=2)
    trainable.step()

    def short(self: TrainingWorker, path: str, sign: str) -> int:
        Path(path).write_bytes(self.state()[:-1])
        return len(self.state())

    monkeypatch.setattr(TrainingWorker, "save", short)
    with pytest.raises(OSError, match=r"worker-00000\.pt has \d+ bytes here, and its worker wrote \d+"):
        trainable.save_checkpoint(tmp_path)


def test_a_worker_that_dies_while_it_saves_fails_the_saving(tmp_path: Path) -> None:
    gang = Gang("processes", 2)
    try:
        trainable = make({**CONFIG, "strategy": "all_reduce"}, gang=gang)
        trainable.step()
        group: Any = trainable.group
        group._peers[1].close()
        with pytest.raises(Exception, match=r"worker 1 is lost"):
            trainable.save_checkpoint(tmp_path)
        assert not (tmp_path / part_name(1)).exists()
    finally:
        gang.close()


def test_checkpoints_of_before_are_loaded(tmp_path: Path) -> None:
    trainable = make(CONFIG, workers=2)
    trainable.step()
    trainable.save_checkpoint(tmp_path)
    expected = trainable.step()["train_loss"]
    meta = json.loads((tmp_path / META).read_text())
    del meta["token"]
    (tmp_path / META).write_text(json.dumps(meta))
    resumed = make(CONFIG, workers=2)
    resumed.load_checkpoint(tmp_path)
    assert resumed.step()["train_loss"] == expected
    assert torch.is_tensor(torch.load(tmp_path / part_name(0), weights_only=True)["generators"][0])
