"""Tables for the terminal. ASCII only, so that every terminal shows them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence

import click

from tune_platform.progress.text import shorten

#: Colour of a status; the word is always there too.
COLOURS: Mapping[str, str] = {
    "STARTING": "cyan", "RUNNING": "cyan", "COMPLETED": "green", "STOPPED": "yellow", "FAILED": "red",
    "running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red", "crashed": "red",
    "interrupted": "yellow", "unreadable": "red",
}  # fmt: skip


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
