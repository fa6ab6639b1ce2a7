"""Where experiments lie: a folder or the URL of a database, which hides its password whenever it becomes text."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

_HIDDEN = "***"
# Up to the last @, as a password that nobody encoded may hold one: too much is hidden rather than too little.
_IN_TEXT = re.compile(r"(://[^\s/:@?]*):\S*@")
_IN_LOCATION = re.compile(r"(://[^/:@?]*):.*@", re.DOTALL)
_IN_QUERY = re.compile(r"([?&][^=&\s]*(?:pass|pwd|secret|token)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)
_USER = re.compile(r"(?P<head>[^/]*://[^/:@?]*:)(?P<password>[^?]*)(?P<rest>@.*)", re.DOTALL)

#: Holds the default storage; the place for a URL with a password, which on a command line everybody could read.
VARIABLE = "TUNE_PLATFORM_STORAGE"


def without_secrets(text: str) -> str:
    """Return a text with `***` in the place of the passwords of the URLs in it."""
    return _IN_QUERY.sub(rf"\1{_HIDDEN}", _IN_TEXT.sub(rf"\1:{_HIDDEN}@", text))


class Location(str):
    """A folder, or the URL of a database. As text it is the URL with `***` for its password; `unmasked` is the URL.

    So it may be shown, logged and written anywhere. A copy and a pickle of it have the password.
    """

    _unmasked: str

    def __new__(cls, text: str | Path) -> Location:
        """Take a text, or a location."""
        if isinstance(text, Location):
            return text
        whole = str(text)
        shown = whole
        if "://" in whole:
            shown = _IN_QUERY.sub(rf"\1{_HIDDEN}", _IN_LOCATION.sub(rf"\1:{_HIDDEN}@", whole))
        made = super().__new__(cls, shown)
        made._unmasked = whole
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Location, (self._unmasked,)

    @property
    def unmasked(self) -> str:
        """The folder, or the URL with its password, whose signs with a meaning of their own are encoded."""
        match = _USER.fullmatch(self._unmasked)
        if match is None:
            return self._unmasked
        return match["head"] + quote(match["password"], safe="%!$&'()*+,;=:~") + match["rest"]

    @property
    def is_url(self) -> bool:
        """Whether it is a database, not a folder."""
        return "://" in self

    @property
    def has_secret(self) -> bool:
        """Whether something of it is not shown."""
        return self != self._unmasked


def default_storage() -> Location:
    """Return TUNE_PLATFORM_STORAGE, or `tune_results` in the present folder."""
    return Location(os.environ.get(VARIABLE) or "tune_results")


def impossible(folder: str | Path) -> str:
    """Say why no experiments can lie in a folder, whatever is done; an empty text where they may.

    What the folder is, and the folders above it, is looked at; nothing is written.
    """
    text = str(folder)
    if "\0" in text:
        return f"{text!r} is no path: it holds a NUL character"
    try:
        os.fsencode(text).decode()
    except UnicodeError:
        return f"{text!r} is no path: a part of it stands for no character; write it in UTF-8"
    path = Path(text).expanduser().absolute()
    depth = 0
    for part in path.parts[1:]:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return f"{text} leads above the root of the file system"
    try:
        while not path.exists():
            path = path.parent
        if not path.is_dir():
            what = "is" if path == Path(text).expanduser().absolute() else f"leads through {path}, which is"
            return f"{text} {what} a {'file' if path.is_file() else 'device'}, not a folder"
    except OSError as error:
        return f"{text} cannot be looked at: {error.strerror or error}"
    return ""


#: File systems of other machines on which two processes may hold one lock, or whose files change under a mapping.
_NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "afs", "fuse.sshfs", "fuse.s3fs", "fuse.mount-s3", "fuse.gcsfuse", "fuse.rclone",
    "fuse.blobfuse2",
}  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(folder: str | Path) -> str:
    """Return the kind of the network file system that a folder lies on, or will; an empty text where it is on a disk.

    Only Linux tells. proc(5): "/proc/pid/mountinfo".
    """
    path = os.path.realpath(os.path.expanduser(folder))  # noqa: PTH111 (links lead elsewhere)
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4])
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):  # of several on one place the last is seen
            best, kind = place, after.split()[0]
    return kind if kind in _NETWORK else ""


def unsafe_for_sqlite(folder: str | Path) -> str:
    """Say why no SQLite file may be written in a folder, and what to do; an empty text where one may."""
    kind = network_file_system(folder)
    if not kind:
        return ""
    return (
        f"{folder} is on a network file system ({kind}), where the locks and the shared memory of SQLite do not hold: "
        "a store is damaged sooner or later. Keep it on a local disk (--storage, or TUNE_PLATFORM_STORAGE), or in "
        "PostgreSQL; only checkpoints may stay there (checkpoint.storage)"
    )


def unwritable(folder: str | Path) -> str:
    """Say why no folder can be made, or no file written, there; an empty text where they can.

    A file without content is made for the question in the nearest folder that is there, and deleted.
    """
    import tempfile

    if said := impossible(folder):
        return said
    path = Path(folder).expanduser().absolute()
    while not path.exists():
        path = path.parent
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=".tune-platform-"):
            return ""
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror or error} ({path})"


def private_folder(around: str | Path, name: str) -> Path:
    """Make the folder `name` for its owner alone, whatever the umask; return it. One that is there stays as it is.

    A folder `around` that is there already decides about the group: what that may do there, it may do inside. One that
    is not there is made for its owner alone too. Raises OSError.
    """
    outer = Path(around).expanduser()
    outer.parent.mkdir(parents=True, exist_ok=True)
    outer.mkdir(mode=0o700, exist_ok=True)
    folder = outer / name
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return folder
    folder.chmod(0o700 | group_rights(outer))
    return folder


def group_rights(folder: Path) -> int:
    """Return what the group of a folder may do in it, as bits of a mode; nothing in a place for everybody (`/tmp`)."""
    mode = folder.stat().st_mode
    return 0 if mode & 0o002 else mode & 0o2070
