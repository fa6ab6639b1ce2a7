"""Checkpoints are deleted beside the search, which ends also where their storage hangs or refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tune_platform.store.checkpoints import CheckpointStorage
from tune_platform.store.janitor import Janitor


@pytest.fixture
def storage(tmp_path: Path) -> CheckpointStorage:
    return CheckpointStorage(str(tmp_path), durable=False)


@pytest.fixture
def gate(storage: CheckpointStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Deleting hangs until this is set, at the end of the test at the latest."""
    opened, delete = threading.Event(), CheckpointStorage.delete
    monkeypatch.setattr(CheckpointStorage, "delete", lambda *words: (opened.wait(60), delete(*words)))
    yield opened
    opened.set()


def test_all_is_deleted_before_it_closes(storage: CheckpointStorage, caplog: pytest.LogCaptureFixture) -> None:
    refs = [storage.save(0, step, 0, lambda folder: (folder / "x").write_text("x")) for step in range(5)]
    janitor = Janitor(storage)
    janitor.drop(refs[:2])
    janitor.drop(refs[2:4])
    janitor.close(60)
    assert storage.list() == refs[4:]
    assert caplog.records == []
    Janitor(storage).close(60)  # one that had nothing to do


def test_storage_that_hangs_ends_no_search(
    storage: CheckpointStorage, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    refs = [storage.save(0, step, 0, lambda folder: (folder / "x").write_text("x")) for step in range(2)]
    janitor = Janitor(storage)
    janitor.drop(refs)
    janitor.close(0.01)
    (record,) = caplog.records
    assert "checkpoint(s) that nobody needs were not deleted" in record.getMessage()
    assert "(no answer within 0.01 s); a resume deletes them" in record.getMessage()


def test_what_is_refused_is_told_once(
    storage: CheckpointStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refs = [storage.save(0, step, 0, lambda folder: (folder / "x").write_text("x")) for step in range(3)]
    real = CheckpointStorage.delete

    def picky(self: CheckpointStorage, ref: object) -> None:
        if ref in refs[:2]:
            raise PermissionError("not yours")
        real(self, ref)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointStorage, "delete", picky)
    janitor = Janitor(storage)
    janitor.drop(refs)
    janitor.close(60)
    assert storage.list() == refs[:2]
    (record,) = caplog.records
    assert "2 checkpoint(s)" in record.getMessage()
    assert "not yours" in record.getMessage()
