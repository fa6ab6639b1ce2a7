"""Where this user keeps what can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return TUNE_PLATFORM_CACHE, or the user's own folder for what can be fetched again."""
    given = os.environ.get("TUNE_PLATFORM_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given or f"{base}/tune_platform").expanduser()
