"""Figures as files: one figure as HTML, PNG or SVG, and a whole experiment as one page that opens with no server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tune_platform.errors import MissingLibraryError, SpecError, TunePlatformError
from tune_platform.extras import require
from tune_platform.plots import plotlyjs
from tune_platform.plots.observations import insights
from tune_platform.plots.registry import FIGURES
from tune_platform.plots.theme import number, state_style
from tune_platform.plots.view import View

FORMS = ("html", "png", "svg")
#: Rows of the table of trials at most, best first.
ROWS = 10_000
#: Nothing is loaded from anywhere, and no text is run as a program.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "worker-src blob:"
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 1rem auto; padding: 0 1rem; color: #1f2933 }
figure { margin: 2rem 0 } figcaption { color: #52606d } pre { background: #f5f7fa; padding: .7rem; overflow: auto }
table { border-collapse: collapse; font-size: 13px } th, td { padding: 2px 8px; text-align: left; white-space: nowrap }
th { position: sticky; top: 0; background: #fff } tr:nth-child(even) { background: #f5f7fa }
.table { overflow: auto; max-height: 40rem }
"""


def write_figure(figure: go.Figure, path: Path) -> None:
    """Write a figure; the ending of the path says as what: html (plotly.js inside), png or svg.

    The last two need the library kaleido and a Chrome or Chromium. Raises SpecError for another ending, and
    TunePlatformError with one line that says what is missing.
    """
    form = path.suffix.removeprefix(".").lower()
    if form not in FORMS:
        raise SpecError(f"{path}: got the ending {path.suffix!r}; allowed: {', '.join('.' + each for each in FORMS)}")
    if form == "html":
        drawn = figure.to_html(full_html=False, include_plotlyjs=False, div_id="figure")
        path.write_text(_document(escape(figure.layout.title.text or path.stem), drawn), encoding="utf-8")
        return
    require(f"a figure as {form}", "kaleido")
    try:
        data = figure.to_image(format=form, width=1100, height=figure.layout.height or 600)
    except MissingLibraryError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TunePlatformError(
            f"{path} cannot be drawn: a {form} needs Chrome or Chromium (Debian: apt-get install chromium), which "
            f"kaleido could not use: {first}. An .html needs neither"
        ) from error
    path.write_bytes(data)


def page(view: View, names: Sequence[str] | None = None) -> str:
    """Return the experiment as one HTML page: what was found, insights, all figures that can be drawn, the trials.

    plotly.js is inside, and the page forbids the browser to load anything. All text of the user's is escaped.
    """
    chosen = [name for name in names or FIGURES if not FIGURES[name].needs(view)]
    parts = [_head(view)]
    told = insights(view)
    if told:
        lines = "".join(f'<li>{escape(each.text)} <a href="#{each.figure}">See {each.figure}</a></li>' for each in told)
        parts.append(f"<h2>What stands out</h2><ul>{lines}</ul>")
    for name in chosen:
        kind = FIGURES[name]
        drawn = kind.draw(view).to_html(full_html=False, include_plotlyjs=False, div_id=f"figure-{name}")
        caption = escape(kind.summary(view))
        parts.append(
            f'<figure id="{name}" aria-label="{escape(kind.title)}: {caption}"><h2>{escape(kind.title)}</h2>{drawn}'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    parts.append(_table(view))
    return _document(escape(view.name), f"<main>{''.join(parts)}</main>")


def _document(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<script>{plotlyjs.source()}</script></head><body>{body}</body></html>"
    )


def _head(view: View) -> str:
    counts = ", ".join(f"{count} {state_style(state)[2]}" for state, count in sorted(view.counts.items()))
    lines = [
        f"<h1>{escape(view.name)}</h1>",
        f"<p>{escape(view.status)}{escape(f': {view.reason}' if view.reason else '')}; "
        f"trials: {escape(counts) or 'none yet'}; as of row {view.revision} of its log.</p>",
    ]
    if view.best is not None:
        at = view.trials.place(view.best)
        config = json.dumps(view.trials.config(view.best), ensure_ascii=False, indent=2, default=str)
        value = f"{view.metric} {number(float(view.values[at]), 6)}"
        lines.append(f"<h2>Best: trial {view.best}, {escape(value)}</h2><pre>{escape(config)}</pre>")
    return "".join(lines)


def _table(view: View) -> str:
    ranked = np.searchsorted(view.trials.number, np.array(view.ranking, np.int64))
    rest = np.setdiff1d(np.arange(len(view.trials)), ranked)
    rows = np.r_[ranked, rest].astype(int)[:ROWS]
    names = view.varied
    head = ["trial", "state", "step", f"best {view.metric}", *names, "reason"]
    body = []
    for row in rows:
        state = state_style(view.trials.state[row])[2]
        found: list[Any] = [int(view.trials.number[row]), state, int(view.trials.step[row])]
        best = float(view.trials.best[row])
        found.append("" if np.isnan(best) else f"{best:.6g}")
        found += [_cell(view.parameter(name)[row]) for name in names]
        found.append(view.trials.reason[row])
        body.append(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in found)}</tr>")
    more = f" The first {len(rows)} of {len(view.trials)}." if len(rows) < len(view.trials) else ""
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    return (
        f'<h2 id="trials">Trials, best first</h2><p>{more}</p><div class="table" tabindex="0"><table>'
        f"<thead><tr>{titles}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
