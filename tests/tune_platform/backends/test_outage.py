"""A disk that is full, and storage that does not answer, hold launches back, and cost no trial a retry."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import pytest

from tune_platform import CheckpointPolicy, SearchSpec, Trainable, run, uniform
from tune_platform.backends import _outage
from tune_platform.backends._outage import Outage, cause_of
from tune_platform.store.checkpoints import StorageAway


def no_room() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", "/data/weights.pt")


def test_it_is_found_below_what_was_made_of_it() -> None:
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = no_room()
    assert cause_of(no_room()) == cause_of(wrapped) == "disk_full"
    assert cause_of(OSError(errno.EDQUOT, "Disk quota exceeded")) == "disk_full"
    assert cause_of(OSError(errno.EACCES, "Permission denied")) == cause_of(None) == ""
    assert cause_of(TimeoutError("of the training code's own")) == ""
    assert cause_of(StorageAway("no answer")) == "storage_away"
    wrapped.__cause__.__context__ = wrapped  # a circle ends
    assert cause_of(wrapped) == "disk_full"


def test_it_waits_longer_each_time_and_tells_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    monkeypatch.setattr("tune_platform.backends._outage.time.monotonic", lambda: clock[0])
    full = Outage()
    waits = []
    for _ in range(7):
        assert full.note("disk_full", "no room")
        assert not full.note("disk_full", "no room, beside it")
        waits.append(full.until - clock[0])
        clock[0] = full.until
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert not full.note("exception", "something else")
    full.went_well(saved=False)
    full.went_well(saved=True)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "a disk is full", "there is room on the disk again, after 91 s",
    ]  # fmt: skip
    assert full.note("disk_full", "again")
    assert full.until - clock[0] == 1
    full.went_well(saved=True)
    caplog.clear()
    clock[0] = full.until
    assert full.note("storage_away", "no answer")
    full.went_well(saved=False)  # a trial that needs none says nothing of it
    assert len(caplog.records) == 1
    full.went_well(saved=True)
    assert caplog.records[-1].getMessage() == "the storage of checkpoints answers again, after 0 s"


@pytest.mark.parametrize("where", ["step", "save"])
def test_a_search_goes_on_once_there_is_room(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_outage, "_FIRST_S", 0.01)
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


class Counting(Trainable):
    """Counts to 4; at `away` it has the endpoint stop for a while."""

    def setup(self, config: object) -> None:
        self.steps = 0

    def step(self) -> dict[str, float] | None:
        self.steps += 1
        return {"loss": self.config["x"] / self.steps} if self.steps < 5 else None

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "steps").write_text(str(self.steps))

    def load_checkpoint(self, directory: Path) -> None:
        self.steps = int((directory / "steps").read_text())


@pytest.mark.parametrize("when", ["put_file", "get_file"])
def test_a_search_goes_on_once_its_object_store_answers(
    when: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import s3fs
    from botocore.exceptions import EndpointConnectionError

    monkeypatch.setattr(_outage, "_FIRST_S", 0.01)
    client = s3fs.S3FileSystem()  # the one that is used: clients are kept
    real = getattr(client, when)
    left = [3]

    def gone(*arguments: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise EndpointConnectionError(endpoint_url=bucket)
        return real(*arguments, **options)

    monkeypatch.setattr(client, when, gone)
    with caplog.at_level(logging.WARNING):
        results = run(SearchSpec(
            trainable=Counting, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=8,
            scheduler={"name": "asha", "min": 1, "max": 4, "eta": 2, "type": "promotion"}, searcher="random",
            backend="inline", storage=str(tmp_path), checkpoint=CheckpointPolicy(every=1, storage=bucket), retries={},
            keep_warm=0, progress="off",
        ))  # fmt: skip
    assert left == [0]
    assert results.counts["COMPLETED"] >= 1
    assert "FAILED" not in results.counts
    frame = results.dataframe(reports=True)
    for trial in results:
        assert list(frame[frame["trial"] == trial.number]["step"]) == list(range(1, trial.step + 1))
    said = [record.getMessage() for record in caplog.records]
    assert sum("does not answer: " in line for line in said) >= 1
    assert sum("the storage of checkpoints answers again" in line for line in said) == 1
