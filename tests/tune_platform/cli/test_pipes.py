"""Commands in a pipe whose reader has what it wanted: that is no failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tune_platform.cli.conftest import Make
from tests.tune_platform.cli.test_cli_run import SPEC_TEXT, TOY

ROOT = Path(__file__).parents[3]


def unread(words: str, folder: Path, *, stderr: bool = False) -> tuple[int, str]:
    """Run a command whose stdout (and stderr, perhaps) nobody reads; return its code and what it says on stderr."""
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    command = [sys.executable, "-m", "tune_platform", *words.split()]
    err = write if stderr else subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=env, stdout=write, stderr=err, text=True) as process:
        os.close(write)
        said = process.communicate(timeout=120)[1]
    return process.returncode, said or ""


@pytest.fixture
def folder(make: Make, tmp_path: Path) -> Path:
    """A folder with an experiment, and with a spec for another one."""
    make()
    (tmp_path / "toy_for_cli.py").write_text(TOY)
    (tmp_path / "toy.yaml").write_text(SPEC_TEXT)
    return tmp_path


def test_show_to_head(folder: Path) -> None:
    assert unread("show digits", folder) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "--help", "--version", "show --help", "ls", "ls --json", "show digits 0", "show digits --json",
        "best digits", "best digits --as yaml", "why digits 0", "why digits 0 --json", "export digits",
        "export digits --format parquet", "export digits --reports", "check toy.yaml",
        "check toy.yaml --json --explain", "completion bash",
    ],
)  # fmt: skip
def test_every_command_that_prints(folder: Path, words: str) -> None:
    code, said = unread(words, folder)
    assert code == 0, said
    assert "Error" not in said
    assert "Traceback" not in said
    assert unread(words, folder, stderr=True)[0] == 0


@pytest.mark.slow
def test_a_search_runs_to_its_end_though_nobody_listens(folder: Path, storage: Path) -> None:
    from tune_platform.results import Results

    assert unread("run toy.yaml --name toy", folder, stderr=True)[0] == 0
    assert Results("toy", storage=storage).status == "finished"
    assert unread("run toy.yaml --name none --set space.limit=-1", folder)[0] == 1  # its own exit code


@pytest.mark.slow
def test_an_error_that_nobody_reads_is_one_all_the_same(folder: Path) -> None:
    assert unread("show nothing", folder, stderr=True)[0] == 2
