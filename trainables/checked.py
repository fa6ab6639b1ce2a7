"""Files of a data set that are looked at once: in threads, and not again while they stay as they are."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from tune_platform.cache import cache_folder

Item = TypeVar("Item")
Found = TypeVar("Found")
logger = logging.getLogger(__name__)
#: Seconds between two lines of the log while the files of a large set are looked at.
TELL_EVERY = 20.0
#: Items that are handed to the threads at once: a million would take a gigabyte to wait in line.
_BLOCK = 4096


def each(look: Callable[[Item], Found], items: Sequence[Item], what: str) -> Iterator[Found]:
    """Yield what `look` returns for each item, in their order, from as many threads as torch has."""
    told, done = time.monotonic(), 0
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, len(items), _BLOCK):
            for found in pool.map(look, items[start : start + _BLOCK]):
                yield found
                done += 1
                if time.monotonic() - told > TELL_EVERY:
                    told = time.monotonic()
                    logger.info("checked %d of %d %s images", done, len(items), what)


def note_of(paths: Iterable[Path], *rest: bytes) -> Path:
    """Return where it is noted that these files were good: by their names, sizes and dates, and by `rest`."""
    digest = hashlib.blake2b(b"\n".join(rest), digest_size=20)
    for path in paths:
        with suppress(OSError):  # one that is missing is told by the check
            found = path.stat()
            digest.update(f"{path.absolute()} {found.st_size} {found.st_mtime_ns}\n".encode())
    return cache_folder() / "checked" / digest.hexdigest()


def kept(note: Path) -> str | None:
    """Return what was noted; None where nothing was, or it cannot be read."""
    with suppress(OSError):
        return note.read_text(encoding="utf-8")
    return None


def keep(note: Path, text: str = "") -> None:
    """Note that the files are good; where nothing can be kept, they are looked at again."""
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        part = note.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(note)  # whole or not at all: another trial may be reading
