"""Places in which no experiments can lie, and those that may only be read: one clear line from every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tune_platform.cli.conftest import Call
from tests.tune_platform.cli.test_cli_run import toy

__all__ = ["toy"]

NOT_WRITABLE = "cannot be written"


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("/dev/null", "/dev/null is a device, not a folder"),
        ("/dev/null/x", "leads through /dev/null, which is a device, not a folder"),
        ("/proc/x", NOT_WRITABLE),
        ("../" * 40 + "x", "leads above the root of the file system"),
        ("toy.yaml", "toy.yaml is a file, not a folder"),
        ("toy.yaml/x", "toy.yaml, which is a file, not a folder"),
        ("x" * 300, "name too long"),
    ],
)
def test_an_impossible_place_is_one_line(call: Call, toy: Path, place: str, wanted: str) -> None:
    before = {path.name for path in toy.iterdir()} | {"__pycache__"}
    commands = [["run", "toy.yaml"], ["run", "toy.yaml", "--dry-run"], ["check", "toy.yaml"]]
    reading = [["show", "toy"], ["best", "toy"], ["resume", "toy"], ["stop", "toy"]]
    for command in commands + reading:
        result = call(*command, "--storage", place, code=2)
        assert result.stdout == ""
        errors = result.stderr.splitlines()
        assert len(errors) == 1, result.stderr
        if command in commands or wanted != NOT_WRITABLE:
            assert wanted.lower() in errors[0].lower()
    listed = call("ls", "--storage", place, code=None)
    assert (listed.exit_code, len(listed.stderr.splitlines())) == ((0 if wanted == NOT_WRITABLE else 2), 1)
    assert call("doctor", "--storage", place, code=1).stdout.count("fail  storage") == 1
    assert {path.name for path in toy.iterdir()} <= before


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize(
    ("place", "wanted"),
    [("/dev/null", "is a device, not a folder"), ("/proc/x", NOT_WRITABLE), ("toy.yaml", "is a file, not a folder")],
)
def test_checkpoints_that_could_not_be_written_start_nothing(
    call: Call, toy: Path, place: str, wanted: str, scheme: str
) -> None:
    for command in (["check"], ["run", "--name", "left"]):
        result = call(*command, "toy.yaml", "--set", f"checkpoint.storage={scheme}{toy / place}", code=2)
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert "checkpoint.storage: " in result.stderr
        assert wanted in result.stderr
    assert call("ls", code=0).stdout == ""
