"""Workers of a gang as processes of this machine, each at the end of a pipe."""

from __future__ import annotations

import faulthandler
import os
import pickle
import socket
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from tune_platform.distributed.member import Answer
from tune_platform.distributed.remote_member import RemoteMember
from tune_platform.protocol.trial_log import LOG_LIMIT
from tune_platform.surroundings import surroundings

_DIED = (EOFError, OSError)


class ProcessPeer:
    """A worker in a Python process of its own; see `group.Peer`. It ends when this process ends."""

    def __init__(
        self, worker: int, fresh: bool, device: str = "cpu", threads: int = 1, log_limit: int = LOG_LIMIT
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # Not multiprocessing's spawn: that would run the caller's main module again.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tune_platform.distributed.processes", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._connection = Connection(ours.detach())
        self._connection.send_bytes(cloudpickle.dumps((worker, device, threads, surroundings(), log_limit, fresh)))

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def send(self, method: str, args: tuple[Any, ...]) -> None:
        """See `group.Peer`."""
        try:
            self._connection.send_bytes(cloudpickle.dumps((method, args)))
        except _DIED as error:
            raise ConnectionError(str(error)) from error

    def receive(self, timeout_s: float) -> Answer:
        """See `group.Peer`."""
        try:
            if not self._connection.poll(timeout_s):
                raise TimeoutError
            answer: Answer = pickle.loads(self._connection.recv_bytes())
        except TimeoutError:
            raise
        except _DIED as error:
            code = self._process.wait()
            raise ConnectionError(f"exit code {code}") from error
        return answer

    def close(self) -> None:
        """See `group.Peer`."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


def main(descriptor: int) -> None:
    """Serve one worker until the other end of the pipe is closed."""
    faulthandler.enable()  # a crash leaves its stack in the trial's log
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what is printed before one is there too
    connection = Connection(descriptor)
    with suppress(*_DIED):
        member = RemoteMember(*pickle.loads(connection.recv_bytes()))
        while True:
            method, args = pickle.loads(connection.recv_bytes())
            connection.send_bytes(cloudpickle.dumps(getattr(member, method)(*args)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
