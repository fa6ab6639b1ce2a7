"""The filter bar: `loss < 0.2 and optimizer == "adam" and state == "completed"`, in the language of constraints.

Names are parameters (nested ones with dots: `model.width`), metrics of the last report, and `trial`, `state`, `best`,
`step`, `seconds`, `worker`, `reason`. A trial that lacks a name does not pass. Nothing is evaluated as Python.
"""

from __future__ import annotations

from tune_platform.dashboard.table import FIRST, Table
from tune_platform.errors import SpecError, did_you_mean
from tune_platform.space.constraints import Constraint


def passing(text: str, table: Table) -> list[int] | None:
    """Return the numbers of the trials that pass; None for an empty text, where all do.

    Raises SpecError for a text that is no expression, and for a name that no trial has.
    """
    if not text.strip():
        return None
    rule = Constraint(text)
    known = names(table)
    for name in sorted(rule.names - set(known)):
        raise SpecError(f"no trial has {name!r}{did_you_mean(name, known)}; there are {', '.join(list(known)[:12])}")
    read = sorted(rule.names)
    columns = [table.columns[known[name]] for name in read]
    numbers: list[int] = table.columns["trial"]
    rows = zip(numbers, *columns, strict=True)
    return [number for number, *cells in rows if None not in cells and rule.meets(dict(zip(read, cells, strict=True)))]


def names(table: Table) -> dict[str, str]:
    """Return the names that a filter can use, each with its column."""
    found = {name: name for name in FIRST}
    for column in table.columns:
        kind, _, name = column.partition("/")
        if kind in ("metrics", "config") and name:
            found.setdefault(name.replace("/", "."), column)
    return found
