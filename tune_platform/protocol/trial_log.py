"""Where the log of a trial lies, and how its attempts are told apart in it: for who writes it and who reads it."""

from __future__ import annotations

#: The file in the trial's own folder.
LOG = "log.txt"
#: Bytes that it may have, where the spec does not say.
LOG_LIMIT = 100_000_000
#: How the line begins that parts an attempt from those before.
MARK = b"---- attempt "


def folder_of(trials: str, trial: int) -> str:
    """Return the path of the trial's own folder within that of all; empty where there is none."""
    return f"{trials}/trial-{trial:05d}" if trials else ""
