"""Files that are looked at once: in order, with progress, and again only when they change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tune_platform.trainables import checked


def test_each_comes_in_order_whatever_the_threads_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(checked, "_BLOCK", 2)
    monkeypatch.setattr(checked, "TELL_EVERY", -1.0)
    with caplog.at_level("INFO"):
        assert list(checked.each(lambda number: number**2, range(5), "odd")) == [0, 1, 4, 9, 16]
    assert [record.getMessage() for record in caplog.records] == [f"checked {i} of 5 odd images" for i in range(1, 6)]


def test_a_note_is_of_the_files_as_they_are(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "missing")]
    for file in files[:2]:
        file.write_text("x")
    note = checked.note_of(files, b"rule")
    assert checked.kept(note) is None
    checked.keep(note, "3 4")
    assert checked.kept(checked.note_of(files, b"rule")) == "3 4"
    assert checked.kept(checked.note_of(files, b"another rule")) is None
    files[1].write_text("xy")
    assert checked.kept(checked.note_of(files, b"rule")) is None


def test_where_nothing_can_be_kept_it_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNE_PLATFORM_CACHE", str(tmp_path / "file"))
    note = checked.note_of([])
    checked.keep(note, "seen")
    assert checked.kept(note) is None
