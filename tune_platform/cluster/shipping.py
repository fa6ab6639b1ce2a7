"""What of a folder goes to a cluster with a job, and how large that is."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from tune_platform.errors import ExperimentError

#: Left out: what is made anew elsewhere, and results. In the form of .gitignore, which Ray reads too.
EXCLUDES = (
    ".git", ".venv", "venv", "node_modules", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    ".hypothesis", ".ipynb_checkpoints", "*.egg-info", "tune_results",
)  # fmt: skip
#: Bytes. Ray keeps the package in the memory of the head node; code is small, data belongs on shared storage.
LIMIT = 200 * 2**20


def check_size(folder: Path, excludes: Sequence[str] = EXCLUDES, limit: int = LIMIT) -> int:
    """Return how many bytes would be shipped. Raises ExperimentError over the limit, with what is largest."""
    sizes = measure(folder, excludes)
    total = sum(sizes.values())
    if total > limit:
        largest = ", ".join(f"{name} {_mib(size)}" for name, size in sizes.most_common(3))
        raise ExperimentError(
            f"{folder} has {_mib(total)} to ship, of which the cluster takes {_mib(limit)}; largest: {largest}. "
            "Leave out by --exclude PATTERN or .gitignore what the job does not need, and read data from a shared place"
        )
    return total


def measure(folder: Path, excludes: Sequence[str] = EXCLUDES) -> Counter[str]:
    """Return the bytes that would be shipped of each entry at the top of a folder."""
    ignored = _ignored_by_git(folder)
    links: set[Path] = set()
    found: Counter[str] = Counter()

    def taken(place: str, name: str) -> bool:
        path = str(Path(place, name).relative_to(folder))
        return path not in ignored and not any(
            fnmatch(name, each) or fnmatch(path, each.strip("/")) for each in excludes
        )

    def new(place: str, name: str) -> bool:  # Ray follows links; one that leads back would have no end
        path = Path(place, name)
        if not path.is_symlink():
            return True
        known = path.resolve()
        if known in links or folder.resolve().is_relative_to(known):
            return False
        links.add(known)
        return True

    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if taken(place, name) and new(place, name)]
        for name in files:
            if taken(place, name):
                path = Path(place, name)
                found[path.relative_to(folder).parts[0]] += path.stat().st_size if path.exists() else 0
    return found


def _ignored_by_git(folder: Path) -> set[str]:
    """Return the paths that .gitignore names; none where there is no git, and then too much is counted."""
    command = ["git", "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return {path.rstrip("/") for path in done.stdout.split("\0") if path} if done.returncode == 0 else set()


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
