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
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tune_platform.errors import CheckpointError
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.store._checkpoint_files import (
    FILES,
    MANIFEST,
    NAME,
    Local,
    Place,
    Remote,
    StorageAway,
    copy_file,
    is_inside,
    measure,
    reaching,
    verify_file,
    walk,
)

__all__ = ["FORMAT_VERSION", "CheckpointStorage", "Draft", "StorageAway"]

FORMAT_VERSION = 1
"""Version of the manifest and of the layout above."""

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
            self._store: Place = Remote(self.root)
        else:
            self.root = os.path.abspath(os.path.expanduser(root))  # noqa: PTH100, PTH111 (keeps symbolic links)
            self._store = Local(self.root, durable)
        inside = bool(folder) and self.root.startswith(f"{folder}/")
        self._prefix = self.root.removeprefix(f"{folder}/") if inside else self.root

    def draft(self, trial: int) -> Draft:
        """Begin a checkpoint of `trial`; whoever begins one keeps or discards it.

        Raises CheckpointError for a negative number, OSError where no directory can be made.
        """
        name = _name(trial, 0, 0)
        with reaching(self.root):
            directory = self._store.prepare(name.partition("/")[0])
        return Draft(self._store, self.root, self._prefix, trial, directory)

    def save(self, trial: int, step: int, attempt: int, write: Callable[[Path], Any]) -> CheckpointRef:
        """Call `write` with an empty local directory and keep what it puts there, as one atomic whole.

        A checkpoint of the same trial, step and attempt is replaced. If anything raises, nothing is left
        behind. Raises CheckpointError for what cannot be kept, such as symbolic links.
        """
        draft = self.draft(trial)
        try:
            write(draft.files)
        except BaseException:
            draft.discard()
            raise
        return draft.keep(step, attempt)

    @contextmanager
    def restore(self, ref: CheckpointRef, *, verify: bool = True) -> Iterator[Path]:
        """Give a local directory with the files of `ref`, to be read and not changed.

        Sizes and, with `verify`, SHA-256 sums are checked first. Raises CheckpointError if it is missing,
        incomplete or altered, naming the file; StorageAway, of which nothing of that follows, where no answer comes.
        """
        name = self._name(ref.uri)
        entries = self._entries(name)
        with ExitStack() as held:
            with reaching(self.root):
                files = held.enter_context(self._store.reading(name, list(entries)))
                for path, entry in entries.items():
                    verify_file(files / path, entry, f"{self.root}/{name}: file {path!r}", verify)
            yield files

    def fetch(self, ref: CheckpointRef, cache: Path, *, verify: bool = True) -> Path:
        """Return a directory with the files of `ref` that stays: its own, or of an object store a copy in `cache`.

        Checks and raises what `restore` does; what has been fetched once is not fetched again.
        """
        if isinstance(self._store, Local):
            with self.restore(ref, verify=verify) as files:
                return files
        name = self._name(ref.uri)
        content = json.dumps([self.root, name, self._entries(name)], sort_keys=True)
        target = cache / f"{name.replace('/', '-')}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        if not target.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with self.restore(ref, verify=verify) as files, tempfile.TemporaryDirectory(dir=cache) as made:
                whole = Path(shutil.copytree(files, f"{made}/whole"))
                with suppress(OSError):  # another process was faster
                    whole.rename(target)
        return target

    def damage(self, ref: CheckpointRef) -> str:
        """Return what is wrong with a checkpoint; empty where it is whole, or no answer comes.

        The files of a local one are read and held against their sums; of an object store's only the manifest is read.
        """
        try:
            if isinstance(self._store, Local):
                with self.restore(ref):
                    return ""
            self._entries(self._name(ref.uri))
        except StorageAway:
            return ""
        except CheckpointError as error:
            return str(error)
        return ""

    def delete(self, ref: CheckpointRef) -> None:
        """Delete a checkpoint; one that is not there is deleted already. Raises StorageAway where no answer comes."""
        name = self._name(ref.uri)
        with reaching(self.root):
            self._store.delete(name)

    def clear(self) -> int:
        """Delete all checkpoints, whole or not, and the root if nothing else is in it; return the bytes of the whole.

        What else somebody keeps there stays.
        """
        freed = sum(ref.bytes for ref in self.list())
        with reaching(self.root):
            for name in self._store.names():
                self._store.delete(name)
            self._store.tidy()
        if isinstance(self._store, Local):
            with suppress(OSError):
                Path(self.root).rmdir()
        return freed

    def list(self) -> list[CheckpointRef]:
        """Return the whole checkpoints, ordered by trial, step and attempt; files are not checked."""
        found = []
        with reaching(self.root):
            names = self._store.names()
        for name in names:
            try:
                match = NAME.fullmatch(name)
                if match:
                    trial, step, attempt = map(int, match.groups())
                    ref = CheckpointRef(trial, step, f"{self._prefix}/{name}", _total(self._entries(name)))
                    found.append((trial, step, attempt, ref))
            except StorageAway:
                raise
            except CheckpointError:
                pass  # not whole
        return [ref for *_, ref in sorted(found, key=lambda entry: entry[:3])]

    def collect_garbage(self, keep: Collection[str], *, older_than: float = 0.0) -> tuple[str, ...]:
        """Delete what crashes left half-written and checkpoints whose URI is not in `keep`; return the URIs.

        A checkpoint that is being written looks like garbage: call this while no worker runs, or spare with
        `older_than` (seconds) what is younger. Files that this class did not write are left alone. Raises
        CheckpointError, before anything is deleted, for a URI of another place.
        """
        kept = {self._name(uri) for uri in keep}
        removed = []
        with reaching(self.root):
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
            if name != plain and NAME.fullmatch(name):
                return name
        raise CheckpointError(f"{uri!r} is not a checkpoint of the storage at {self.root!r}.")

    def _entries(self, name: str) -> dict[str, Mapping[str, Any]]:
        where = f"{self.root}/{name}"
        try:
            with reaching(self.root):
                manifest = json.loads(self._store.read(f"{name}/{MANIFEST}"))
            version, entries = manifest["format_version"], dict(manifest["files"])
            sound = all(is_inside(path) and entry["sha256"] and entry["bytes"] >= 0 for path, entry in entries.items())
        except FileNotFoundError:
            raise CheckpointError(f"there is no checkpoint at {where}: it was deleted or never finished.") from None
        except StorageAway:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{where}: {MANIFEST} cannot be read: {error!r}") from error
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{where} was written by a newer tune_platform (format {version}): upgrade to read it."
            )
        if not sound:
            raise CheckpointError(f"{where}: {MANIFEST} names files outside the checkpoint or lacks their sums.")
        return entries


class Draft:
    """A checkpoint in the making, which nobody sees until `keep` has made it whole.

    `files` is a local directory, empty at first, for what the checkpoint is to hold. Filling it is the part that
    belongs into the training's time; `keep` may run behind it, in another thread.
    """

    def __init__(self, place: Place, root: str, prefix: str, trial: int, directory: Path) -> None:
        self.trial = trial
        self.files = directory / FILES
        self._place, self._root = place, root
        self._prefix = prefix
        self._directory = directory
        self._measured: dict[str, Mapping[str, Any]] = {}  # what was hashed while it was copied

    def copy(self, source: Path) -> None:
        """Copy a directory into `files`, hashing what is copied; links are followed. If that fails, discard the draft.

        Raises OSError (of `shutil.copytree`), or CheckpointError for what is neither file nor directory and for a
        `source` that this storage lies in.
        """
        try:
            if self.files.resolve().is_relative_to(source.resolve()):
                raise CheckpointError(f"a checkpoint cannot hold itself: checkpoints are kept below {str(source)!r}.")
            shutil.copytree(source, self.files, dirs_exist_ok=True, copy_function=self._copy_file)
        except BaseException:
            self.discard()
            raise

    def _copy_file(self, source: str, target: str) -> None:
        self._measured[Path(target).relative_to(self.files).as_posix()] = copy_file(source, target)

    def keep(self, step: int, attempt: int) -> CheckpointRef:
        """Make a whole checkpoint of what `files` holds, in place of one of the same trial, step and attempt.

        If anything raises, nothing is left behind. Raises CheckpointError for what cannot be kept, such as symbolic
        links, StorageAway where no answer comes, and whatever the disk or the object store raises.
        """
        try:
            name = _name(self.trial, step, attempt)
            entries = {path: self._measured.get(path) or measure(self.files / path) for path in walk(self.files)}
            manifest = {
                "format_version": FORMAT_VERSION, "trial": self.trial, "step": step, "attempt": attempt,
                "created": time.time(), "files": entries,
            }  # fmt: skip
            (self._directory / MANIFEST).write_text(json.dumps(manifest))
            with reaching(self._root):
                self._place.publish(self._directory, name, list(entries))
        finally:
            self.discard()
        return CheckpointRef(self.trial, step, f"{self._prefix}/{name}", _total(entries))

    def ref(self, step: int, attempt: int, size: int) -> CheckpointRef:
        """Return what `keep` will return, where the files come to `size` bytes."""
        return CheckpointRef(self.trial, step, f"{self._prefix}/{_name(self.trial, step, attempt)}", size)

    def discard(self) -> None:
        """Delete the draft; one that has been kept is gone already."""
        shutil.rmtree(self._directory, ignore_errors=True)


def _name(trial: int, step: int, attempt: int) -> str:
    name = f"trial-{trial:05d}/step-{step:08d}-a{attempt}"
    if not NAME.fullmatch(name):
        raise CheckpointError(f"trial, step and attempt must not be negative: {trial}, {step}, {attempt}.")
    return name


def _total(entries: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(int(entry["bytes"]) for entry in entries.values())
