"""What a page says in words that change all the time: numbers and insights. They travel as text, see `live`.

A line is made of pieces, each a text and where it leads, or None: the page makes elements of them, never markup.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tune_platform.dashboard.listing import expected
from tune_platform.dashboard.parts import address, lasting, number, proof
from tune_platform.dashboard.source import Picture, Source
from tune_platform.plots import FIGURES, View, observations
from tune_platform.plots.observations import saved
from tune_platform.results import Spent

Piece = tuple[str, str | None]
Line = list[Piece]


def facts(source: Source, picture: Picture) -> list[Line]:
    """The numbers of the experiment: each a line of the number and its name."""
    view, trials = picture.view, picture.view.trials
    found: list[Line] = []
    if view.best is not None:
        at = trials.place(view.best)
        found += [
            _fact(f"best {view.metric} ({view.mode}), at step {trials.best_step[at]}", number(float(view.values[at]))),
            _fact("best trial", f"trial {view.best}", address(view.name, view.best)),
        ]
    whole = expected(view.spec)
    found.append(_fact("trials" + (f" of {whole}" if whole else ""), len(trials)))
    found += [_fact(word, count, _why(view, word)) for word, count in sorted(view.counts.items())]
    found.append(_fact("reports", f"{int(trials.step.sum()):,}"))
    found.append(_fact("trial time", lasting(float(np.nansum(trials.seconds)))))
    found += [_fact(word, value) for word, value in budgets(source.results(view.name).spent())]
    if (share := saved(view)) is not None:
        found.append(_fact("steps saved by stopping early", f"{share:.0%}"))
    return found


def _fact(name: str, value: Any, leads: str | None = None) -> Line:
    return [(str(value), leads), (name, None)]


def _why(view: View, state: str) -> str | None:
    return proof(view.name, "failures") if state == "failed" else None


_LIMITS = {"gpu_hours": "the GPU hours are used up", "cost": "the cost is reached", "deadline": "the deadline"}


def budgets(spent: Spent | None) -> list[tuple[str, str]]:
    """Return what was spent of each limit, and when the first is reached; nothing where there is none."""
    if spent is None:
        return []
    of, found = spent.of, []
    if "gpu_hours" in of:
        found.append((f"GPU hours of {of['gpu_hours']:g}", f"{spent.gpu_hours:.3g}"))
    if "cost" in of and spent.cost is not None:
        found.append((f"cost of {of['cost']:g}", f"{spent.cost:.3g}"))
    if "deadline" in of:
        found.append(("deadline (UTC)", f"{of['deadline']:%Y-%m-%d %H:%M:%S}"))
    if spent.ends is not None:
        left = lasting(spent.ends.timestamp() - time.time())
        found.append((f"until {_LIMITS[spent.by]}, at this rate", left))
    return found


def insights(source: Source, picture: Picture) -> list[Line]:
    """What is worth knowing, in plain words; each names the figure that proves it."""
    view = picture.view
    found: list[Line] = [
        [(f"{each.text} ", None), (FIGURES[each.figure].title, proof(view.name, each.figure))]
        for each in observations.insights(view)
    ]
    return found or [[("Nothing stands out.", None)]]


WORDS: Mapping[str, Callable[[Source, Picture], list[Line]]] = {"facts": facts, "insights": insights}


def told(source: Source, picture: Picture, name: str, mark: str) -> dict[str, Any] | None:
    """Return the lines of a place with a mark of them; None where the page has these, as its mark tells."""
    lines = picture.rested(name, lambda: WORDS[name](source, picture))
    now = hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]
    return None if now == mark else {"mark": now, "lines": lines}
