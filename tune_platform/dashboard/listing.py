"""The list of experiments: what each is at, how far it has come, and the best that it has found.

A look at it reads a row of each experiment, and of each that has gone on the best values of its trials; the page is
sent the lines that have changed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import dash_mantine_components as dmc
import numpy as np
from dash import Patch, dcc, html, no_update
from plotly.io.json import to_json_plotly

from tune_platform.dashboard import parts
from tune_platform.dashboard.source import Source
from tune_platform.errors import TunePlatformError
from tune_platform.store.records import ExperimentRow
from tune_platform.store.sql import open_store

#: Milliseconds between two looks at the list.
PERIOD = 5000
#: Of so many experiments, the newest that are found, the best is shown: each has to be read.
_READ = 20
_ENDED = ("COMPLETED", "STOPPED", "FAILED")


def page(source: Source) -> list[Any]:
    """Return the page with the list."""
    search = dmc.TextInput(
        id="search", label="Search", placeholder="name, tag, state, searcher", debounce=200, w="18rem", mb="xs"
    )
    whole, marks = lines(source, "", {})
    return [
        dcc.Interval(id="list-tick", interval=PERIOD),
        dmc.Title("Experiments", order=2, mt="xs"),
        dcc.Store(id="list-marks", data=marks),
        parts.card(search, html.Div(whole, id="experiments")),
    ]


def lines(source: Source, text: str, marks: Mapping[str, str]) -> tuple[Any, Mapping[str, str]]:
    """Return what is to be put into the page, and a mark of each line that it then shows.

    `marks`: those of the lines that it shows now. Where these are the same lines, only those that have changed come.
    """
    made = rows(source, text)
    body = made[0].children.children[1].children if not isinstance(made[0], str) else []
    now = {f"{at}": hashlib.sha256(to_json_plotly(line).encode()).hexdigest()[:16] for at, line in enumerate(body)}
    now["what"] = f"{text} {len(body)} {made[0] if isinstance(made[0], str) else ''}"
    if marks.get("what") != now["what"]:
        return made, now
    changed = [key for key in now if now[key] != marks.get(key)]
    if not changed:
        return no_update, now
    patch = Patch()
    for key in changed:
        patch[0]["props"]["children"]["props"]["children"][1]["props"]["children"][int(key)] = body[int(key)]
    return patch, now


def rows(source: Source, text: str) -> list[Any]:
    """Return the experiments in which all words of a text are found, newest first."""
    words = text.lower().split()
    known = source.experiments()
    found = [row for row in known if all(word in _told(row) for word in words)]
    if not known:
        return [f"There are no experiments in {source.storage} yet."]
    if not found:
        places = "name, tags, state, searcher, scheduler, metric or description"
        return [f"None of {len(known)} experiments has {text!r} in its {places}."]
    head = ("experiment", "state", "progress", "best", "trials", "by", "started", "tags", "note")
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
        ", ".join(row.tags),
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
    return " ".join([row.name, row.status, _by(row.spec), *metrics, *row.tags, told]).lower()


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
    metric, sign = _objective(row.spec)
    try:
        best = best_so_far(source, row.name, sign)
    except TunePlatformError as error:
        return str(error)
    if not len(best):
        return "-"
    picture = f"/files/{quote(row.name, safe='')}/sparkline.svg?trials={len(best)}&best={best[-1]:.12g}"
    alt = f"best {metric} so far over the trials of {row.name}"
    value = f"{metric} {parts.number(float(best[-1]))} "
    return html.Span([value, html.Img(src=picture, alt=alt, className="sparkline")])


def _objective(spec: Mapping[str, Any]) -> tuple[str, float]:
    """Return the first metric, and 1.0 where less of it is better, else -1.0."""
    objective = spec.get("objective") or {}
    first: Mapping[str, Any] = objective if isinstance(objective, Mapping) else objective[0]
    return str(first.get("metric") or ""), -1.0 if first.get("mode") == "max" else 1.0


def best_so_far(source: Source, name: str, sign: float) -> np.ndarray[Any, Any]:
    """Return the best value so far after each trial that has one. Raises ExperimentError."""
    with open_store(source.storage) as store, store.open(name, readonly=True, exact=True) as experiment:
        found = np.array([best for _, best in experiment.best_values()])
    found = found[np.isfinite(found)]
    return sign * np.minimum.accumulate(sign * found) if len(found) else found


def sparkline(source: Source, name: str, points: int = 60) -> str:
    """Return the best so far over the trials as a small picture (SVG): down is better where less is better.

    Raises ExperimentError where there is no such experiment.
    """
    with open_store(source.storage) as store:
        sign = _objective(store.row(source.check(name)).spec)[1]
    best = best_so_far(source, name, sign)
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
