"""Tables as the docs have them, and the place in a page where a study puts its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def markdown(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table, its columns aligned."""
    cells = [[str(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def put_into(page: Path, markers: tuple[str, str], text: str) -> None:
    """Replace what stands between the two markers of a Markdown page. Raises ValueError where it has none."""
    before, first, rest = page.read_text(encoding="utf-8").partition(markers[0])
    _, last, after = rest.partition(markers[1])
    if not last:
        raise ValueError(f"{page} has no place for tables: put the lines {' and '.join(markers)} there")
    page.write_text(f"{before}{first}\n\n{text.rstrip()}\n\n{last}{after}", encoding="utf-8")
