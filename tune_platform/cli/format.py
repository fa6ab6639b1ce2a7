"""Numbers, times and tables as people read them. ASCII only, so that every terminal shows them."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

#: Colour of a status; the word is always there too.
COLOURS: Mapping[str, str] = {
    "STARTING": "cyan", "RUNNING": "cyan", "COMPLETED": "green", "STOPPED": "yellow", "FAILED": "red",
    "running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red", "crashed": "red",
    "interrupted": "yellow", "unreadable": "red",
}  # fmt: skip


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


def counts(by_status: Mapping[str, int]) -> str:
    """Return "2 running, 40 stopped" in the order of a trial's life."""
    order = ("RUNNING", "STARTING", "PAUSING", "PAUSED", "PENDING", "COMPLETED", "STOPPED", "FAILED")
    known = [(name, by_status[name]) for name in order if by_status.get(name)]
    return ", ".join(f"{count} {name.lower()}" for name, count in known) or "no trials yet"


def values(metrics: Mapping[str, Any]) -> str:
    """Return "lr 0.01, optimizer/name adamw"."""
    return ", ".join(f"{name} {value}" for name, value in _flat(metrics).items())


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
    from tune_platform.results import flatten

    return {name: number(value) for name, value in flatten(config).items()}


def shorten(text: str, width: int) -> str:
    """Return the first line of a text, cut to a width."""
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= width else line[: max(0, width - 3)] + "..."


def width() -> int | None:
    """Return the columns of the terminal; None where stdout is none, and nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(head: Sequence[str], rows: Sequence[Sequence[str]], limit: int | None = None) -> str:
    """Return an aligned table; columns of numbers stand to the right, and the last column takes what is left."""
    if limit is not None:
        fixed = sum(max(map(len, column)) + 2 for column in list(zip(head, *rows, strict=True))[:-1])
        rows = [[*row[:-1], shorten(row[-1], max(limit - fixed, 12))] for row in rows]
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [_numeric(column[1:]) for column in columns]
    lines = []
    for line, cells in enumerate((head, *rows)):
        text = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        text[-1] = text[-1].rstrip()
        styled = [_styled(cell, line == 0) for cell in text]
        lines.append("  ".join(styled).rstrip())
    return "\n".join(lines)


def fit(head: Sequence[str], rows: Sequence[Sequence[str]], fixed: Sequence[str], limit: int | None) -> int:
    """Return how many columns that are not `fixed` must be left out for the table to fit (the last ones first)."""
    if limit is None:
        return 0
    widths = {name: max(map(len, column)) + 2 for name, *column in zip(head, *rows, strict=True)}
    widths = {name: max(wide, len(name) + 2) for name, wide in widths.items()}
    optional = [name for name in head if name not in fixed]
    room = limit - sum(widths[name] for name in fixed if name != head[-1]) - 24  # for the last column
    dropped = 0
    while optional and sum(widths[name] for name in optional) > room:
        optional.pop()
        dropped += 1
    return dropped


def _numeric(cells: Sequence[str]) -> bool:
    def is_number(cell: str) -> bool:
        try:
            float(cell)
        except ValueError:
            return cell in ("-", "")
        return True

    return any(cell not in ("-", "") for cell in cells) and all(map(is_number, cells))


def _styled(cell: str, head: bool) -> str:
    if head:
        return click.style(cell, bold=True)
    colour = COLOURS.get(cell.strip())
    return click.style(cell, fg=colour) if colour else cell
