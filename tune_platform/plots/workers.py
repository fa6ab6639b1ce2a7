"""Where trials ran and when: the timeline of every node, its idle gaps, and how busy it was."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from tune_platform.plots.columns import Floats, Objects, Whole
from tune_platform.plots.registry import figure
from tune_platform.plots.theme import PALETTE, nothing, state_style, text, whole
from tune_platform.plots.view import View

_BARS = 5_000
_NO_GPU = "No trial ran in a process of Ray that was given a GPU."
_ENDS = ("stopped", "completed", "failed", "paused", "pending")


@dataclass(frozen=True, slots=True)
class Segments:
    """One row for each time that a trial held a place: from its launch to when it let go. Seconds since `created`."""

    trial: Whole
    start: Floats
    end: Floats
    place: Objects  #: "node 0, node 1" of a gang
    gpus: Objects  #: "host gpu 0, host gpu 1" of the process that speaks for the trial; empty where it has none
    how: Objects  #: why it ended: stopped, paused, failed ...; running where it has not

    def __len__(self) -> int:
        return len(self.trial)


def segments(view: View) -> Segments:
    """Return who held which place and when, by the log. A clock that was put back gives segments of no length."""
    log = view.log
    state = dict(zip(view.trials.number.tolist(), view.trials.state.tolist(), strict=True))
    worker = dict(zip(view.trials.number.tolist(), view.trials.worker.tolist(), strict=True))  # of the last attempt
    held: dict[int, tuple[float, str]] = {}
    began: dict[int, str] = {}
    rows: list[tuple[int, float, float, str, str, str]] = []

    def close(trial: int, at: float, how: str) -> None:
        if trial in held:
            start, place = held.pop(trial)
            gpus = gpus_of(began.pop(trial, worker.get(trial, "")))
            rows.append((trial, start, max(at, start), place, gpus, how))

    for kind, verdict, trial, at, place in zip(
        log.kind.tolist(), log.verdict.tolist(), log.trial.tolist(), (log.time - view.created).tolist(),
        log.place.tolist(), strict=True,
    ):  # fmt: skip
        if kind == "launched":
            close(trial, at, "cloned")
            held[trial] = (at, place or "unknown")
        elif kind == "started" and place:
            began[trial] = place
        elif kind == "resumed":
            for each in list(held):
                close(each, at, "interrupted")
        elif kind == "failed":
            close(trial, at, "failed")
        elif kind == "verdict" and verdict in ("stop", "pause"):
            # Who came to the end that the scheduler knows is told to stop too, and has completed.
            done = state.get(trial) == "completed"
            close(trial, at, "paused" if verdict == "pause" else "completed" if done else "stopped")
        elif kind == "moved" and verdict in _ENDS:
            close(trial, at, verdict)
    now = float(np.nanmax(np.r_[0.0, view.trials.started + view.trials.seconds - view.created]))
    for each in list(held):
        close(each, now, state.get(each, "running"))
    rows.sort(key=lambda row: (row[3], row[1]))
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    return Segments(
        np.array(columns[0], np.int64), np.array(columns[1], float), np.array(columns[2], float),
        np.array(columns[3], object), np.array(columns[4], object),
        np.array(columns[5], object),
    )  # fmt: skip


def gpus_of(worker: str) -> str:
    """Return the GPUs of a worker such as "host:4711 gpu 0,1": each with its host."""
    process, _, gpus = worker.partition(" gpu ")
    host = process.rpartition(":")[0]
    return ", ".join(f"{host} gpu {each}" for each in gpus.split(",") if each)


By = Literal["node", "gpu"]


def lanes(found: Segments, by: By = "node") -> dict[str, list[int]]:
    """Return the rows of the segments of each node, or GPU; a gang is on each of its nodes."""
    places: dict[str, list[int]] = {}
    for row, place in enumerate((found.place if by == "node" else found.gpus).tolist()):
        for each in place.split(", ") if place else ():
            places.setdefault(each, []).append(row)
    return dict(sorted(places.items(), key=lambda item: (len(item[0]), item[0])))


def union(start: Floats, end: Floats) -> list[tuple[float, float]]:
    """Return the intervals that these cover together, in order."""
    covered: list[tuple[float, float]] = []
    for one, other in sorted(zip(start.tolist(), end.tolist(), strict=True)):
        if covered and one <= covered[-1][1]:
            covered[-1] = (covered[-1][0], max(covered[-1][1], other))
        else:
            covered.append((one, other))
    return covered


def utilisation(view: View, by: By = "node") -> dict[str, float]:
    """Return the share of the time, from the first launch to the last end, in which each node or GPU had any trial."""
    found = segments(view)
    if not len(found):
        return {}
    whole = float(found.end.max() - found.start.min())
    return {
        node: sum(b - a for a, b in union(found.start[rows], found.end[rows])) / whole if whole > 0 else 1.0
        for node, rows in lanes(found, by).items()
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
def timeline(view: View, *, by: By = "node") -> go.Figure:
    """Draw each node as a row, with a bar while a trial had a place there; what is empty was idle. The newest 5,000.

    `by` gpu: a row for each GPU that a worker was given.
    """
    found = segments(view)
    drawn = go.Figure()
    nodes = lanes(found, by)
    if not nodes:
        return nothing(_NO_GPU)
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
                marker={"color": colour, "line": {"width": 0.5, "color": "rgba(128,128,128,0.5)"}},
                customdata=found.trial[mine[:, 0]],
                hovertemplate="trial %{customdata}<br>from %{base:.4g} s, for %{x:.4g} s",
            )
        )  # fmt: skip
    drawn.update_layout(
        barmode="overlay", xaxis_title="seconds since the start",
        yaxis={"type": "category", "autorange": "reversed"}, height=max(300, 150 + 26 * len(nodes)),
    )  # fmt: skip
    return drawn


@figure("utilisation", "Use of the nodes", _summary, _launched)
def utilisation_figure(view: View, *, by: By = "node") -> go.Figure:
    """Draw how many trials ran at each moment, and the share of the time in which each node, or GPU, had any."""
    found = segments(view)
    busy = utilisation(view, by)
    if not busy:
        return nothing(_NO_GPU)
    if by == "gpu":
        rows = found.gpus != ""
        found = replace(found, **{each.name: getattr(found, each.name)[rows] for each in fields(found)})
    long = found.end > found.start
    at = np.r_[found.start[long], found.end[long]]
    step = np.r_[np.ones(int(long.sum())), -np.ones(int(long.sum()))]
    moments, when = np.unique(at, return_inverse=True)
    running = np.cumsum(np.bincount(when, weights=step)) if len(at) else step
    drawn = go.Figure(
        go.Scattergl(
            x=moments, y=running, mode="lines", name="trials at a time",
            line={"color": PALETTE[0], "shape": "hv"},
        )
    )  # fmt: skip
    for node, share in list(busy.items())[:30]:
        drawn.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=f"{text(node)}: {share:.0%} busy"))
    drawn.update_layout(
        xaxis_title="seconds since the start", yaxis={"title": "trials that run", **whole(running.max(initial=0))}
    )
    return drawn
