"""The driver's side of what workers answer: results of Ray's calls, and of those that go through a socket."""

from __future__ import annotations

import pickle
import secrets
import selectors
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from tune_platform.backends._link import KEY_BYTES, LEAVE, LIMIT, Line, knock


class Sendable(Protocol):
    """A call, as a link sees it."""

    kind: str
    args: tuple[Any, ...]


C = TypeVar("C", bound=Sendable)
W = TypeVar("W")


class Link(Generic[C]):
    """The way to the thread of one worker that trains, beside Ray's calls."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.key = secrets.token_bytes(KEY_BYTES)
        self.serves = False  # the worker answers here, or will once it has done what came before
        self._line: Line | None = None
        self._closed = False
        self._pending: deque[C] = deque()

    @property
    def open(self) -> bool:
        """Whether calls can go through it."""
        return self._line is not None and not self._line.broken

    @property
    def waits(self) -> bool:
        """Whether there are calls that were not answered."""
        return bool(self._pending)

    def knock(self, port: int) -> bool:
        """Connect to the worker's door; from any thread."""
        self._line = line = knock(self.host, port, self.key)
        if self._closed:  # meanwhile
            self.close()
        return line is not None

    def send(self, call: C) -> bool:
        """Send a call, if it is one for this way: False where it must go through Ray."""
        if not self.open or not all(type(arg) in (bytes, bool, type(None)) for arg in call.args):
            return False
        frame = pickle.dumps((call.kind, call.args), protocol=5)
        if len(frame) > LIMIT:
            return False
        assert self._line is not None
        if not self._line.send(frame):
            return False
        self._pending.append(call)
        return True

    def leave(self) -> None:
        """Have the worker take Ray's calls again."""
        assert self._line is not None
        self._line.send(pickle.dumps((LEAVE, ())))

    def answers(self) -> Iterator[tuple[C, Any]]:
        """Return the calls that were answered meanwhile, and the answers."""
        if self._line is not None:
            for frame in self._line.take():
                yield self._pending.popleft(), pickle.loads(frame)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        assert self._line is not None
        return self._line.fileno()

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self._closed = True
        if self._line is not None:
            self._line.close()


class Results(Generic[W, C]):
    """Where the results of all calls to workers arrive, whichever thread or socket brings them.

    `put` may be called from any thread; all else by the one that takes them.
    """

    def __init__(self) -> None:
        self._arrived: deque[tuple[W, C, Any] | None] = deque()
        self._bell: _Bell | None = None  # while somebody waits
        self._links: dict[Link[C], W] = {}
        self._open: _Bell | None = None

    def put(self, item: tuple[W, C, Any] | None) -> None:
        """Bring a result; None only wakes up who waits."""
        self._arrived.append(item)
        if (bell := self._bell) is not None:
            bell.ring()

    def add(self, link: Link[C], worker: W) -> None:
        """Take in what comes through a link from now on."""
        self._links[link] = worker
        self._opened().selector.register(link, selectors.EVENT_READ, link)

    def remove(self, link: Link[C]) -> None:
        """Close a link. Safe to call twice."""
        if self._links.pop(link, None) is not None:
            self._opened().selector.unregister(link)
        link.close()

    def take(self, timeout: float) -> list[tuple[W, C, Any] | None]:
        """Return what has arrived; wait for the first at most `timeout` seconds."""
        found: list[tuple[W, C, Any] | None] = []
        if timeout > 0 or self._links:
            opened = self._opened()
            self._bell = opened if timeout > 0 else None  # before the look: what comes after it rings
            for key, _ in opened.selector.select(0 if self._arrived else timeout):
                link: Link[C] | None = key.data
                if link is None:
                    opened.calm()
                    continue
                found += [(self._links[link], call, value) for call, value in link.answers()]
                if not link.open:  # Ray tells what became of the worker
                    opened.selector.unregister(link)
                    del self._links[link]
            self._bell = None
        while self._arrived:
            found.append(self._arrived.popleft())
        return found

    def close(self) -> None:
        """Close all links. Safe to call twice, and it can be used again."""
        for link in list(self._links):
            self.remove(link)
        opened, self._open = self._open, None
        if opened is not None:
            opened.close()

    def _opened(self) -> _Bell:
        if self._open is None:
            self._open = _Bell()
        return self._open


class _Bell:
    """A selector whose wait another thread can end."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._rope, self._clapper = socket.socketpair()
        for end in (self._rope, self._clapper):
            end.setblocking(False)
        self.selector.register(self._clapper, selectors.EVENT_READ)

    def ring(self) -> None:
        """End the wait; from any thread."""
        with suppress(OSError):  # it rings already, or is closed
            self._rope.send(b"\0")

    def calm(self) -> None:
        """Take note that it has rung."""
        with suppress(BlockingIOError):
            self._clapper.recv(4096)

    def close(self) -> None:
        """Close the sockets."""
        self.selector.close()
        self._rope.close()
        self._clapper.close()
