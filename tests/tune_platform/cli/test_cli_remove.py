"""`rm`, and `run` where the name is taken."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.tune_platform.cli.conftest import Call, Make
from tests.tune_platform.cli.test_cli_run import toy
from tune_platform.cli import main
from tune_platform.store.sql import open_store

__all__ = ["toy"]


def names(storage: Path) -> list[str]:
    with open_store(storage) as store:
        return store.names()


def test_it_asks_first(call: Call, make: Make, storage: Path) -> None:
    make()
    result = CliRunner().invoke(main, ["rm", "digits"], input="n\n")
    assert (result.exit_code, names(storage)) == (0, ["digits"])
    assert result.stderr.startswith(f"digits in {storage}: interrupted, 1 running, 1 completed, 1 stopped, 1 failed\n")
    assert result.stderr.endswith("nothing was removed\n")
    result = CliRunner().invoke(main, ["rm", "digits"], input="")
    assert (result.exit_code, names(storage)) == (2, ["digits"])
    assert "--yes does not ask" in result.stderr
    result = CliRunner().invoke(main, ["rm", "digits"], input="y\n")
    assert (result.exit_code, names(storage)) == (0, [])
    assert "removed digits: 4 trials, " in result.stderr


def test_several_at_once(call: Call, make: Make, storage: Path) -> None:
    for name in ("one", "two", "three"):
        make(name)
    result = call("rm", "one", str(storage / "two"), "--yes")
    assert [line.partition(":")[0] for line in result.stderr.splitlines()[2:]] == ["removed one", "removed two"]
    assert names(storage) == ["three"]


@pytest.mark.parametrize("other", ["two", "on"])
def test_nothing_is_removed_where_one_cannot_be(call: Call, make: Make, storage: Path, other: str) -> None:
    make("one")
    make("two", status="running")
    result = call("rm", "one", other, "--yes", code=2)
    wanted = "'two' is being run by" if other == "two" else "there is no experiment 'on'"
    assert wanted in result.stderr.splitlines()[-1]
    assert names(storage) == ["one", "two"]


def test_a_run_whose_name_is_taken_names_commands_that_work(call: Call, toy: Path, storage: Path) -> None:
    given = ["run", "toy.yaml", "--set", "space.limit=50", "--trials", "2", "--name", "toy"]
    call(*given)
    refused = call(*given, code=2)
    assert refused.stdout == ""
    first, *choices = refused.stderr.splitlines()
    assert first.startswith(f"error: experiment 'toy' exists already in {storage} (finished: all 2 trials are done)")
    commands = [shlex.split(line[line.index("tune-platform") :])[1:] for line in choices]
    assert [command[-2:] for command in commands] == [
        ["show", "toy"], ["--if-exists", "resume"], ["--if-exists", "new"], ["--if-exists", "replace"],
    ]  # fmt: skip
    assert [command[:-2] for command in commands[1:]] == [given] * 3
    for command in commands:
        assert "2 completed" in call(*command).stdout
    assert names(storage) == ["toy", "toy-2"]


def test_commands_are_those_of_uv_where_it_runs_us(
    call: Call, toy: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    ended = call("run", "toy.yaml", "--name", "toy").stdout
    assert "  uv run tune-platform resume toy --extend trials=10\n" in ended
    refused = call("run", "toy.yaml", "--name", "toy", code=2).stderr
    assert refused.count("uv run tune-platform") == 4


def test_the_name_of_a_file_gives_a_name_of_the_documented_letters(call: Call, toy: Path, storage: Path) -> None:
    (toy / "ä first+try (2).yaml").write_text((toy / "toy.yaml").read_text())
    call("run", "ä first+try (2).yaml")
    (name,) = names(storage)
    assert name.startswith("first-try-2-20")
