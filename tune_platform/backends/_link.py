"""A socket between the driver and the thread of a worker process that trains: a call costs a tenth of one through Ray.

    driver                                worker
    open_door(key, host)  ── Ray call ──> listens for one caller, for `PATIENCE_S`
    knock(host, port, key) ── socket ───> both show that they know the key
    serve()               ── Ray call ──> the thread that trains answers what comes, until it is told to leave
                          <── socket ───  ... or until the socket breaks

What crosses are frames: four bytes of length, then as many bytes. Ray alone starts processes and says how they end.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections import deque
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

#: Seconds in which a caller must come, and then show that it knows the key.
PATIENCE_S = 10.0
#: Bytes of a secret that is good for one connection.
KEY_BYTES = 32
#: Bytes of what is sent to a worker at most: it may be busy, and the driver never waits for it.
LIMIT = 32 * 1024

#: What ends `serve`.
LEAVE = "leave"

_LENGTH = struct.Struct("!I")
_READ = 256 * 1024


class Line:
    """One end of the connection: whole frames, in order. Sending and receiving may be done by two threads."""

    def __init__(self, sock: socket.socket) -> None:
        self.broken = False  # the other end is gone
        self._sock = sock
        self._bytes = bytearray()  # of a frame that is not complete
        self._frames: deque[bytes] = deque()

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait for it among others."""
        return self._sock.fileno()

    def send(self, data: bytes) -> bool:
        """Send a frame; False where the other end is gone. Raises OverflowError from 4 GiB on."""
        if len(data) >= 1 << 32:
            raise OverflowError(f"{len(data)} bytes are too many for one frame")
        try:
            self._sock.sendall(_LENGTH.pack(len(data)) + data)
        except OSError:
            self.broken = True
        return not self.broken

    def wait(self) -> bytes | None:
        """Wait for the next frame; None once the other end is gone."""
        while not self._frames and not self.broken:
            self._read(0)
        return self._frames.popleft() if self._frames else None

    def take(self) -> list[bytes]:
        """Return, without waiting, the frames that are complete."""
        self._read(socket.MSG_DONTWAIT)
        taken = list(self._frames)
        self._frames.clear()
        return taken

    def close(self) -> None:
        """Close this end. Safe to call twice."""
        self.broken = True
        self._sock.close()

    def _read(self, flags: int) -> None:
        try:
            data = self._sock.recv(_READ, flags)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.broken = True
        elif not self._bytes and len(data) >= 4 and len(data) == 4 + _LENGTH.unpack_from(data)[0]:
            self._frames.append(data[4:])  # nearly always
        else:
            self._bytes += data
            at = 0
            while len(self._bytes) - at >= 4:
                end = at + 4 + _LENGTH.unpack_from(self._bytes, at)[0]
                if len(self._bytes) < end:
                    break
                self._frames.append(bytes(self._bytes[at + 4 : end]))
                at = end
            del self._bytes[:at]


class Door:
    """Where a worker lets its driver in, once. Raises OSError where `host` is not an address of this machine."""

    def __init__(self, host: str, key: bytes) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=8)
        self.port: int = self._listener.getsockname()[1]
        self._key = key
        self._entered: Line | None = None
        self._waiting = threading.Thread(target=self._await, name="tune-platform-door", daemon=True)
        self._waiting.start()

    def wait(self) -> Line | None:
        """Return the worker's end of the connection, once it is there; None where nobody came who knows the key."""
        self._waiting.join()
        return self._entered

    def _await(self) -> None:
        self._listener.settimeout(PATIENCE_S)
        with self._listener:
            while self._entered is None:
                try:
                    caller, _ = self._listener.accept()
                except OSError:  # the time is over
                    return
                self._entered = _greeted(caller, self._key, first=True)


def knock(host: str, port: int, key: bytes) -> Line | None:
    """Return the driver's end of the connection; None where there is no way, or where somebody else answers."""
    try:
        return _greeted(socket.create_connection((host, port), PATIENCE_S), key, first=False)
    except OSError:
        return None


def _greeted(sock: socket.socket, key: bytes, *, first: bool) -> Line | None:
    """Have both ends show that they know the key, as `multiprocessing` does; None, and closed, where one does not."""
    try:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _limit(sock, PATIENCE_S)
        with Connection(os.dup(sock.fileno())) as both:
            for show in (deliver_challenge, answer_challenge) if first else (answer_challenge, deliver_challenge):
                show(both, key)
        _limit(sock, 0.0)
    except Exception:  # whatever a stranger may send
        sock.close()
        return None
    return Line(sock)


def _limit(sock: socket.socket, seconds: float) -> None:
    """Limit how long a read or a write waits; 0: for ever."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), 0))
