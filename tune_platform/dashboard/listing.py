"""The list of experiments: what each is at, how far it has come, and the best that it has found."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import dash_mantine_components as dmc
import numpy as np
from dash import dcc, html

from tune_platform.dashboard import parts
from tune_platform.dashboard.source import Source
from tune_platform.errors import TunePlatformError
from tune_platform.plots.progress import best_so_far
from tune_platform.store.records import ExperimentRow

#: Milliseconds between two looks at the list.
PERIOD = 5000
#: Of so many experiments, the newest that are found, the best is shown: each has to be read.
_READ = 20
_ENDED = ("COMPLETED", "STOPPED", "FAILED")


def page(source: Source) -> list[Any]:
    """Return the page with the list."""
    search = dmc.TextInput(
        id="search", label="Search", placeholder="name, state, searcher", debounce=200, w="18rem", mb="xs"
    )
    return [
        dcc.Interval(id="list-tick", interval=PERIOD),
        dmc.Title("Experiments", order=2, mt="xs"),
        parts.card(search, html.Div(rows(source, ""), id="experiments")),
    ]


def rows(source: Source, text: str) -> list[Any]:
    """Return the experiments in which all words of a text are found, newest first."""
    words = text.lower().split()
    known = source.experiments()
    found = [row for row in known if all(word in _told(row) for word in words)]
    if not known:
        return [f"There are no experiments in {source.storage} yet."]
    if not found:
        places = "name, state, searcher, scheduler, metric or description"
        return [f"None of {len(known)} experiments has {text!r} in its {places}."]
    head = ("experiment", "state", "progress", "best", "trials", "by", "started", "note")
    lines = [_line(source, row, read=place < _READ) for place, row in enumerate(found)]
    more = [html.P(dcc.Link("Compare experiments", href="/compare"))] if len(known) > 1 else []
    return [parts.table(head, lines), *more]


def _line(source: Source, row: ExperimentRow, *, read: bool) -> list[Any]:
    return [
        parts.link(row.name, row.name),
        parts.state(row.status),
        progress(row),
        _best(source, row) if read else "",
        ", ".join(f"{count} {status.lower()}" for status, count in row.counts.items()) or "none yet",
        _by(row.spec),
        parts.ago(row.created),
        row.reason or str(row.spec.get("description") or ""),
    ]


def _by(spec: Mapping[str, Any]) -> str:
    named = [spec.get(key) for key in ("search", "schedule")]
    return ", ".join(str(each.get("name", "")) for each in named if isinstance(each, Mapping) and each.get("name"))


def _told(row: ExperimentRow) -> str:
    objective = row.spec.get("objective")
    each = objective if isinstance(objective, (list, tuple)) else [objective]
    metrics = [str(one.get("metric")) for one in each if isinstance(one, Mapping)]
    told = str(row.spec.get("description") or "")
    return " ".join([row.name, row.status, _by(row.spec), *metrics, told]).lower()


def progress(row: ExperimentRow, now: float | None = None) -> str:
    """Return how much of the budget of trials is done, and of one that runs when it will be, at its pace so far."""
    whole = expected(row.spec)
    done = sum(row.counts.get(word, 0) for word in _ENDED)
    if whole is None:
        return f"{done} ended"
    share = f"{min(1.0, done / whole):.0%} of {whole}"
    if row.status != "running" or not done or done >= whole:
        return share
    spent = max(0.0, (time.time() if now is None else now) - row.created)
    return f"{share}, {parts.lasting(spent / done * (whole - done))} left"


def expected(spec: Mapping[str, Any]) -> int | None:
    """Return how many trials an experiment is to have at most; None where its spec does not say, as of a grid."""
    budget = spec.get("budget") or {}
    grids = any(isinstance(each, Mapping) and each.get("type") == "grid" for each in (spec.get("space") or {}).values())
    samples = None if grids or (spec.get("search") or {}).get("name") == "grid" else budget.get("num_samples")
    found = budget.get("trials") or samples
    return found if isinstance(found, int) and found > 0 else None


def _best(source: Source, row: ExperimentRow) -> Any:
    try:
        view = source.picture(row.name).view
    except TunePlatformError as error:
        return str(error)
    if view.best is None:
        return "-"
    value = parts.number(float(view.values[view.trials.place(view.best)]))
    picture = f"/files/{quote(row.name, safe='')}/sparkline.svg?revision={view.revision}"
    alt = f"best {view.metric} so far over the trials of {row.name}"
    return html.Span([f"{view.metric} {value} ", html.Img(src=picture, alt=alt, className="sparkline")])


def sparkline(source: Source, name: str, points: int = 60) -> str:
    """Return the best so far over the trials as a small picture (SVG): down is better where less is better.

    Raises ExperimentError where there is no such experiment.
    """
    best = best_so_far(source.picture(name).view)
    best = best[np.isfinite(best)]
    if not len(best):
        return '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="18"/>'
    at = np.unique(np.linspace(0, len(best) - 1, min(points, len(best))).astype(int))
    low, high = float(best.min()), float(best.max())
    x = at / max(1, len(best) - 1) * 88 + 1
    y = 17 - (best[at] - low) / ((high - low) or 1.0) * 16
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="18" viewBox="0 0 90 18">'
        f'<polyline points="{line}" fill="none" stroke="#009E73" stroke-width="1.5"/></svg>'
    )
