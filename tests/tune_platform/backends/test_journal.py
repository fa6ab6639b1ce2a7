from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tune_platform.backends._channel import Channel
from tune_platform.backends._journal import Journal, clear, recover
from tune_platform.backends._writer import Written
from tune_platform.protocol.reports import CheckpointRef, Report

HERE = f"{socket.gethostname()}:{os.getpid()}"


class NoCheckpoints:
    writing = False

    def is_writing(self, trial: int) -> bool:
        return False

    def late(self) -> list[Written]:
        return []


@pytest.fixture
def channel(tmp_path: Path) -> Channel:
    channel = Channel()
    channel.attach(NoCheckpoints(), Journal(str(tmp_path)))
    channel.begin(1, trial=4, attempt=2, flush_s=3600.0)
    return channel


def report(step: int) -> Report:
    return Report(step, {"loss": 1 / step, "name": "\ud800", "nan": float("inf"), "list": [1, None]}, 100.0 + step)


def left(tmp_path: Path, after: int = 0, attempt: int = 2) -> list[int]:
    """Return the steps that a driver would find if the process were dead; what is there stays."""
    (path,) = tmp_path.glob(".unsent-*")
    copy = tmp_path / "copy" / path.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(path.read_bytes())
    found = recover(str(copy.parent), HERE, 4, attempt, after)
    return [item.step for item in found if isinstance(item, Report)]


@pytest.mark.parametrize("gpus", ["", " gpu 0", " gpu 0,1", " gpu GPU-8a2f,MIG-GPU-8a2f/1/0"])
def test_what_nobody_has_fetched_is_found(channel: Channel, gpus: str, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
    for step in (3, 4, 5):
        channel.put(report(step))
    written = Written(CheckpointRef(4, 5, "checkpoints/step-5", 99), 2)
    channel.put(written)
    assert recover(str(tmp_path), HERE + gpus, 4, 2, after=2) == [report(3), report(4), report(5), written]
    assert list(tmp_path.iterdir()) == []  # once


def test_only_what_follows_on_what_is_known(channel: Channel, tmp_path: Path) -> None:
    for step in (3, 4, 5):
        channel.put(report(step))
    assert left(tmp_path, after=4) == [5]
    assert left(tmp_path, after=0) == []  # something is missing in between
    assert left(tmp_path, after=2, attempt=1) == []
    (path,) = tmp_path.glob(".unsent-*")
    path.write_bytes(path.read_bytes()[:-10])  # it died in the middle of writing
    assert left(tmp_path, after=2) == [3, 4]


def test_what_is_on_its_way_counts_until_the_driver_asks_again(channel: Channel, tmp_path: Path) -> None:
    channel.put(report(1))
    assert channel.collect(1) is not None  # in the answer to a call, which may be lost with the process
    assert left(tmp_path) == [1]
    channel.put(report(2))
    channel.finish("waiting", None)
    assert channel.collect(1) is not None
    assert left(tmp_path, after=1) == [2]  # the first has arrived: the driver has asked again
    channel.begin(2, trial=4, attempt=2, flush_s=3600.0)
    channel.put(report(3))
    assert left(tmp_path, after=2) == [3]
    channel.begin(3, trial=5, attempt=1, flush_s=3600.0)  # another trial
    assert left(tmp_path, after=2) == []


def test_it_does_not_grow_with_what_was_fetched(channel: Channel, tmp_path: Path) -> None:
    for step in range(1, 500):
        channel.put(report(step))
        channel.finish("waiting", None)
        assert channel.last_batch() is not None
        channel.begin(step + 1, trial=4, attempt=2, flush_s=3600.0)
    (path,) = tmp_path.glob(".unsent-*")
    assert path.stat().st_size == 0
    channel.close()
    assert list(tmp_path.iterdir()) == []


def test_a_death_while_the_file_is_made_shorter_loses_nothing(
    channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> int:
        raise SystemExit

    monkeypatch.setattr("tune_platform.backends._journal._LIMIT", 100)
    channel.put(report(1))
    assert channel.collect(1) is not None
    for step in (2, 3):
        channel.put(report(step))
    channel.finish("waiting", None)
    with monkeypatch.context() as patch:
        patch.setattr("os.write", killed)
        with pytest.raises(SystemExit):
            channel.collect(1)
    (path,) = (path for path in tmp_path.glob(".unsent-*") if path.suffix != ".new")
    assert [item.step for item in recover(str(tmp_path), HERE, 4, 2, after=1)] == [2, 3]  # type: ignore[union-attr]
    assert not path.exists()


def test_where_it_cannot_be_made_shorter_it_goes_on_as_it_is(
    channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("tune_platform.backends._journal._LIMIT", 100)
    channel.put(report(1))
    assert channel.collect(1) is not None
    channel.put(report(2))
    opened = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        channel._note_delivery()
    channel.put(report(3))
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    assert left(tmp_path, after=1) == [2, 3]


def test_it_stays_short_also_where_something_is_always_on_its_way(
    channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_platform.backends._journal._LIMIT", 1_000)
    channel.put(report(1))
    for step in range(2, 200):
        channel.finish("waiting", None)
        channel._take()  # what the driver gets while the next is put
        channel._state, channel._over = None, False
        channel.put(report(step))
        channel._note_delivery()
        assert left(tmp_path, after=step - 1) == [step]
    (path,) = tmp_path.glob(".unsent-*")
    assert path.stat().st_size < 2_000


def test_a_process_that_nobody_knows_is_found_by_its_attempt(channel: Channel, tmp_path: Path) -> None:
    channel.put(report(1))
    (path,) = tmp_path.glob(".unsent-*")
    path.rename(tmp_path / ".unsent-elsewhere-1")
    (tmp_path / ".unsent-elsewhere-0").write_bytes(b'[3, 1, 1, 1.0, {"loss": 1}]\n[3, 1')  # another's, cut
    assert recover(str(tmp_path), "", 4, 2, after=0) == [report(1)]
    assert len(list(tmp_path.iterdir())) == 2  # they may be alive


def test_without_a_folder_or_the_right_to_write_there_nothing_is_kept(tmp_path: Path) -> None:
    for folder in ("", str(tmp_path / "file" / "inside")):
        (tmp_path / "file").touch()
        journal = Journal(folder)
        journal.add(report(1), 0, 1)
        journal.close()
    assert recover("", HERE, 0, 1, 0) == []
    assert recover(str(tmp_path), "", 0, 1, 0) == []
    assert recover(str(tmp_path), "elsewhere:1", 0, 1, 0) == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_process_whose_host_nobody_knows_and_what_an_earlier_driver_left(channel: Channel, tmp_path: Path) -> None:
    channel.put(report(1))
    assert len(recover(str(tmp_path), f":{os.getpid()}", 4, 2, 0)) == 1
    Journal(str(tmp_path)).add(report(1), 0, 1)
    clear(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
