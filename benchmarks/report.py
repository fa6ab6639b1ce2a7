"""Plain tables for benchmark output."""

from __future__ import annotations


class Table:
    """Collects rows and prints them aligned."""

    def __init__(self, *titles: str) -> None:
        self._rows: list[tuple[str, ...]] = [titles]

    def add(self, *cells: object) -> None:
        """Add a row."""
        self._rows.append(tuple(map(str, cells)))

    def print(self) -> None:
        """Print the table and an empty line."""
        widths = [max(map(len, column)) for column in zip(*self._rows, strict=True)]
        for number, row in enumerate(self._rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            if number == 0:
                print("  ".join("-" * width for width in widths))
        print()
