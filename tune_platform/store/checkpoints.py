"""Checkpoints on any fsspec path: whole or not there at all, and checked when they are read.

    <root>/trial-00042/step-00000009-a0/manifest.json    sizes and SHA-256 of the files below
    <root>/trial-00042/step-00000009-a0/files/...        what the trainable wrote

Worker processes import this module, so it loads neither SQLAlchemy nor Ray nor torch, and fsspec only for a
root that is not local. A checkpoint without a manifest does not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from tune_platform.errors import CheckpointError
from tune_platform.protocol.reports import CheckpointRef

FORMAT_VERSION = 1
"""Version of the manifest and of the layout above."""

MANIFEST = "manifest.json"
FILES = "files"
_NAME = re.compile(r"trial-(\d{5,})/step-(\d{8,})-a(\d+)")
_TEMPORARY = ".tmp-"
_LOCAL = ("file://", "local://")


class CheckpointStorage:
    """Writes, reads and deletes the checkpoints below `root`.

    `root` is an absolute local path or any fsspec URL (a relative path is taken from the working directory,
    which is not the same in every process). URIs are absolute, or, where `root` is within the local `folder`, relative
    to that, so that the folder can be moved. With `durable` a local checkpoint also survives a power cut.
    """

    def __init__(self, root: str, *, folder: str = "", durable: bool = True) -> None:
        for prefix in _LOCAL:
            root = root.removeprefix(prefix)
        if "://" in root:
            self.root = root.rstrip("/")
            self._store: _Local | _Remote = _Remote(self.root)
        else:
            self.root = os.path.abspath(os.path.expanduser(root))  # noqa: PTH100, PTH111 (keeps symbolic links)
            self._store = _Local(self.root, durable)
        inside = bool(folder) and self.root.startswith(f"{folder}/")
        self._prefix = self.root.removeprefix(f"{folder}/") if inside else self.root

    def save(self, trial: int, step: int, attempt: int, write: Callable[[Path], None]) -> CheckpointRef:
        """Call `write` with an empty local directory and keep what it puts there, as one atomic whole.

        A checkpoint of the same trial, step and attempt is replaced. If anything raises, nothing is left
        behind. Raises CheckpointError for what cannot be kept, such as symbolic links.
        """
        name = f"trial-{trial:05d}/step-{step:08d}-a{attempt}"
        if not _NAME.fullmatch(name):
            raise CheckpointError(f"trial, step and attempt must not be negative: {trial}, {step}, {attempt}.")
        with self._store.writing(name) as directory:
            files = directory / FILES
            files.mkdir()
            write(files)
            entries = {path: _measure(files / path) for path in _walk(files)}
            manifest = {
                "format_version": FORMAT_VERSION, "trial": trial, "step": step, "attempt": attempt,
                "created": time.time(), "files": entries,
            }  # fmt: skip
            (directory / MANIFEST).write_text(json.dumps(manifest))
            self._store.publish(directory, name, list(entries))
        return CheckpointRef(trial, step, f"{self._prefix}/{name}", _total(entries))

    @contextmanager
    def restore(self, ref: CheckpointRef, *, verify: bool = True) -> Iterator[Path]:
        """Give a local directory with the files of `ref`, to be read and not changed.

        Sizes and, with `verify`, SHA-256 sums are checked first. Raises CheckpointError if it is missing,
        incomplete or altered, naming the file.
        """
        name = self._name(ref.uri)
        entries = self._entries(name)
        with self._store.reading(name, list(entries)) as files:
            for path, entry in entries.items():
                _verify(files / path, entry, f"{self.root}/{name}: file {path!r}", verify)
            yield files

    def delete(self, ref: CheckpointRef) -> None:
        """Delete a checkpoint; one that is not there is deleted already."""
        self._store.delete(self._name(ref.uri))

    def list(self) -> list[CheckpointRef]:
        """Return the whole checkpoints, ordered by trial, step and attempt; files are not checked."""
        found = []
        for name in self._store.names():
            with suppress(CheckpointError):
                match = _NAME.fullmatch(name)
                if match:
                    trial, step, attempt = map(int, match.groups())
                    ref = CheckpointRef(trial, step, f"{self._prefix}/{name}", _total(self._entries(name)))
                    found.append((trial, step, attempt, ref))
        return [ref for *_, ref in sorted(found, key=lambda entry: entry[:3])]

    def collect_garbage(self, keep: Collection[str], *, older_than: float = 0.0) -> tuple[str, ...]:
        """Delete what crashes left half-written and checkpoints whose URI is not in `keep`; return the URIs.

        A checkpoint that is being written looks like garbage: call this while no worker runs, or spare with
        `older_than` (seconds) what is younger. Files that this class did not write are left alone. Raises
        CheckpointError, before anything is deleted, for a URI of another place.
        """
        kept = {self._name(uri) for uri in keep}
        removed = []
        for name in self._store.names():
            if name not in kept and self._store.age(name) >= older_than:
                self._store.delete(name)
                removed.append(f"{self._prefix}/{name}")
        self._store.tidy()
        return tuple(sorted(removed))

    def _name(self, uri: str) -> str:
        # Only names that this class gives: a URI from a damaged or foreign log must not lead anywhere else.
        plain = uri
        for scheme in _LOCAL:
            plain = plain.removeprefix(scheme)
        for prefix in (self._prefix, self.root):  # older logs have absolute ones
            name = plain.removeprefix(f"{prefix}/")
            if name != plain and _NAME.fullmatch(name):
                return name
        raise CheckpointError(f"{uri!r} is not a checkpoint of the storage at {self.root!r}.")

    def _entries(self, name: str) -> dict[str, Mapping[str, Any]]:
        where = f"{self.root}/{name}"
        try:
            manifest = json.loads(self._store.read(f"{name}/{MANIFEST}"))
            version, entries = manifest["format_version"], dict(manifest["files"])
            sound = all(_is_inside(path) and entry["sha256"] and entry["bytes"] >= 0 for path, entry in entries.items())
        except FileNotFoundError:
            raise CheckpointError(f"there is no checkpoint at {where}: it was deleted or never finished.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{where}: {MANIFEST} cannot be read: {error!r}") from error
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{where} was written by a newer tune_platform (format {version}): upgrade to read it."
            )
        if not sound:
            raise CheckpointError(f"{where}: {MANIFEST} names files outside the checkpoint or lacks their sums.")
        return entries


# ------------------------------------------------------------------------------------------ where they lie


class _Local:
    """A directory: a checkpoint is made beside its place and renamed into it."""

    def __init__(self, root: str, durable: bool) -> None:
        self._root = Path(root)
        self._durable = durable

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        directory = self._hidden(name)
        directory.mkdir(parents=True)
        try:
            yield directory
        finally:
            if directory.exists():
                shutil.rmtree(directory, ignore_errors=True)

    def publish(self, directory: Path, name: str, paths: list[str]) -> None:
        target = self._root / name
        if self._durable:
            for path in (MANIFEST, *(f"{FILES}/{path}" for path in paths)):
                _sync(directory / path)
            for path in sorted({str(Path(FILES, path).parent) for path in paths} | {"."}):
                _sync(directory / path)
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
        hidden = self._hidden(name)
        with suppress(FileNotFoundError):
            (self._root / name).rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    def names(self) -> list[str]:
        """Return checkpoints, whole or not, and remains."""
        names = [f"{path.parent.name}/{path.name}" for path in self._root.glob("trial-*/*") if path.is_dir()]
        return [name for name in names if _NAME.fullmatch(name) or f"/{_TEMPORARY}" in name]

    def age(self, name: str) -> float:
        try:
            return time.time() - (self._root / name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def tidy(self) -> None:
        for path in self._root.glob("trial-*"):
            with suppress(OSError):
                path.rmdir()  # only an empty one goes

    def _hidden(self, name: str) -> Path:
        place = self._root / name
        return place.with_name(f"{_TEMPORARY}{place.name.removeprefix(_TEMPORARY)}-{uuid.uuid4().hex[:12]}")


class _Remote:
    """An object store: the files first, the manifest last."""

    def __init__(self, root: str) -> None:
        try:
            from fsspec.core import url_to_fs

            self._fs, self._root = url_to_fs(root)
        except (ImportError, ValueError) as error:
            raise CheckpointError(f"checkpoints cannot lie at {root!r}: {error}") from error

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as directory:
            yield Path(directory)

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
                if _NAME.fullmatch(name):
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


def _walk(directory: Path) -> list[str]:
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


def _measure(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _verify(path: Path, entry: Mapping[str, Any], where: str, checksum: bool) -> None:
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"{where} has {size} bytes, and the manifest says {entry['bytes']}.")
        if checksum and _measure(path)["sha256"] != entry["sha256"]:
            raise CheckpointError(f"{where} does not match its SHA-256 sum: it was damaged or changed.")
    except FileNotFoundError:
        raise CheckpointError(f"{where} is missing.") from None


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and "\0" not in path


def _total(entries: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(int(entry["bytes"]) for entry in entries.values())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
