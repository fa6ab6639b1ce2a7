"""Whose code a file is: the user's own, or that of a library, of Python or ours."""

from __future__ import annotations

import sysconfig
from pathlib import Path

#: Where our own files lie.
PACKAGE = str(Path(__file__).parents[1])
_LIBRARIES = ("site-packages", sysconfig.get_path("stdlib"))


def is_users(filename: str) -> bool:
    """Whether a file, as tracebacks name it, is neither Python's own, nor a library's, nor ours."""
    if filename.startswith((PACKAGE, "<frozen", "<string>")):
        return False
    return not any(library in filename for library in _LIBRARIES)
