"""A module that an entrypoint names is the user's, wherever it is imported; relative paths lead where the driver is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tune_platform.errors import SpecError
from tune_platform.spec import load_entrypoint
from tune_platform.surroundings import Surroundings, check_name, put_folder_first, surroundings

ROOT = Path(__file__).parents[2]
WAVE = "def train(config):\n    return {'loss': float(open('data.txt').read())}\n"
SPEC = """\
version: 1
entrypoint: {module}:train
space: {{x: 1}}
objective: {{metric: loss, mode: min}}
budget: {{trials: 1}}
backend: {{name: {backend}}}
"""
#: As `uv run` in the folder of an editable installation: the folder is on the path, behind all others.
BEHIND = """\
import os, sys
sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())] + [os.getcwd()]
from tune_platform.cli import main
main()
"""
#: As an installed script: the folder is not on the path at all.
ABSENT = BEHIND.replace(" + [os.getcwd()]", "")
IN_PYTHON = """\
from tune_platform import SearchSpec, run
spec = SearchSpec(trainable="wave:train", param_space={"x": 1}, metric="loss", mode="min", backend="inline")
if __name__ == "__main__":
    results = run(spec, progress="off")
    print("best", results.best().best)
"""
AGAIN = """\
from tune_platform import load, resume
resume(load("first").name, extend={"trials": 1}, progress="off")
print([(trial.status, trial.best) for trial in load("first")])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a module called like one of the standard library's, and a file that it reads."""
    (tmp_path / "wave.py").write_text(WAVE)
    (tmp_path / "data.txt").write_text("0.25")
    for backend in ("inline", "ray"):
        (tmp_path / f"{backend}.yaml").write_text(SPEC.format(module="wave", backend=backend))
    (tmp_path / "search.py").write_text(IN_PYTHON)
    return tmp_path


def said_by(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "program", [["-c", BEHIND], ["-c", ABSENT], ["-m", "tune_platform"]], ids=["behind", "absent", "m"]
)
def test_the_folder_of_a_command_comes_first(program: list[str], folder: Path) -> None:
    said = said_by([sys.executable, *program, "run", "inline.yaml", "--name", "first"], folder)
    assert "0.25" in said, said
    assert "1 COMPLETED" in said or "finished" in said


@pytest.mark.slow
@pytest.mark.parametrize("program", [BEHIND, ABSENT], ids=["behind", "absent"])
def test_it_comes_first_in_the_workers_of_ray(program: str, folder: Path) -> None:
    said = said_by([sys.executable, "-c", program, "run", "ray.yaml", "--name", "ray"], folder)
    assert "0.25" in said, said


def test_a_script_finds_modules_beside_itself_and_in_the_folder(folder: Path, tmp_path: Path) -> None:
    assert "best 0.25" in said_by([sys.executable, "search.py"], folder)
    (folder / "scripts").mkdir()
    (folder / "search.py").rename(folder / "scripts" / "search.py")
    assert "best 0.25" in said_by([sys.executable, "scripts/search.py"], folder)
    (folder / "scripts" / "wave.py").write_text("def train(config):\n    return {'loss': 0.5}\n")
    assert "best 0.5" in said_by([sys.executable, "scripts/search.py"], folder), "the script's own folder comes first"


def test_a_script_resumes_what_was_begun_with_a_module_of_the_folder(folder: Path) -> None:
    said_by([sys.executable, "-m", "tune_platform", "run", "inline.yaml", "--name", "first"], folder)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "again.py").write_text(AGAIN)
    said = said_by([sys.executable, "scripts/again.py"], folder)
    assert "[('COMPLETED', 0.25), ('COMPLETED', 0.25)]" in said, said


@pytest.mark.parametrize("module", ["queue", "time"])
def test_a_name_of_pythons_own_that_is_in_use_is_refused(
    module: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / f"{module}.py").write_text(WAVE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SpecError) as caught:
        load_entrypoint(f"{module}:train")
    assert f"'{module}:train': {folder / module}.py cannot be imported as '{module}'" in str(caught.value)
    assert "one of Python's own modules has that name and is in use already. Rename the file" in str(caught.value)


def test_a_module_of_the_user_that_is_loaded_is_no_clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loaded_once.py").write_text(WAVE)
    (tmp_path / "numpy").mkdir()  # a folder of data, not a package
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_entrypoint("loaded_once:train") is load_entrypoint("loaded_once:train")
    check_name("numpy.random")
    del sys.modules["loaded_once"]


def test_the_path_of_another_process_is_taken_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = next(entry for entry in sys.path if entry.endswith(".zip"))
    monkeypatch.setattr(sys, "path", ["", "/own", library, "/site"])
    monkeypatch.chdir(tmp_path)
    found = surroundings()
    assert found == Surroundings(str(tmp_path), [str(tmp_path), "/own", library, "/site"])
    monkeypatch.setattr(sys, "path", ["/worker", library, "/own", "/its-site"])
    monkeypatch.chdir("/")
    assert found.take() == ""
    assert Path.cwd() == tmp_path
    assert sys.path == [str(tmp_path), "/own", "/worker", library, "/its-site", "/site"]
    put_folder_first()
    assert sys.path[0] == str(tmp_path)


def test_a_folder_that_is_not_here_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    said = Surroundings("/not/on/this/machine", []).take()
    assert said == f"/not/on/this/machine (No such file or directory); they run in {tmp_path}"
    assert Path.cwd() == tmp_path
