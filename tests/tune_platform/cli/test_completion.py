"""What shells complete, asked as they ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tune_platform.cli.conftest import Call, Make
from tune_platform.cli.app import main
from tune_platform.cli.completion import PROGRAM, VARIABLE

SHELLS = ("bash", "zsh", "fish")


def completed(words: str) -> list[str]:
    """Return what is offered for the last word."""
    from click.shell_completion import ShellComplete

    *before, last = words.split(" ")
    return [item.value for item in ShellComplete(main, {}, PROGRAM, VARIABLE).get_completions(before, last)]


def test_names_of_experiments_and_of_what_an_option_takes(make: Make) -> None:
    make("digits")
    make("digits-again")
    make("sums")
    assert completed("sh") == ["show"]
    for command in ("show", "best", "why", "export", "resume", "stop", "pause", "unpause", "enqueue", "logs", "rm"):
        assert completed(f"{command} dig") == ["digits", "digits-again"], command
    assert completed("best digits --as p") == ["python"]
    assert completed("show digits --status f") == ["failed"]
    assert completed("show digits --sort b") == ["best"]
    assert completed("best digits --metric ") == ["accuracy", "epoch", "loss"]
    assert completed("best digits --metric a") == ["accuracy"]
    assert completed("best --metric ") == completed("best unknown --metric ") == []


def test_a_store_that_is_not_there_offers_nothing(storage: Path) -> None:
    assert completed("show x") == []
    assert completed("show --storage mysql://x/y d") == []
    assert not storage.exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_of_that_shell(call: Call, shell: str) -> None:
    script = call("completion", shell).stdout
    assert VARIABLE in script
    assert PROGRAM in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=60)


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which the program is found by its name."""
    (folder / "bin").mkdir()
    program = folder / "bin" / PROGRAM
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tune_platform "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[3]), "HOME": str(folder)}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
def test_bash_completes_as_documented(make: Make, tmp_path: Path) -> None:
    make("digits")
    asks = (
        'eval "$(tune-platform completion bash)"\n'
        "COMP_WORDS=(tune-platform show dig) COMP_CWORD=2\n"
        "$(complete -p tune-platform | sed 's/.*-F \\([^ ]*\\).*/\\1/') tune-platform\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-c", asks], env=environment(tmp_path), capture_output=True, text=True, timeout=120)
    assert done.stdout == "digits\n", done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("fish"), reason="there is no fish here")
def test_fish_completes_as_documented(make: Make, tmp_path: Path) -> None:
    make("digits")
    asks = 'tune-platform completion fish | source\ncomplete -C "tune-platform show dig"\n'
    done = subprocess.run(["fish", "-c", asks], env=environment(tmp_path), capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["digits"], done.stderr
