"""Where an experiment lies that was named by a person."""

from __future__ import annotations

from pathlib import Path

from tune_platform.location import Location, default_storage
from tune_platform.store.sql import FILE_NAME


def locate(name: str | Path, storage: str | Path | None = None) -> tuple[str, Location]:
    """Return (name, storage) of an experiment that was given by name or by the path of its folder or file."""
    text, path = str(name), Path(name).expanduser()
    if path.name == FILE_NAME:
        path = path.parent
    inside = storage is None and (path / FILE_NAME).exists()
    if isinstance(name, Path) or "/" in text or text == "." or inside:
        path = path.absolute() if path.name else path.resolve()
        return path.name, Location(path.parent)
    return text, default_storage() if storage is None else Location(storage)
