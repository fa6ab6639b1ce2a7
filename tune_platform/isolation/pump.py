"""Copies standard input into a log, a prefix before each line; and keeps logs from growing without end.

Run as a program of its own, by its path: it loads nothing but Python. A process that crashes, or that holds Python's
lock while native code of it prints, then loses nothing and waits for nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys

_CHUNK = 1 << 16
#: A line that goes on for longer, such as a progress bar, is passed on in parts of this many bytes.
_LINE = 1 << 13


def shorten(path: str, limit: int) -> None:
    """Where a log has more than `limit` bytes, leave the newer half of that many, behind a line that says so.

    It stays the same file, so that whoever appends to it goes on. What is written at this very moment can be lost.
    """
    with contextlib.suppress(OSError), open(path, "r+b", buffering=0) as file:  # noqa: PTH123 (no pathlib: slow to load)
        size = os.fstat(file.fileno()).st_size
        if size <= limit:
            return
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another process of the trial is at it: OSError
        read = size - limit // 2
        block = os.pread(file.fileno(), _CHUNK, read)
        read += block.find(b"\n", 0, limit // 8) + 1  # from a whole line on, where one begins soon
        note = f"---- {read} bytes were left out here: the log of a trial has at most {limit} (log_limit) ----\n"
        written = os.pwrite(file.fileno(), note.encode(), 0)
        while block := os.pread(file.fileno(), _CHUNK, read):
            read += len(block)
            written += os.pwrite(file.fileno(), block, written)
        file.truncate(written)


def main(path: str, prefix: str, limit: int) -> None:
    """Copy until the last process that writes to the other end has ended. The file is made when something comes."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # ends with those who print
    log = -1
    left = b""
    since = 0
    while data := os.read(0, _CHUNK):
        *lines, left = (left + data).split(b"\n")
        if len(left) > _LINE:
            lines, left = [*lines, left], b""
        text = b"".join(prefix.encode() + line + b"\n" for line in lines)
        with contextlib.suppress(OSError):  # a disk that is full
            if log < 0:
                log = _opened(path)
            os.write(log, text)
            since += len(text)
            if since > limit // 4:
                shorten(path, limit)
                since = 0
    if left:
        with contextlib.suppress(OSError):
            os.write(log if log >= 0 else _opened(path), prefix.encode() + left + b"\n")


def _opened(path: str) -> int:
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
