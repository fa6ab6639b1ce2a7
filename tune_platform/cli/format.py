"""Tables for the terminal. ASCII only, so that every terminal shows them."""

from __future__ import annotations

import math
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

#: Least width of a last column that is cut.
LAST = 24


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


def fit(head: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[int], limit: int | None) -> list[int]:
    """Return which columns fit; those at the indices `spare` are given up, first to last, until the rest does.

    The last column is cut (see `table`), so it counts as `LAST` at most.
    """
    widths = [max(map(len, cells)) + 2 for cells in zip(head, *rows, strict=True)]
    widths[-1] = min(widths[-1], LAST)
    room = math.inf if limit is None else limit + 2 - sum(widths)
    dropped = []
    for index in spare:
        if room >= 0:
            break
        dropped.append(index)
        room += widths[index]
    for index in reversed(dropped):  # a narrow one may fit in the place of a wide one
        if widths[index] <= room:
            dropped.remove(index)
            room -= widths[index]
    return [index for index in range(len(head)) if index not in dropped]


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
