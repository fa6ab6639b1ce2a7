"""Removing an experiment: all of it goes, nothing else, at once or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tune_platform import CheckpointPolicy, SearchSpec, run, uniform
from tune_platform.errors import ExperimentError
from tune_platform.store.removal import remove
from tune_platform.store.sql import FILE_NAME, REMOVED, SqlStore, open_store


@pytest.fixture(params=["folder", "database"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    place = str(tmp_path / "results") if request.param == "folder" else f"sqlite:///{tmp_path}/all.db"
    with open_store(place) as opened:
        yield opened


@pytest.fixture
def fill(store: SqlStore, tmp_path: Path) -> Callable[..., SearchSpec]:
    """Return a function that runs a search of two trials with checkpoints."""

    def search(name: str = "toy", **changes: Any) -> SearchSpec:
        fields: dict[str, Any] = {
            "trainable": "tests.tune_platform.test_api:Falling", "param_space": {"x": uniform(0, 1)}, "metric": "loss",
            "mode": "min", "name": name, "num_samples": 2, "storage": store.location, "backend": "inline",
            "checkpoint": CheckpointPolicy(at_end=True),
        }  # fmt: skip
        spec = SearchSpec(**(fields | changes))
        run(spec)
        return spec

    return search


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.startswith("all.db-"))  # while the database is open


def test_all_of_it_goes_and_nothing_else(store: SqlStore, fill: Callable[..., SearchSpec], tmp_path: Path) -> None:
    fill("other")
    before = files(tmp_path)
    fill("toy")
    written = sum((tmp_path / path).stat().st_size for path in set(files(tmp_path)) - set(before))
    with store.open("other", readonly=True) as other:
        rows = [*other.read_log()], other.trials(), other.checkpoints()
    removed = remove(store, "toy")
    assert removed.trials == 2
    assert removed.bytes == written > 0
    assert store.names() == ["other"]
    assert files(tmp_path) == before
    with store.open("other", readonly=True) as other:
        assert rows == ([*other.read_log()], other.trials(), other.checkpoints())


def test_checkpoints_elsewhere_go_too(store: SqlStore, fill: Callable[..., SearchSpec], tmp_path: Path) -> None:
    fill("toy", checkpoint=CheckpointPolicy(at_end=True, storage=str(tmp_path / "far")))
    (tmp_path / "far" / "mine.txt").write_text("x")
    assert len(files(tmp_path / "far")) > 1
    remove(store, "toy")
    assert files(tmp_path / "far") == ["mine.txt"]
    assert not (tmp_path / "far" / "toy").exists()


def test_what_a_search_wrote_goes_also_from_another_folder(
    store: SqlStore, fill: Callable[..., SearchSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(tmp_path)
    fill("toy")
    assert any("/checkpoints/" in path for path in files(tmp_path))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    remove(store, "toy")
    assert [path for path in files(tmp_path) if path != "all.db"] == [path for path in before if path != "all.db"]


def test_a_folder_of_the_same_name_that_is_not_the_experiments_stays(
    store: SqlStore, fill: Callable[..., SearchSpec], tmp_path: Path
) -> None:
    mine = tmp_path / "far" / "toy" / "trials" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("x")
    fill("toy", checkpoint=CheckpointPolicy(at_end=True, storage=str(tmp_path / "far" / "toy")))
    assert (tmp_path / "far" / "toy" / "toy").is_dir()
    remove(store, "toy")
    assert files(tmp_path / "far") == ["toy/trials/mine.txt"]


def test_a_driver_that_lives_keeps_it(store: SqlStore, fill: Callable[..., SearchSpec], tmp_path: Path) -> None:
    fill()
    before = files(tmp_path)
    with store.open("toy") as experiment:
        experiment.acquire()
        with pytest.raises(ExperimentError, match=rf"'toy' is being run by \S+:{os.getpid()}"):
            remove(store, "toy")
        assert experiment.row().status == "running"
        experiment.set_status("finished", "all 2 trials are done", 1.0)
    assert store.row("toy").status == "finished"
    assert files(tmp_path) == before
    remove(store, "toy")
    assert store.names() == []


def test_only_whole_names_are_taken(store: SqlStore, fill: Callable[..., SearchSpec]) -> None:
    fill()
    for name in ("to", "toi", ""):
        with pytest.raises(ExperimentError, match="there is no experiment"):
            remove(store, name)
    assert store.names() == ["toy"]


def test_one_whose_making_was_cut_short_goes(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / FILE_NAME).touch()
    with open_store(tmp_path) as store:
        remove(store, "toy")
    assert list(tmp_path.iterdir()) == []


def test_one_that_cannot_be_read_is_let_alone(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / FILE_NAME).write_text("no database, but perhaps it can be saved" * 100)
    with open_store(tmp_path) as store, pytest.raises(ExperimentError, match=r"toy.experiment\.db: file is not a data"):
        remove(store, "toy")
    assert (tmp_path / "toy" / FILE_NAME).exists()


KILLED = """
import os, signal, sys
from tune_platform.store import experiment, removal
from tune_platform.store.sql import open_store

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

where = sys.argv[2]
if where == "before":
    experiment.SqlExperiment.rename = die
    removal.Path.rename = die
elif where == "files":
    removal.shutil.rmtree = die
else:
    experiment.SqlExperiment.delete_rows = die
    removal._delete_folder = die
with open_store(sys.argv[1]) as store:
    removal.remove(store, "toy")
"""


@pytest.mark.parametrize("where", ["before", "files", "rows"])
def test_a_removal_that_is_killed_leaves_it_whole_or_gone(
    store: SqlStore, fill: Callable[..., SearchSpec], tmp_path: Path, where: str
) -> None:
    fill("toy", checkpoint=CheckpointPolicy(at_end=True, storage=str(tmp_path / "far")))
    before = files(tmp_path)
    root = Path(__file__).parents[3]
    place = str(store.location)
    done = subprocess.run([sys.executable, "-c", KILLED, place, where], env={**os.environ, "PYTHONPATH": str(root)},
                          cwd=tmp_path, check=False)  # fmt: skip
    assert done.returncode == -9
    if where != "before":
        assert store.names() == []
        again = fill("toy")  # whoever comes next deletes the rest
        assert store.names(removed=True) == []
        assert not list(tmp_path.rglob(f"{REMOVED}*"))
        assert again.name == "toy"
        remove(store, "toy")
        assert [path for path in files(tmp_path) if not path.endswith(".db")] == []
    else:
        with store.open("toy", readonly=True) as experiment:
            assert [trial.status for trial in experiment.trials()] == ["COMPLETED"] * 2
        assert set(files(tmp_path)) >= set(before)
        remove(store, "toy")
        assert [path for path in files(tmp_path) if not path.endswith(".db")] == []
