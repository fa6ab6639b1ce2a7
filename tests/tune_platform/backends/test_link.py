from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tune_platform.backends import _link
from tune_platform.backends._link import Door, Line, knock
from tune_platform.backends._ray_link import Link, Results

HOST = "127.0.0.1"


@pytest.fixture
def ends() -> Iterator[tuple[Line, Line]]:
    door = Door(HOST, b"key")
    caller = knock(HOST, door.port, b"key")
    worker = door.wait()
    assert caller is not None
    assert worker is not None
    yield caller, worker
    caller.close()
    worker.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Line]]:
    left, right = socket.socketpair()
    line = Line(right)
    yield left, line
    left.close()
    line.close()


def test_frames_arrive_whole_and_in_order(ends: tuple[Line, Line]) -> None:
    caller, worker = ends
    sent = [b"", b"a", bytes(range(256)) * 4000, b"end"]
    thread = threading.Thread(target=lambda: [caller.send(data) for data in sent])
    thread.start()
    assert [worker.wait() for _ in sent] == sent
    thread.join()
    assert worker.send(b"answer")
    assert caller.wait() == b"answer"


def test_frames_that_arrive_in_pieces_are_put_together(raw: tuple[socket.socket, Line]) -> None:
    other, line = raw
    whole = b"".join(len(data).to_bytes(4, "big") + data for data in (b"one", b"", b"three"))
    found = []
    for at in range(len(whole)):
        other.sendall(whole[at : at + 1])
        found += line.take()
    assert found == [b"one", b"", b"three"]
    other.sendall(whole)
    assert line.take() == [b"one", b"", b"three"]
    assert line.take() == [], "it does not wait"
    assert not line.broken


def test_the_end_of_the_other_side_is_noticed_after_what_it_had_sent(raw: tuple[socket.socket, Line]) -> None:
    other, line = raw
    other.sendall((3).to_bytes(4, "big") + b"one" + (9).to_bytes(4, "big") + b"torn")
    other.close()
    assert [line.wait(), line.wait()] == [b"one", None]
    assert line.broken
    assert not line.send(b"anything")
    line.close()


def test_nobody_comes_in_who_does_not_know_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_link, "PATIENCE_S", 2.0)
    door = Door(HOST, b"key")
    assert knock(HOST, door.port, b"another") is None
    with socket.create_connection((HOST, door.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        caller = knock(HOST, door.port, b"key")  # a stranger does not keep the driver out
    worker = door.wait()
    assert caller is not None
    assert worker is not None
    caller.close()
    worker.close()


def test_one_caller_comes_in_and_the_door_is_shut() -> None:
    door = Door(HOST, b"key")
    caller, worker = knock(HOST, door.port, b"key"), door.wait()
    assert caller is not None
    assert worker is not None
    assert knock(HOST, door.port, b"key") is None
    caller.close()
    worker.close()


def test_a_door_is_shut_after_a_while_and_whoever_answers_elsewhere_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_link, "PATIENCE_S", 1.0)
    assert Door(HOST, b"key").wait() is None
    with socket.create_server((HOST, 0)) as impostor:
        port = impostor.getsockname()[1]
        thread = threading.Thread(target=lambda: impostor.accept()[0].close())
        thread.start()
        assert knock(HOST, port, b"key") is None
        thread.join()
    with pytest.raises(OSError, match="assign"):
        Door("203.0.113.1", b"key")  # no address of this machine


class Asked:
    def __init__(self, kind: str, *args: object) -> None:
        self.kind, self.args = kind, args


@pytest.fixture
def linked() -> Iterator[tuple[Link[Asked], Line]]:
    link: Link[Asked] = Link(HOST)
    door = Door(HOST, link.key)
    assert link.knock(door.port)
    worker = door.wait()
    assert worker is not None
    yield link, worker
    link.close()
    worker.close()


def test_what_is_large_or_not_plain_must_go_another_way(linked: tuple[Link[Asked], Line]) -> None:
    link, _ = linked
    assert link.send(Asked("launch", b"small", None))
    assert link.send(Asked("end", True))
    assert not link.send(Asked("launch", b"x" * _link.LIMIT, None))
    assert not link.send(Asked("launch", b"small", object()))
    assert link.waits
    link.close()
    assert not link.send(Asked("save"))


def test_results_come_from_threads_and_from_links(linked: tuple[Link[Asked], Line]) -> None:
    link, worker = linked
    results: Results[str, Asked] = Results()
    results.add(link, "worker")
    first, second = Asked("save"), Asked("end", False)
    assert link.send(first)
    assert link.send(second)
    assert results.take(0.0) == []
    assert worker.send(b"\x80\x05K\x01.")  # 1, pickled
    assert results.take(10.0) == [("worker", first, 1)]
    results.put(("other", first, 2))
    assert results.take(10.0) == [("other", first, 2)]
    assert worker.send(b"\x80\x05K\x03.")
    worker.close()
    assert results.take(10.0) == [("worker", second, 3)]
    assert results.take(0.0) == []
    assert not link.open
    results.close()
    results.close()


def test_a_wait_is_ended_from_another_thread() -> None:
    results: Results[str, Asked] = Results()
    threading.Timer(0.2, results.put, (None,)).start()
    began = time.monotonic()
    assert results.take(60.0) == [None]
    assert time.monotonic() - began < 30
    results.put(None)  # while nobody waits
    assert results.take(60.0) == [None]
    assert results.take(0.01) == []
    results.close()


def test_a_link_that_opens_after_it_was_closed_is_closed() -> None:
    link: Link[Asked] = Link(HOST)
    door = Door(HOST, link.key)
    link.close()
    assert link.knock(door.port)
    worker = door.wait()
    assert worker is not None
    assert not link.open
    assert worker.wait() is None
    worker.close()
