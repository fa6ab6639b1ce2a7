"""`init` writes examples that run as they stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tune_platform.cli.conftest import Call, lines
from tune_platform.cli import init

#: What each example's metric comes to within a few trials, if it learns at all.
GOOD = {"digits": 0.9, "xgboost": 2.5, "lightning": 0.6}


@pytest.mark.parametrize("example", list(init.EXAMPLES))
def test_it_writes_training_code_and_a_spec(
    call: Call, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("init", example, "--folder", "my folder")
    assert lines(result) == [f"my folder/{example}.yaml", f"my folder/{example}_training.py"]
    assert result.stderr.splitlines() == [
        "next:",
        "  cd 'my folder'",
        f"  tune-platform check {example}.yaml",
        f"  tune-platform run {example}.yaml",
        f"  tune-platform best {example} --as python",
    ]


def test_digits_here_is_the_default_and_what_is_missing_is_said(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = call("init")
    assert lines(result) == ["digits.yaml", "digits_training.py"]
    assert result.stderr.splitlines()[1:3] == [
        "  pip install 'tune-platform[examples]'",
        "  tune-platform check digits.yaml",
    ]


def test_nothing_is_overwritten(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits.yaml").write_text("mine")
    said = call("init", "digits", code=2).stderr
    assert said == "error: digits.yaml: exists already, and is not overwritten; give another --folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["digits.yaml"]
    assert Path("digits.yaml").read_text() == "mine"


def test_where_it_cannot_write_is_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written to" in call("init", "--folder", str(tmp_path / "file" / "inside"), code=2).stderr
    assert "digits" in call("init", "digit", code=2).stderr


@pytest.mark.slow
@pytest.mark.parametrize("example", list(init.EXAMPLES))
def test_the_example_runs_as_it_stands(example: str, tmp_path: Path) -> None:
    """On Ray and inline, by the commands that `init` names."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TUNE_PLATFORM_STORAGE")}
    env |= {"RAY_ADDRESS": "local", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}

    def shell(command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done

    _, *commands = shell(f"tune-platform init {example}").stderr.splitlines()
    assert len(commands) == 3
    for command in commands:
        # As many trials as fit a test; what else the commands say is left as it is.
        more = " --trials 6 --concurrency 2" if "run" in command else ""
        done = shell(command + more)
    assert done.stdout.startswith("config = {")
    best = shell(f"tune-platform show {example} --json").stdout
    if example == "xgboost":  # the quickest
        shell(f"tune-platform run {example}.yaml --backend inline --name inline --trials 2")
    shown = json.loads(best)
    value, mode = shown["trials"][0]["best"], shown["objective"][0]["mode"]
    assert value >= GOOD[example] if mode == "max" else value <= GOOD[example]
    assert {trial["status"] for trial in shown["trials"]} == {"COMPLETED", "STOPPED"}
