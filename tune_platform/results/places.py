"""Where an experiment lies that was named by a person."""

from __future__ import annotations

import os
from pathlib import Path

from tune_platform.store.sql import FILE_NAME


def locate(name: str | Path, storage: str | Path | None = None) -> tuple[str, str]:
    """Return (name, storage) of an experiment that was given by name or by the path of its folder or file."""
    text, path = str(name), Path(name).expanduser()
    if path.name == FILE_NAME:
        path = path.parent
    inside = storage is None and (path / FILE_NAME).exists()
    if isinstance(name, Path) or "/" in text or text == "." or inside:
        path = path.absolute() if path.name else path.resolve()
        return path.name, str(path.parent)
    if storage is None:
        storage = default_storage()
    return text, str(storage)


def default_storage() -> str:
    """Return TUNE_PLATFORM_STORAGE, or `tune_results` in the present folder."""
    # The rule of `tune_platform.spec`, without the half second that importing that takes (a test compares them).
    return os.environ.get("TUNE_PLATFORM_STORAGE") or "tune_results"
