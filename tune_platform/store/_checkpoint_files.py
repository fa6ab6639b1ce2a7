"""Where checkpoints lie, and their files: a local directory or an object store; copying, measuring, checking."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from tune_platform.errors import CheckpointError
from tune_platform.extras import how_to_install_driver

MANIFEST = "manifest.json"
FILES = "files"
#: The name of a checkpoint, below the root: trial, step and attempt.
NAME = re.compile(r"trial-(\d{5,})/step-(\d{8,})-a(\d+)")
_TEMPORARY = ".tmp-"
#: Bytes that are copied at once: few enough to be in the processor's cache when they are hashed and written.
_CHUNK = 1 << 18


#: How errors of object stores' clients are called that say that nothing answers: botocore, aiohttp, Azure, Google.
_AWAY_NAMES = {
    "ConnectionError", "HTTPClientError", "ClientConnectionError", "ServiceRequestError", "ServiceResponseError",
    "TransportError",
}  # fmt: skip
#: Of a file system of another machine; and what fsspec's drivers make of an object store's "slow down" and "try again".
_AWAY_NUMBERS = {errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTCONN, errno.ESTALE}
_AWAY_REMOTE = _AWAY_NUMBERS | {errno.EIO, errno.EBUSY}


class StorageAway(CheckpointError):  # noqa: N818 (a state of the storage, not a mistake)
    """The storage of checkpoints does not answer now; asked again later, it may."""


@contextmanager
def reaching(root: str) -> Iterator[None]:
    """Raise StorageAway, with the place and the reason, where what is done with the files at `root` gets no answer."""
    try:
        yield
    except StorageAway:
        raise
    except Exception as error:
        numbers = _AWAY_REMOTE if "://" in root else _AWAY_NUMBERS
        names = {each.__name__ for each in type(error).__mro__}
        if isinstance(error, TimeoutError) or getattr(error, "errno", None) in numbers or names & _AWAY_NAMES:
            raise StorageAway(f"the storage of checkpoints at {root} does not answer: {error!r}") from error
        raise


class Place(Protocol):
    """Where the checkpoints of a storage lie. A `name` is that of a checkpoint, as in NAME."""

    def prepare(self, trial: str) -> Path:
        """Make a local directory, with an empty FILES in it, in which nobody looks for a checkpoint."""

    def publish(self, directory: Path, name: str, paths: list[str]) -> None:
        """Make the directory, with a manifest and the files `paths`, the checkpoint `name`: whole or not at all."""

    def reading(self, name: str, paths: list[str]) -> AbstractContextManager[Path]:
        """Give a local directory with those files of the checkpoint that are there."""

    def read(self, name: str) -> bytes:
        """Return the content of one file. Raises FileNotFoundError."""

    def delete(self, name: str) -> None:
        """Delete a checkpoint, or the remains of one; it is never seen half deleted."""

    def names(self) -> list[str]:
        """Return checkpoints, whole or not, and remains."""

    def age(self, name: str) -> float:
        """Return the seconds since it was last changed."""

    def tidy(self) -> None:
        """Delete the empty directories of trials."""


class Local:
    """A directory: a checkpoint is made beside its place and renamed into it."""

    def __init__(self, root: str, durable: bool) -> None:
        self._root = Path(root)
        self._durable = durable

    def prepare(self, trial: str) -> Path:
        directory = self._hidden(trial)
        (directory / FILES).mkdir(parents=True)
        return directory

    def publish(self, directory: Path, name: str, paths: list[str]) -> None:
        target = self._root / name
        if self._durable:
            for path in (MANIFEST, *(f"{FILES}/{path}" for path in paths)):
                _sync(directory / path)
            for folder in {PurePosixPath()}.union(*(PurePosixPath(FILES, path).parents for path in paths)):
                _sync(directory / folder)
        self.delete(name)
        directory.rename(target)
        if self._durable:
            _sync(target.parent)

    @contextmanager
    def reading(self, name: str, paths: list[str]) -> Iterator[Path]:
        yield self._root / name / FILES

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def delete(self, name: str) -> None:
        # Renamed first: a checkpoint is never seen half deleted.
        hidden = self._hidden(name.partition("/")[0])
        with suppress(FileNotFoundError):
            (self._root / name).rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    def names(self) -> list[str]:
        """Return checkpoints, whole or not, and remains."""
        names = [f"{path.parent.name}/{path.name}" for path in self._root.glob("trial-*/*") if path.is_dir()]
        return [name for name in names if NAME.fullmatch(name) or f"/{_TEMPORARY}" in name]

    def age(self, name: str) -> float:
        try:
            return time.time() - (self._root / name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def tidy(self) -> None:
        for path in self._root.glob("trial-*"):
            with suppress(OSError):
                path.rmdir()  # only an empty one goes

    def _hidden(self, trial: str) -> Path:
        return self._root / trial / f"{_TEMPORARY}{uuid.uuid4().hex}"


class Remote:
    """An object store: the files first, the manifest last."""

    def __init__(self, root: str) -> None:
        try:
            from fsspec.core import url_to_fs

            self._fs, self._root = url_to_fs(root)
        except (ImportError, ValueError) as error:
            how = how_to_install_driver(error)
            raise CheckpointError(f"checkpoints cannot lie at {root!r}: {error}{how}") from error

    def prepare(self, trial: str) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="checkpoint-"))
        (directory / FILES).mkdir()
        return directory

    def publish(self, directory: Path, name: str, paths: list[str]) -> None:
        self.delete(name)
        try:
            for path in paths:
                self._put(directory / FILES / path, f"{name}/{FILES}/{path}")
            self._put(directory / MANIFEST, f"{name}/{MANIFEST}")
        except BaseException:
            with suppress(Exception):
                self.delete(name)
            raise

    @contextmanager
    def reading(self, name: str, paths: list[str]) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as directory:
            for path in paths:
                target = Path(directory, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # the check of the files says which one is missing
                    self._fs.get_file(f"{self._root}/{name}/{FILES}/{path}", str(target))
            yield Path(directory)

    def read(self, name: str) -> bytes:
        content: bytes = self._fs.cat_file(f"{self._root}/{name}")
        return content

    def delete(self, name: str) -> None:
        place = f"{self._root}/{name}"
        with suppress(FileNotFoundError):
            self._fs.rm_file(f"{place}/{MANIFEST}")  # first: from here on it does not exist
        with suppress(FileNotFoundError):
            self._fs.rm(place, recursive=True)

    def names(self) -> list[str]:
        """Return checkpoints, whole or not."""
        self._fs.invalidate_cache()
        found = set()
        with suppress(FileNotFoundError):
            for path in self._fs.find(self._root):
                name = "/".join(path.removeprefix(self._root).strip("/").split("/")[:2])
                if NAME.fullmatch(name):
                    found.add(name)
        return sorted(found)

    def age(self, name: str) -> float:
        try:
            modified = max(self._fs.modified(path).timestamp() for path in self._fs.find(f"{self._root}/{name}"))
        except (NotImplementedError, AttributeError, ValueError, FileNotFoundError):
            return float("inf")  # a file system that does not say
        return time.time() - float(modified)

    def tidy(self) -> None:
        """Object stores have no empty directories."""

    def _put(self, source: Path, name: str) -> None:
        target = f"{self._root}/{name}"
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(source), target)


# ------------------------------------------------------------------------------------------ files


def walk(directory: Path) -> list[str]:
    """Return the files below `directory`, as sorted relative paths with slashes."""
    found = []
    for folder, folders, names in os.walk(directory):
        for name in (*folders, *names):
            path = Path(folder, name)
            relative = path.relative_to(directory).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise CheckpointError(f"a checkpoint holds only files and directories, and {relative!r} is neither.")
            if name in names:
                found.append(relative)
    return sorted(found)


def copy_file(source: str, target: str) -> dict[str, Any]:
    """Copy a file, with its times and mode; return what `measure` would, of what was read.

    Raises CheckpointError for what is not a file, such as a pipe, which would be waited for.
    """
    if not stat.S_ISREG(os.stat(source).st_mode):  # noqa: PTH116 (a string, as shutil has it)
        raise CheckpointError(f"a checkpoint holds only files and directories, and {source!r} is neither.")
    sums, size = hashlib.sha256(), 0
    with open(source, "rb", buffering=0) as reader, open(target, "wb") as writer:  # noqa: PTH123
        buffer = memoryview(bytearray(_CHUNK))
        while count := reader.readinto(buffer):
            sums.update(buffer[:count])
            writer.write(buffer[:count])
            size += count
    shutil.copystat(source, target)
    return {"bytes": size, "sha256": sums.hexdigest()}


def measure(path: Path) -> dict[str, Any]:
    """Return the size and the SHA-256 sum of a file, as the manifest has them."""
    with path.open("rb") as file:
        return {
            "bytes": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def verify_file(path: Path, entry: Mapping[str, Any], where: str, checksum: bool) -> None:
    """Raise CheckpointError, beginning with `where`, for a file that is not as the manifest's `entry` says."""
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"{where} has {size} bytes, and the manifest says {entry['bytes']}.")
        if checksum and measure(path)["sha256"] != entry["sha256"]:
            raise CheckpointError(f"{where} does not match its SHA-256 sum: it was damaged or changed.")
    except FileNotFoundError:
        raise CheckpointError(f"{where} is missing.") from None


def is_inside(path: str) -> bool:
    """Whether a path from a manifest leads to a file below the directory that it is taken from."""
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and "\0" not in path


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
