"""Checkpoints finished behind the training: copies for others come first, and stay until storage has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from tune_platform.backends import _writer
from tune_platform.backends._memory import FilesCopy, Memory
from tune_platform.backends._writer import InMemory, Writer, Written
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.store.checkpoints import CheckpointStorage, Draft


class Slow:
    """A storage that takes one checkpoint for each `let`, or refuses it, and says what a writer told meanwhile."""

    def __init__(self, folder: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.storage, self.memory, self.told = CheckpointStorage(str(folder)), memory, Event()
        self.gates, self.error = {1: Event(), 2: Event()}, None  # type: dict[int, Event], OSError | None
        keep = Draft.keep

        def slowly(draft: Draft, step: int, attempt: int) -> CheckpointRef:
            self.gates[step].wait(30)
            if self.error is not None:
                raise self.error
            return keep(draft, step, attempt)

        monkeypatch.setattr(Draft, "keep", slowly)
        self.writer = Writer(self.told.set, memory)

    def submit(self, step: int, content: str) -> None:
        draft = self.storage.draft(0)
        (draft.files / "x").write_text(content)
        self.writer.submit(draft, step, 1)

    def wait(self) -> list[InMemory | Written]:
        found: list[InMemory | Written] = []
        while not found:
            assert self.told.wait(30)
            self.told.clear()
            found = self.writer.take()
        return found

    def close(self) -> None:
        for gate in self.gates.values():
            gate.set()
        self.writer.close()


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Slow]:
    return lambda limit: Slow(tmp_path, Memory(limit), monkeypatch)


def content(memory: Memory, ref: CheckpointRef) -> bytes | None:
    copy = memory.get(ref)
    if copy is None:
        return None
    assert isinstance(copy, FilesCopy)
    with copy.opened() as directory:
        return (directory / "x").read_bytes()


def test_a_copy_does_not_wait_for_an_earlier_checkpoint_to_be_written(slow: Callable[[int], Slow]) -> None:
    one = slow(100)
    refs = []
    for step, text in ((1, "old"), (2, "new")):
        one.submit(step, text)
        [held] = one.wait()
        assert isinstance(held, InMemory)
        refs.append(held.ref)
    assert [content(one.memory, ref) for ref in refs] == [b"old", b"new"], "neither is in storage"
    one.gates[1].set()
    [written] = one.wait()
    assert written == Written(refs[0], 1)
    one.close()
    assert [content(one.memory, ref) for ref in refs] == [None, b"new"]


def test_what_was_offered_stays_until_it_is_written_however_little_room_there_is(slow: Callable[[int], Slow]) -> None:
    one = slow(4)
    one.submit(1, "old")
    [held] = one.wait()
    one.submit(2, "new")
    assert one.told.wait(30)
    assert one.writer.take() == [], "the second is not offered"
    assert content(one.memory, held.ref) == b"old"
    one.close()


def test_what_could_not_be_written_makes_room(slow: Callable[[int], Slow]) -> None:
    one = slow(4)
    one.submit(1, "old")
    one.wait()
    one.error = OSError("no space")
    one.gates[1].set()
    one.writer.flush(0)
    with pytest.raises(OSError, match="no space"):
        one.writer.check(0, 1)
    one.told.clear()
    one.submit(2, "new")
    [held] = one.wait()
    assert isinstance(held, InMemory)
    one.close()


def test_a_training_that_waits_for_storage_says_so_once(
    slow: Callable[[int], Slow], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_writer, "SLOW_S", 0.01)
    one = slow(0)
    one.submit(1, "a")
    one.submit(2, "b")
    waiting = Thread(target=one.writer.make_room)
    waiting.start()
    while not caplog.records:
        assert waiting.is_alive()
        waiting.join(0.01)
    one.close()
    waiting.join()
    assert [record.getMessage() for record in caplog.records] == [
        "the training waits: its storage has not finished a checkpoint for 0.01 s"
    ]
