"""Where trials ran and when: the timeline of every node, its idle gaps, and how busy it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from tune_platform.plots.columns import Floats, Objects, Whole
from tune_platform.plots.registry import figure
from tune_platform.plots.theme import PALETTE, state_style, text
from tune_platform.plots.view import View

_BARS = 5_000
_ENDS = ("stopped", "completed", "failed", "paused", "pending")


@dataclass(frozen=True, slots=True)
class Segments:
    """One row for each time that a trial held a place: from its launch to when it let go. Seconds since `created`."""

    trial: Whole
    start: Floats
    end: Floats
    place: Objects  #: "node 0, node 1" of a gang
    how: Objects  #: why it ended: stopped, paused, failed ...; running where it has not

    def __len__(self) -> int:
        return len(self.trial)


def segments(view: View) -> Segments:
    """Return who held which place and when, by the log. A clock that was put back gives segments of no length."""
    log = view.log
    held: dict[int, tuple[float, str]] = {}
    rows: list[tuple[int, float, float, str, str]] = []

    def close(trial: int, at: float, how: str) -> None:
        if trial in held:
            start, place = held.pop(trial)
            rows.append((trial, start, max(at, start), place, how))

    for kind, verdict, trial, at, place in zip(
        log.kind.tolist(), log.verdict.tolist(), log.trial.tolist(), (log.time - view.created).tolist(),
        log.place.tolist(), strict=True,
    ):  # fmt: skip
        if kind == "launched":
            close(trial, at, "cloned")
            held[trial] = (at, place or "unknown")
        elif kind == "resumed":
            for each in list(held):
                close(each, at, "interrupted")
        elif kind == "failed":
            close(trial, at, "failed")
        elif kind == "verdict" and verdict in ("stop", "pause"):
            close(trial, at, "stopped" if verdict == "stop" else "paused")
        elif kind == "moved" and verdict in _ENDS:
            close(trial, at, verdict)
    now = float(np.nanmax(np.r_[0.0, view.trials.started + view.trials.seconds - view.created]))
    state = dict(zip(view.trials.number.tolist(), view.trials.state.tolist(), strict=True))
    for each in list(held):
        close(each, now, state.get(each, "running"))
    rows.sort(key=lambda row: (row[3], row[1]))
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    return Segments(
        np.array(columns[0], np.int64), np.array(columns[1], float), np.array(columns[2], float),
        np.array(columns[3], object), np.array(columns[4], object),
    )  # fmt: skip


def by_node(found: Segments) -> dict[str, list[int]]:
    """Return the rows of the segments of each node; a gang is on each of its nodes."""
    nodes: dict[str, list[int]] = {}
    for row, place in enumerate(found.place.tolist()):
        for node in place.split(", "):
            nodes.setdefault(node, []).append(row)
    return dict(sorted(nodes.items(), key=lambda item: (len(item[0]), item[0])))


def union(start: Floats, end: Floats) -> list[tuple[float, float]]:
    """Return the intervals that these cover together, in order."""
    covered: list[tuple[float, float]] = []
    for one, other in sorted(zip(start.tolist(), end.tolist(), strict=True)):
        if covered and one <= covered[-1][1]:
            covered[-1] = (covered[-1][0], max(covered[-1][1], other))
        else:
            covered.append((one, other))
    return covered


def utilisation(view: View) -> dict[str, float]:
    """Return the share of the time, from the first launch to the last end, in which each node had any trial."""
    found = segments(view)
    if not len(found):
        return {}
    whole = float(found.end.max() - found.start.min())
    return {
        node: sum(b - a for a, b in union(found.start[rows], found.end[rows])) / whole if whole > 0 else 1.0
        for node, rows in by_node(found).items()
    }


def _launched(view: View) -> str:
    if not len(view.trials):
        return "There are no trials yet."
    return "" if (view.log.kind == "launched").any() else "No trial was launched yet."


def _summary(view: View) -> str:
    busy = utilisation(view)
    least = min(busy, key=lambda node: busy[node])
    mean = float(np.mean(list(busy.values())))
    if len(busy) == 1:
        return f"{least} had a trial {mean:.0%} of the time."
    return f"{len(busy)} nodes had a trial {mean:.0%} of the time; {least} the least, {busy[least]:.0%}."


@figure("timeline", "Timeline of the nodes", _summary, _launched)
def timeline(view: View) -> go.Figure:
    """Draw each node as a row, with a bar while a trial had a place there; what is empty was idle. The newest 5,000."""
    found = segments(view)
    drawn = go.Figure()
    nodes = by_node(found)
    lane = {node: place for place, node in enumerate(nodes)}
    rows = np.array([(row, lane[node]) for node, mine in nodes.items() for row in mine])
    rows = rows[np.argsort(found.end[rows[:, 0]], kind="stable")[-_BARS:]]
    how = found.how[rows[:, 0]]
    for word in sorted(set(how.tolist())):
        mine = rows[how == word]
        colour, _, name = state_style(word)
        drawn.add_trace(
            go.Bar(
                base=found.start[mine[:, 0]], x=(found.end - found.start)[mine[:, 0]],
                y=[text(list(nodes)[at]) for at in mine[:, 1]], orientation="h", name=name, opacity=0.8,
                marker={"color": colour, "line": {"width": 0.5, "color": "white"}}, customdata=found.trial[mine[:, 0]],
                hovertemplate="trial %{customdata}<br>from %{base:.4g} s, for %{x:.4g} s",
            )
        )  # fmt: skip
    drawn.update_layout(
        barmode="overlay", xaxis_title="seconds since the experiment was created",
        yaxis={"type": "category", "autorange": "reversed"}, height=max(300, 150 + 26 * len(nodes)),
    )  # fmt: skip
    return drawn


@figure("utilisation", "Use of the nodes", _summary, _launched)
def utilisation_figure(view: View) -> go.Figure:
    """Draw how many trials ran at each moment, and the share of the time in which each node had any."""
    found = segments(view)
    at = np.r_[found.start, found.end]
    step = np.r_[np.ones(len(found)), -np.ones(len(found))]
    order = np.lexsort((-step, at))
    drawn = go.Figure(
        go.Scattergl(
            x=at[order], y=np.cumsum(step[order]), mode="lines", name="trials at a time",
            line={"color": PALETTE[0], "shape": "hv"},
        )
    )  # fmt: skip
    for node, share in list(utilisation(view).items())[:30]:
        drawn.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=f"{text(node)}: {share:.0%} busy"))
    drawn.update_layout(xaxis_title="seconds since the experiment was created", yaxis_title="trials that run")
    return drawn
