"""A Ray with a folder of its own, by which its processes are found."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_folder() -> Iterator[Path]:
    """Make a folder for RAY_TMPDIR. Its path is short, as Ray's sockets lie in it."""
    path = Path(tempfile.mkdtemp(prefix="tp", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def running_in(folder: Path) -> dict[int, str]:
    """Return the command lines of the processes that name the folder, by process."""
    lines = {int(path.name): command_line(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}
    return {pid: line for pid, line in lines.items() if str(folder) in line}


def command_line(pid: str) -> str:
    """Return the command line of a process; nothing if it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""
