"""A disk that is full holds launches back, and costs no trial a retry."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from tune_platform import CheckpointPolicy, SearchSpec, Trainable, run, uniform
from tune_platform.backends import _full_disk
from tune_platform.backends._full_disk import FullDisk, is_full


def no_room() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", "/data/weights.pt")


def test_it_is_found_below_what_was_made_of_it() -> None:
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = no_room()
    assert is_full(no_room())
    assert is_full(wrapped)
    assert is_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not is_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_full(None)
    wrapped.__cause__.__context__ = wrapped  # a circle ends
    assert is_full(wrapped)


def test_it_waits_longer_each_time_and_tells_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    monkeypatch.setattr("tune_platform.backends._full_disk.time.monotonic", lambda: clock[0])
    full = FullDisk()
    waits = []
    for _ in range(7):
        assert full.note("disk_full", "no room")
        assert not full.note("disk_full", "no room, beside it")
        waits.append(full.until - clock[0])
        clock[0] = full.until
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert not full.note("exception", "something else")
    full.went_well()
    full.went_well()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "a disk is full", "there is room on the disk again, after 91 s",
    ]  # fmt: skip
    assert full.note("disk_full", "again")
    assert full.until - clock[0] == 1


@pytest.mark.parametrize("where", ["step", "save"])
def test_a_search_goes_on_once_there_is_room(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_full_disk, "_FIRST_S", 0.01)
    left = [3]

    class Writing(Trainable):
        def setup(self, config: object) -> None:
            self.steps = 0

        def step(self) -> dict[str, float] | None:
            self.fill("step")
            self.steps += 1
            return {"loss": 1 / self.steps} if self.steps < 3 else None

        def save_checkpoint(self, directory: Path) -> None:
            self.fill("save")
            (directory / "steps").write_text(str(self.steps))

        def load_checkpoint(self, directory: Path) -> None:
            self.steps = int((directory / "steps").read_text())

        def fill(self, here: str) -> None:
            if here == where and left[0]:
                left[0] -= 1
                raise no_room()

    with caplog.at_level(logging.WARNING):
        results = run(SearchSpec(
            trainable=Writing, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=2,
            scheduler="fifo", searcher="random", backend="inline", storage=str(tmp_path),
            checkpoint=CheckpointPolicy(every=1), retries={"exception": 0}, progress="off",
        ))  # fmt: skip
    assert left == [0]
    assert [(trial.status, trial.step) for trial in results] == [("COMPLETED", 2)] * 2
    said = [record.getMessage() for record in caplog.records]
    assert sum("a disk is full" in line for line in said) == 1
    assert sum("there is room on the disk again" in line for line in said) == 1
