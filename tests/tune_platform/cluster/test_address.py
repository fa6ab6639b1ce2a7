from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tune_platform.cluster.address import Address, await_listener, check_address, find_address, note_of_ray
from tune_platform.errors import SpecError


@pytest.mark.parametrize("text", ["auto", "local", "10.0.0.5:6379", "head.cluster_1:6379", "[::1]:6379"])
def test_what_is_an_address(text: str) -> None:
    assert check_address(f" {text}\n") == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.5", "has no port"),
        ("10.0.0.5:", "whose port is no number from 1 to 65535"),
        (":6379", "whose host is none"),
        ("", "has no port"),
        ("head node:6379", "whose host is none"),
        ("head:99999", "whose port is no number from 1 to 65535"),
        ("head:six", "whose port is no number from 1 to 65535"),
        ("http://10.0.0.5:8265", "an address has no http://"),
        ("ray://10.0.0.5:10001", "for Ray's client, which runs no searches"),
        (6379, "got 6379; allowed"),
    ],
)
def test_what_is_no_address_is_one_line(text: object, said: str) -> None:
    with pytest.raises(SpecError, match=r"backend\.address: got ") as raised:
        check_address(text, "backend.address")
    assert said in str(raised.value)
    assert "10.0.0.5:6379" in str(raised.value)  # an example of what is allowed
    assert "\n" not in str(raised.value)


def test_who_names_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert find_address(None) == Address("local")
    note_of_ray().parent.mkdir()
    note_of_ray().write_text("10.0.0.6:6379\n")
    assert find_address(None) == Address("10.0.0.6:6379")
    assert find_address("auto") == Address("auto", "backend.address")
    assert find_address("local") == Address("local", "backend.address")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    assert find_address(None) == find_address("auto") == Address("10.0.0.7:6379", "RAY_ADDRESS")
    assert str(find_address("10.0.0.8:1")) == "10.0.0.8:1 (from backend.address)"
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.7:8265")
    with pytest.raises(SpecError, match=r"RAY_ADDRESS: got 'http://10.0.0.7:8265'"):
        find_address(None)


def test_whether_something_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        await_listener(address)
    with pytest.raises(ConnectionError, match="connection refused"):
        await_listener(address)


def test_what_drops_connections_is_given_up() -> None:
    """As behind a firewall: here the queue of those that wait to be accepted is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as waiting:
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        with pytest.raises(ConnectionError, match=r"no connection within 0\.2 s"):
            await_listener(f"127.0.0.1:{server.getsockname()[1]}", seconds=0.2)
