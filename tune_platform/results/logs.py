"""What a trial printed, read from its `log.txt` without more of it in memory than is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tune_platform.protocol.trial_log import MARK

#: Bytes that are read at a time.
CHUNK = 1 << 16


class TrialLog:
    """The log of one trial, read on the machine that it lies on. Places in it are bytes from its beginning."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def begin(self, every_attempt: bool, lines: int | None) -> tuple[int, bool] | None:
        """Return where to begin, and whether attempts are left out by that; None where there is no log (yet).

        That is the last attempt, or the first, and of it the last so many lines.
        """
        try:
            with self._path.open("rb") as file:
                start = 0 if every_attempt else last_attempt(file)
                place = start if lines is None else last_lines(file, lines, start)
        except FileNotFoundError:
            return None
        return place, start > 0

    def more(self, place: int, limit: int = CHUNK) -> tuple[bytes, int]:
        """Return what stands at a place, so many bytes at most, and the place behind it; nothing at the end."""
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < place:
                    place = 0  # it was deleted, and is another one now
                file.seek(place)
                data = file.read(limit)
        except FileNotFoundError:
            return b"", 0
        return data, place + len(data)


def last_attempt(file: BinaryIO, floor: int = 0) -> int:
    """Return where the last attempt begins: behind the line that parts it from those before, else at 0.

    That line is looked for down to the byte `floor`.
    """
    wanted = b"\n" + MARK
    end = os.fstat(file.fileno()).st_size
    while end > max(0, floor):
        start = max(0, end - CHUNK)
        file.seek(start)
        block = file.read(end - start + len(wanted))  # it may lie across two chunks
        at = block.rfind(wanted)
        if at >= 0:
            file.seek(start + at + 1)
            file.readline()
            return file.tell()
        end = start
    return 0


def last_lines(file: BinaryIO, count: int, begin: int) -> int:
    """Return where the last `count` lines begin, `begin` at the earliest."""
    end = os.fstat(file.fileno()).st_size
    left = count
    first = True
    while end > begin and left >= 0:
        start = max(begin, end - CHUNK)
        file.seek(start)
        block = file.read(end - start)
        at = len(block) - (1 if first and block.endswith(b"\n") else 0)
        first = False
        while left > 0 and (at := block.rfind(b"\n", 0, at)) >= 0:
            left -= 1
        if left == 0:
            return start + at + 1
        end = start
    return begin


def read(file: BinaryIO, start: int) -> Iterator[bytes]:
    """Yield what there is from `start` on, a chunk at a time."""
    file.seek(start)
    while chunk := file.read(CHUNK):
        yield chunk


def tail(path: Path, *, every_attempt: bool, limit: int) -> str:
    """Return the log of the last attempt, or of all; the last `limit` bytes of it at most, from a whole line on."""
    try:
        with path.open("rb") as file:
            cut = os.fstat(file.fileno()).st_size - max(0, limit)
            start = 0 if every_attempt else last_attempt(file, cut)
            if cut > start:
                file.seek(cut - 1)
                file.readline()
                start = file.tell()
            file.seek(start)
            data = file.read(max(0, limit))
    except FileNotFoundError:
        return ""
    return data.decode(errors="replace")
