"""Who may read what is written: its owner alone, and the group where the storage folder is for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tune_platform import CheckpointPolicy, SearchSpec, run, uniform


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """An umask while the test runs."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def search(storage: str, elsewhere: Path) -> None:
    spec = SearchSpec(
        trainable="tests.tune_platform.test_api:Falling", param_space={"x": uniform(0, 1)}, metric="loss", mode="min",
        name="toy", num_samples=1, storage=storage, backend="inline",
        checkpoint=CheckpointPolicy(at_end=True, storage=str(elsewhere)),
    )  # fmt: skip
    run(spec)


def test_results_are_for_their_owner(tmp_path: Path, umask: int) -> None:
    search(str(tmp_path / "new" / "results"), tmp_path / "far")
    storage = tmp_path / "new" / "results"
    assert mode(storage) == mode(storage / "toy") == mode(tmp_path / "far") == mode(tmp_path / "far" / "toy") == 0o700
    assert mode(storage / "toy" / "experiment.db") == 0o600


@pytest.mark.parametrize(
    ("given", "folder", "file"),
    [
        (0o700, 0o700, 0o600),
        (0o750, 0o750, 0o640),
        (0o755, 0o750, 0o640),
        (0o2770, 0o2770, 0o660),
        (0o1777, 0o700, 0o600),
    ],
)
def test_a_folder_that_is_there_decides_about_its_group(
    tmp_path: Path, umask: int, given: int, folder: int, file: int
) -> None:
    storage = tmp_path / "results"
    storage.mkdir()
    storage.chmod(given)
    search(str(storage), tmp_path / "far")
    assert mode(storage) == given
    assert mode(storage / "toy") == folder
    assert mode(storage / "toy" / "experiment.db") == file


def test_the_journal_has_the_rights_of_the_file(tmp_path: Path, umask: int) -> None:
    from tune_platform.store.sql import open_store

    with open_store(tmp_path / "results") as store, store.create("toy", {}, created=1.0) as experiment:
        experiment.request("stop")
        found = sorted((tmp_path / "results" / "toy").glob("experiment.db*"))
        assert len(found) == 3
        assert {mode(path) for path in found} == {0o600}


def test_a_database_by_url_is_for_its_owner_too(tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700)
    search(f"sqlite:///{tmp_path}/all.db", tmp_path / "far")
    assert mode(tmp_path / "all.db") == 0o600
    assert mode(tmp_path / "tune_results") == mode(tmp_path / "tune_results" / "toy") == 0o700
