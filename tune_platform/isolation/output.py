"""What a trial prints, in the `log.txt` of its folder; its attempts come one after the other.

In a worker process file descriptors 1 and 2 lead there while a trial has it, so that subprocesses, C code and the last
words of a process that crashes are there too; so they do in the other workers of a gang, with the rank before each
line. In the caller's own process Python's own streams are copied. A log that grows beyond its limit loses its older
half.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from tune_platform.isolation import pump
from tune_platform.protocol.trial_log import LOG, LOG_LIMIT, MARK

logger = logging.getLogger(__name__)

#: Seconds between two looks at the size of a log.
_LOOK_S = 0.5
#: Seconds that the last lines of a gang's worker have to reach the log.
_DRAIN_S = 2.0


def mark(attempt: int, where: str) -> bytes:
    """Return the line before an attempt, where the log has something of earlier ones."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return MARK + f"{attempt}, {where}, {now} ----\n".encode()


class _Descriptors:
    """Leads descriptors 1 and 2 of this process elsewhere, and back."""

    def __init__(self) -> None:
        self.led = False  # whether they lead elsewhere
        self._own: tuple[int, int] | None = None  # copies of what they were at first

    def lead(self, file: int) -> None:
        """Lead them to an open file."""
        _flush()
        if self._own is None:
            self._own = os.dup(1), os.dup(2)
        os.dup2(file, 1)
        os.dup2(file, 2)
        self.led = True

    def taken_on(self, before: Path, path: Path) -> bool:
        """Have them lead to `path` as they do to the log `before`, if that is empty and alone in its folder.

        Whether it was done. Most trials print nothing, and a folder made and deleted for each would take longer than
        all else that a worker does for a short trial; to rename one takes a tenth of that.
        """
        _flush()
        with contextlib.suppress(OSError):
            log = before.stat()
            same = all(os.path.samestat(log, os.fstat(descriptor)) for descriptor in (1, 2))  # not led elsewhere since
            if same and log.st_size == 0 and os.listdir(before.parent) == [before.name]:  # noqa: PTH208 (faster)
                before.parent.rename(path.parent)  # not over a folder with anything in it
                return True
        return False

    def back(self) -> None:
        """Lead them where they led at first."""
        if self.led and self._own is not None:
            _flush()
            for descriptor, before in zip((1, 2), self._own, strict=True):
                os.dup2(before, descriptor)
        self.led = False


class ProcessLog:
    """Leads descriptors 1 and 2 of this process into the log of one trial after the other, and back."""

    def __init__(self) -> None:
        self._descriptors = _Descriptors()
        self._path: Path | None = None
        self._limit = LOG_LIMIT
        self._watch: threading.Thread | None = None

    def open(self, folder: str, attempt: int, *, warm: bool = False, limit: int = LOG_LIMIT) -> None:
        """Begin the log of an attempt. Where there can be none, that is told, and the trial goes on without.

        `warm`: see `close`, of the trial before. `limit` is the bytes that the log may have.
        """
        before, self._path = self._path, None
        path = Path(folder, LOG)
        if folder and before is not None and not warm and self._descriptors.taken_on(before, path):
            self._path, self._limit = path, limit
            return
        file = _opened(path) if folder else None
        if file is None:
            self._descriptors.back()
            self._end(before, warm)
            return
        try:
            if _needs_mark(file):
                os.write(file, mark(attempt, f"{socket.gethostname()}:{os.getpid()}"))
            self._descriptors.lead(file)
        finally:
            os.close(file)
        self._end(before, warm)
        self._path, self._limit = path, limit
        if self._watch is None:
            self._watch = threading.Thread(target=self._keep_short, name="log-limit", daemon=True)
            self._watch.start()

    def write(self, text: str) -> None:
        """Add text of our own."""
        if self._descriptors.led:
            _flush()
            with contextlib.suppress(OSError):  # a disk that is full
                os.write(1, text.encode(errors="backslashreplace"))

    def close(self, *, warm: bool = False) -> None:
        """Lead the descriptors back to where they led before; an empty log is deleted.

        So is the folder, if nothing else is in it, unless the trial is kept `warm` and may know it by its path.
        """
        path, self._path = self._path, None
        self._descriptors.back()
        self._end(path, warm)

    def _end(self, path: Path | None, warm: bool) -> None:
        if path is None:
            return
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            if size > self._limit:
                pump.shorten(str(path), self._limit)
            elif size == 0:
                path.unlink()
                if not warm:
                    path.parent.rmdir()

    def _keep_short(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            if (path := self._path) is not None:
                pump.shorten(str(path), self._limit)


class PrefixedLog:
    """The same for a worker of a gang that is not the first: its lines go into the trial's log behind a prefix.

    Where the trial's folder is on another machine, they lie in a folder of that name on its own. `limit` as above.
    """

    def __init__(self, limit: int = LOG_LIMIT) -> None:
        self._limit = limit
        self._descriptors = _Descriptors()
        self._pump: subprocess.Popen[bytes] | None = None

    def open(self, folder: str, prefix: str) -> None:
        """Lead what this process prints into the log of the trial with this folder; nowhere where it has none."""
        self.close()
        if not folder:
            return
        command = [sys.executable, "-I", "-S", pump.__file__, str(Path(folder, LOG)), prefix, str(self._limit)]
        read, write = os.pipe()
        try:
            self._pump = subprocess.Popen(
                command, stdin=read, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
                start_new_session=True,
            )  # fmt: skip
            self._descriptors.lead(write)
        except OSError as error:
            logger.warning("what this worker prints is not kept: %s", error)
        finally:
            os.close(read)
            os.close(write)

    def close(self) -> None:
        """Lead it back to where it went before."""
        self._descriptors.back()
        copier, self._pump = self._pump, None
        if copier is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # a process that the trial left still prints
                copier.wait(_DRAIN_S)


class StreamLog:
    """Copies into the log of one attempt what Python code prints in a with statement, and lets it pass.

    That is what goes through `sys.stdout` and `sys.stderr`; what subprocesses and C code write to the descriptors of
    this process, and handlers of `logging` that were made before, go where they always went.
    """

    def __init__(self, folder: str, attempt: int, limit: int = LOG_LIMIT) -> None:
        self._path = Path(folder, LOG) if folder else None
        self._attempt, self._limit = attempt, limit
        self._since = 0  # characters since the last look at its size
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
            self._since += len(text)
            if self._since > self._limit // 4:
                self._file.flush()
                pump.shorten(str(self._path), self._limit)
                self._since = 0

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


def _opened(path: Path) -> int | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        logger.warning("what the trial prints is not kept: %s", error)
        return None


def _needs_mark(file: int) -> bool:
    return os.fstat(file).st_size > 0


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a stream that the training code has closed, or put there itself
            stream.flush()
