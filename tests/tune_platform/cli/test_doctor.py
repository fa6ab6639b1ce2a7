"""What `doctor` says of the Ray that a run would use; each line that is not well says how to mend it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.tune_platform.cli.conftest import Call
from tune_platform.cluster.address import Address, Answer, note_of_ray


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.fixture
def dead() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def ray_line(call: Call, code: int = 0) -> tuple[str, str]:
    found = {each["what"]: each for each in json.loads(call("doctor", "--json", code=code).stdout)}
    return found["Ray cluster"]["state"], found["Ray cluster"]["text"]


def test_nothing_runs(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_line(call) == ("ok", "none is running; a run starts one, which only you can enter, from this machine")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    state, text = ray_line(call)
    assert state == "note"
    assert "unset RAY_AUTH_MODE" in text


def test_a_dead_one_that_was_only_noted(call: Call, dead: str) -> None:
    note_of_ray().parent.mkdir()
    note_of_ray().write_text(dead)
    state, text = ray_line(call)
    assert state == "note"
    assert f"{dead} cannot be joined: connection refused; a run passes it over" in text
    assert f"delete {note_of_ray()}" in text


def test_a_dead_one_that_was_named(call: Call, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", dead)
    state, text = ray_line(call, code=1)
    assert state == "fail"
    assert "connection refused" in text
    assert "unset RAY_ADDRESS" in text


def test_a_name_that_is_no_address(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.5:8265")
    state, text = ray_line(call, code=1)
    assert state == "fail"
    assert "an address has no http://" in text


@pytest.mark.parametrize(("guarded", "state"), [(True, "ok"), (False, "note")])
def test_one_that_answers(call: Call, monkeypatch: pytest.MonkeyPatch, guarded: bool, state: str) -> None:
    asked: list[Address] = []

    def ask(address: Address, seconds: float) -> Answer:
        asked.append(address)
        return Answer(guarded)

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    monkeypatch.setattr("tune_platform.cli.doctor.ask_ray", ask)
    found, text = ray_line(call)
    assert asked == [Address("10.0.0.5:6379", "RAY_ADDRESS")]
    assert found == state
    assert ("wants no token" in text) is not guarded
