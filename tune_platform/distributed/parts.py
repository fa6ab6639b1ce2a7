"""The files of a gang's checkpoint: what it is, and a part for each worker, which writes and reads its own.

A worker may be on a host that does not have the directory, or has another one of the same name. It knows the right one
by the text that the first worker wrote into it, with a token in it that no other has.
"""

from __future__ import annotations

import json
from pathlib import Path

#: The file that says what the checkpoint is.
META = "distributed.json"


def part_name(rank: int) -> str:
    """Return the name of a worker's file."""
    return f"worker-{rank:05d}.pt"


def is_here(directory: Path, sign: str) -> bool:
    """Whether this process sees the directory whose META the first worker has read, or written, as `sign`."""
    try:
        # Of releases before the token there may be two that say the same.
        return "token" in json.loads(sign) and (directory / META).read_text(encoding="utf-8") == sign
    except OSError:
        return False


def write_part(path: Path, sign: str, state: bytes) -> bool:
    """Write a worker's file. False where it does not see the directory, or may not write there: the first one does."""
    try:
        if not is_here(path.parent, sign):
            return False
        path.write_bytes(state)
    except OSError:
        return False
    return True
