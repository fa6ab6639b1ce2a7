"""Entrypoints of the first release keep working, and folders of users' own named alike are theirs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.tune_platform.backends.test_executor import run
from tune_platform import SearchSpec
from tune_platform.errors import SpecError
from tune_platform.modules import entrypoint_today, module_name, search_like
from tune_platform.spec import load_entrypoint

ROOT = Path(__file__).parents[2]
OWN = 'raise RuntimeError("this is the user\'s own")\n'
TRAIN = """\
from tune_platform import Trainable

class Mine(Trainable):
    def step(self):
        return {"loss": 0.0}
"""


@pytest.mark.parametrize(
    ("name", "today"),
    [
        ("trainables.digits", "tune_platform.trainables.digits"),
        ("trainables.strategies.lsgd", "tune_platform.trainables.strategies.lsgd"),
        ("searchers.random", "tune_platform.searchers.random"),
        ("searchers", "tune_platform.searchers"),
        ("tune_platform.trainables.digits", "tune_platform.trainables.digits"),
        ("trainables_of_mine.digits", "trainables_of_mine.digits"),
    ],
)
def test_a_module_of_the_first_release_has_a_name_today(name: str, today: str) -> None:
    assert module_name(name) == today
    assert entrypoint_today(f"{name}:Thing") == f"{today}:Thing"


def test_the_platforms_modules_are_loaded_once() -> None:
    from tune_platform.trainables.digits import DigitsTrainable

    assert load_entrypoint("trainables.digits:DigitsTrainable") is DigitsTrainable
    assert not [name for name in sys.modules if name.split(".")[0] in ("trainables", "searchers")]


def test_the_worker_knows_the_names_too() -> None:
    batch = run("trainables.nothing_like_it:Thing")
    assert batch.failure is not None
    assert "no module 'tune_platform.trainables.nothing_like_it'" in batch.failure.message


def test_what_is_nowhere_is_looked_for_where_it_would_be() -> None:
    with pytest.raises(SpecError, match=r"no module 'tune_platform\.trainables\.digit' \(did you mean '.*\.digits'"):
        load_entrypoint("trainables.digit:DigitsTrainable")


def test_an_older_specs_name_is_no_difference() -> None:
    data = {
        "version": 1,
        "entrypoint": "trainables.digits:DigitsTrainable",
        "objective": {"metric": "m", "mode": "min"},
    }
    old = SearchSpec.from_dict(data)
    new = SearchSpec.from_dict({**data, "entrypoint": "tune_platform.trainables.digits:DigitsTrainable"})
    assert old.fingerprint() == new.fingerprint()
    assert new.differences(old.to_dict()) == []
    assert old.load_trainable() is new.load_trainable()


def python(folder: Path, *arguments: str) -> str:
    """Run Python in a folder of the user's, in a process of its own."""
    env = {**os.environ, "TUNE_PLATFORM_STORAGE": str(folder / "results"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_a_users_own_trainables_are_theirs_and_the_platforms_stay(tmp_path: Path) -> None:
    write(tmp_path / "trainables/__init__.py")
    write(tmp_path / "trainables/own.py", TRAIN)
    write(tmp_path / "trainables/digits.py", TRAIN)
    code = """\
from tune_platform.spec import load_entrypoint
for name in ("own:Mine", "digits:Mine", "stats:holm"):
    print(load_entrypoint("trainables." + name).__module__)
"""
    assert python(tmp_path, "-c", code).split() == [
        "trainables.own",
        "trainables.digits",
        "tune_platform.trainables.stats",
    ]


def test_a_users_folder_is_not_even_imported_for_a_module_of_the_platform(tmp_path: Path) -> None:
    write(tmp_path / "trainables/__init__.py", OWN)
    code = "from tune_platform.spec import load_entrypoint as load; print(load('trainables.stats:holm').__module__)"
    assert python(tmp_path, "-c", code).split() == ["tune_platform.trainables.stats"]


@pytest.mark.parametrize("kind", ["packages", "folders", "files"])
def test_the_readmes_example_runs_beside_folders_of_these_names(kind: str, tmp_path: Path) -> None:
    for name in ("trainables", "searchers"):
        if kind == "packages":
            write(tmp_path / name / "__init__.py", OWN)
        elif kind == "folders":
            write(tmp_path / name / "base.py", OWN)
        else:
            write(tmp_path / f"{name}.py", OWN)
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    write(tmp_path / "search.py", block)
    assert "'lr'" in python(tmp_path, "search.py")


def test_a_worker_looks_first_where_a_script_does(monkeypatch: pytest.MonkeyPatch) -> None:
    library = sysconfig.get_path("stdlib")
    monkeypatch.setattr(sys, "path", ["/ray", library, "/here", "/packages"])
    search_like(["/here", "/more", library, "/packages", "/else/packages"])
    assert sys.path == ["/here", "/more", "/ray", library, "/packages", "/else/packages"]
