"""What trials wrote: logs and checkpoints, from the experiment's own folder and nowhere else."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tune_platform.errors import ExperimentError
from tune_platform.results import Results
from tune_platform.results.logs import tail

#: Bytes: of a log on the page, of a log as a file, of the files of a checkpoint.
SHOWN, LOG_LIMIT, CHECKPOINT_LIMIT = 64 << 10, 32 << 20, 1 << 30


def inside(path: Path, folder: Path) -> Path:
    """Return where a path leads to. Raises ExperimentError where that is not inside `folder`, by links too."""
    found = path.resolve()
    if not found.is_relative_to(folder.resolve()):
        raise ExperimentError(f"{path.name} lies outside the folder of the experiment")
    return found


def log_of(results: Results, trial: int, limit: int = SHOWN, *, every_attempt: bool = False) -> str:
    """Return the end of what a trial printed, `limit` bytes at most; empty where there is nothing."""
    path = log_path(results, trial)
    return tail(path, every_attempt=every_attempt, limit=limit) if path.is_file() else ""


def log_path(results: Results, trial: int) -> Path:
    """Return where a trial's log is, or will be. Raises ExperimentError where that is outside its experiment."""
    folder = Path(results.trial(trial).folder)
    return inside(folder / "log.txt", folder.parent.parent)


def checkpoint_zip(results: Results, trial: int, step: int) -> IO[bytes]:
    """Return the files of a checkpoint as a ZIP archive, which is deleted when it is closed.

    Raises ExperimentError where a file lies elsewhere, or where they are larger than CHECKPOINT_LIMIT.
    """
    found = results.trial(trial)
    kept = next((each for each in found.checkpoints if each.step == step), None)
    if kept is None:
        raise ExperimentError(f"trial {trial} has no checkpoint of step {step}")
    if "://" in kept.uri:
        raise ExperimentError(f"this checkpoint lies elsewhere: {kept.uri}")
    folder = Path(found.folder).parent.parent
    root = inside(Path(kept.uri), folder)
    files = [(path, inside(path, root)) for path in sorted(root.rglob("*")) if path.is_file()]
    total = sum(real.stat().st_size for _, real in files)
    if total > CHECKPOINT_LIMIT:
        raise ExperimentError(f"this checkpoint has {total:,} bytes; at most {CHECKPOINT_LIMIT:,} are sent: {root}")
    archive = tempfile.TemporaryFile()  # noqa: SIM115 (whoever reads it closes it)
    with zipfile.ZipFile(archive, "w") as out:
        for path, real in files:
            out.write(real, path.relative_to(Path(kept.uri)))
    archive.seek(0)
    return archive


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file to its end, then close it."""
    with file:
        while chunk := file.read(io.DEFAULT_BUFFER_SIZE * 8):
            yield chunk
