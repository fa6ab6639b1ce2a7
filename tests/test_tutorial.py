"""The tutorial, word for word: in a fresh copy of the repository, with nothing set up but uv; and in a notebook.

In a folder of somebody's own, after an installation, it is followed in `test_packaging`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.test_docs import BLOCK, FILE

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"


def follow(folder: Path, run: Callable[[str], object]) -> None:
    """Save the files of the page in `folder`, and `run` its commands, in their order."""
    for language, text in BLOCK.findall(PAGE.read_text()):
        named = FILE.match(text)
        if named:
            (folder / named[1]).write_text(text)
        elif language == "bash":
            for line in text.splitlines():
                run(line)
    assert "line-again" in (folder / "line.yaml").read_text()
    assert (folder / "line.csv").read_text().count("\n") == 41


def copy_of_the_repository(folder: Path) -> None:
    """Copy what git tracks, as it stands here; the lock file too where there is one, so as to install nothing newer."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no checkout")
    for name in [*listed.stdout.split("\0")[:-1], "uv.lock"]:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not here")
def test_the_tutorial_can_be_followed_in_the_repository(tmp_path: Path) -> None:
    copy_of_the_repository(tmp_path)
    # Nothing of this environment is to be seen, nor of the checkout that it belongs to.
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TUNE_", "UV_", "VIRTUAL"))
    }
    env |= {"RAY_ADDRESS": "local", "PATH": os.pathsep.join(_without_this_environment(env["PATH"]))}

    def run(command: str) -> None:
        words = ["bash", "-euc", command]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    try:
        follow(tmp_path, run)
        run("uv run tune-platform run examples/digits.yaml --trials 3 --set schedule.max=3")
    finally:
        shutil.rmtree(tmp_path)  # gigabytes, where they are no links


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")  # of the kernel's own machinery
def test_the_tutorial_can_be_followed_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TUNE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    cells: list[str] = []
    for language, text in BLOCK.findall(PAGE.read_text()):
        named = FILE.match(text)
        if named and named[1] == "search.py":
            cells.append(text)
        elif named:
            cells.append(f"%%writefile {named[1]}\n{text}")
        elif language == "bash":
            commands = [line.removeprefix("uv run ") for line in text.splitlines()]
            commands.remove("python search.py") if "python search.py" in commands else None
            cells += [f"!{line}\nassert _exit_code == 0" for line in commands]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "line.csv").read_text().count("\n") == 41
    (search,) = [cell for cell in notebook.cells if cell.source.startswith("# file: search.py")]
    shown, *printed = search.outputs  # nothing on stderr, nothing of widgets that are not here
    assert "finished" in shown.data["text/html"]  # shown as it went, in one output
    assert printed[0].text.startswith("{'optimizer':")
    assert {output.name for output in printed} == {"stdout"}


def _without_this_environment(path: str) -> list[str]:
    return [folder for folder in path.split(os.pathsep) if not (Path(folder) / "tune-platform").exists()]
