"""What a trial prints, in the `log.txt` of its folder; its attempts come one after the other.

In a worker process file descriptors 1 and 2 lead there while a trial has it, so that subprocesses, C code and the last
words of a process that crashes are there too. In the caller's own process Python's own streams are copied.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from tune_platform.protocol.trial_log import LOG, MARK

logger = logging.getLogger(__name__)


def mark(attempt: int, where: str) -> bytes:
    """Return the line before an attempt, where the log has something of earlier ones."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return MARK + f"{attempt}, {where}, {now} ----\n".encode()


class ProcessLog:
    """Leads descriptors 1 and 2 of this process into the log of one trial after the other, and back."""

    def __init__(self) -> None:
        self._own: tuple[int, int] | None = None  # copies of what they were before
        self._path: Path | None = None

    def open(self, folder: str, attempt: int, *, warm: bool = False) -> None:
        """Begin the log of an attempt. Where there can be none, that is told, and the trial goes on without.

        `warm`: see `close`, of the trial before.
        """
        self.close(warm=warm)
        if not folder:
            return
        path = Path(folder, LOG)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            logger.warning("what the trial prints is not kept: %s", error)
            return
        try:
            if _needs_mark(file):
                os.write(file, mark(attempt, f"{socket.gethostname()}:{os.getpid()}"))
            _flush()
            self._own = os.dup(1), os.dup(2)
            self._path = path
            os.dup2(file, 1)
            os.dup2(file, 2)
        finally:
            os.close(file)

    def write(self, text: str) -> None:
        """Add text of our own."""
        if self._own is not None:
            _flush()
            with contextlib.suppress(OSError):  # a disk that is full
                os.write(1, text.encode(errors="backslashreplace"))

    def close(self, *, warm: bool = False) -> None:
        """Lead the descriptors back to where they led before; an empty log is deleted.

        So is the folder, if nothing else is in it, unless the trial is kept `warm` and may know it by its path.
        """
        own, path, self._own, self._path = self._own, self._path, None, None
        if own is None or path is None:
            return
        _flush()
        for descriptor, before in zip((1, 2), own, strict=True):
            os.dup2(before, descriptor)
            os.close(before)
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()
                if not warm:
                    path.parent.rmdir()


class StreamLog:
    """Copies into the log of one attempt what Python code prints in a with statement, and lets it pass.

    That is what goes through `sys.stdout` and `sys.stderr`; what subprocesses and C code write to the descriptors of
    this process, and handlers of `logging` that were made before, go where they always went.
    """

    def __init__(self, folder: str, attempt: int) -> None:
        self._path = Path(folder, LOG) if folder else None
        self._attempt = attempt
        self._marked = False
        self._file: TextIO | None = None
        self._before: tuple[Any, Any] = (None, None)
        self._now: tuple[Any, Any] = (None, None)

    def __enter__(self) -> None:
        self._before = sys.stdout, sys.stderr
        if self._path is not None:
            out, err = self._before
            self._now = sys.stdout, sys.stderr = out and _Copied(out, self), err and _Copied(err, self)

    def __exit__(self, *_: object) -> None:
        for name, before, now in zip(("stdout", "stderr"), self._before, self._now, strict=True):
            if now is not None and getattr(sys, name) is now:  # else the training code has put another there
                setattr(sys, name, before)
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, text: str) -> None:
        """Add text; where there can be no log, it is left out."""
        if self._path is None:
            return
        with contextlib.suppress(OSError, ValueError):  # ValueError: a thread that prints when the step is over
            if self._file is None:
                self._file = self._open()
            self._file.write(text)

    def _open(self) -> TextIO:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        if not self._marked and _needs_mark(file.fileno()):
            file.write(mark(self._attempt, f"{socket.gethostname()}:{os.getpid()}").decode())
        self._marked = True
        return file


class _Copied:
    """A text stream whose text goes to the log as well; all else is the stream's own."""

    def __init__(self, stream: TextIO, log: StreamLog) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _needs_mark(file: int) -> bool:
    return os.fstat(file).st_size > 0


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a stream that the training code has closed, or put there itself
            stream.flush()
