"""What a figure shows, as rows: for those who want to draw it themselves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tune_platform.results.tables import no_formula

#: The columns of a trace that are rows of points, and their names in the file.
_POINTS = {"x": "x", "y": "y", "base": "from", "customdata": "trial"}


def as_csv(figure: go.Figure) -> str:
    """Return the data of a figure as CSV with a header: the trace's name, then its points, axes, cells or grid."""
    rows = list(_rows(figure))
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(map(no_formula, names))
    writer.writerows([row.get(name, "") for name in names] for row in rows)
    return out.getvalue()


def _rows(figure: go.Figure) -> Iterator[dict[str, Any]]:
    for trace in figure.data:
        name = {"trace": _cell(trace.name or "")}
        if trace.type == "parcoords":
            columns = {str(each.label): each.values for each in trace.dimensions}
            yield from _columns({**name}, {"trial": trace.customdata, **columns})
        elif trace.type == "table":
            heads = trace.header["values"] or ()
            yield from _columns(
                name, {_plain(head): cells for head, cells in zip(heads, trace.cells["values"], strict=True)}
            )
        elif trace.type == "contour":
            for y, line in zip(trace.y, trace.z, strict=True):
                yield from (
                    {**name, "x": _cell(x), "y": _cell(y), "z": _cell(z)} for x, z in zip(trace.x, line, strict=True)
                )
        else:
            found = {word: trace[key] for key, word in _POINTS.items() if key in trace and trace[key] is not None}
            yield from _columns(name, found)


def _columns(name: dict[str, str], columns: dict[str, Iterable[Any] | None]) -> Iterator[dict[str, Any]]:
    there = {key: cells for key, cells in columns.items() if cells is not None}
    for cells in zip_longest(*there.values()):
        yield {**name, **{key: _cell(cell) for key, cell in zip(there, cells, strict=True)}}


def _plain(head: Any) -> str:
    return str(head).replace("<b>", "").replace("</b>", "")


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple, np.ndarray)):
        value = value[0] if len(value) else ""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return no_formula(value)
