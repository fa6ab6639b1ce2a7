"""Numbers, times and configs as people read them. ASCII only, so that every terminal shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: Characters of a value in a line.
LONGEST = 80


def number(value: Any) -> str:
    """Return a number with the digits that matter; other values as they are."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)


def duration(seconds: float | None) -> str:
    """Return 0.4 s, 12 s, 1m 32s, 2h 05m or 3d 04h."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def size(count: float) -> str:
    """Return 512 bytes, 4.2 KB, 1.3 GB."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("KB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def counts(by_status: Mapping[str, int], *, driven: bool = True) -> str:
    """Return "2 running, 40 stopped" in the order of a trial's life; see `status_word` for `driven`."""
    order = ("RUNNING", "STARTING", "PAUSING", "PAUSED", "PENDING", "COMPLETED", "STOPPED", "FAILED")
    known = [(name, by_status[name]) for name in order if by_status.get(name)]
    return ", ".join(f"{count} {status_word(name, driven).lower()}" for name, count in known) or "no trials yet"


def status_word(status: str, driven: bool) -> str:
    """Return the status of a trial as people are told it: without a driver (not `driven`) no trial runs."""
    return f"was {status.lower()}" if not driven and status in _PLACED else status


def values(metrics: Mapping[str, Any]) -> str:
    """Return "lr 0.01, optimizer/name adamw"."""
    return ", ".join(f"{name} {value}" for name, value in _flat(metrics).items())


def shorten(text: str, width: int) -> str:
    """Return the first line of a text, cut to a width."""
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= width else line[: max(0, width - 3)] + "..."


#: Where a trial has a place, as long as somebody drives the search.
_PLACED = ("RUNNING", "STARTING", "PAUSING")


class Differences:
    """The values in which the configs of a search differ: its constants would only fill the line."""

    def __init__(self) -> None:
        self._first: dict[str, str] | None = None
        self._names: set[str] = set()

    def see(self, config: Mapping[str, Any]) -> None:
        """Take note of a config."""
        flat = _flat(config)
        first = self._first = flat if self._first is None else self._first
        if flat != first:
            self._names.update(name for name in {**first, **flat} if flat.get(name) != first.get(name))

    def text(self, config: Mapping[str, Any]) -> str:
        """Return "lr 0.01, optimizer/name adamw" of what differs; of everything while nothing does."""
        self.see(config)
        flat = _flat(config)
        return ", ".join(f"{name} {flat[name]}" for name in flat if name in self._names or not self._names)


def _flat(config: Mapping[str, Any]) -> dict[str, str]:
    from tune_platform.protocol.configs import shown
    from tune_platform.results import flatten

    return {name: shorten(printable(number(value)), LONGEST) for name, value in flatten(shown(config)).items()}


def printable(text: str) -> str:
    """Return a text on one line, without what a terminal would take for a command."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def finite(value: Any) -> Any:
    """Return JSON values with None in the place of NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
