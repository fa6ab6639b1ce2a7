"""What the scheduler and others decided: rungs, the family of a population and its schedules, the log of decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tune_platform.plots.columns import Floats, Objects, Whole
from tune_platform.plots.registry import figure, some_trial
from tune_platform.plots.space import cells
from tune_platform.plots.theme import BEST, PALETTE, nothing, scatter, text
from tune_platform.plots.view import View

#: What became of a trial at a rung: colour, marker, word.
OUTCOMES = {
    "continue": (BEST, "triangle-up", "promoted"),
    "pause": ("#CC79A7", "diamond", "paused"),
    "stop": ("#E69F00", "square", "stopped"),
    "done": ("#0072B2", "circle", "reached the end"),
    "clone": ("#56B4E9", "star", "went on as a clone"),
}
_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Rungs:
    """One row for each verdict of the scheduler on a trial that had come to a milestone.

    `bracket` is the first milestone of the trial, `level` the one it had reached; `value` its value then.
    """

    trial: Whole
    bracket: Floats
    level: Floats
    value: Floats
    outcome: Objects
    reason: Objects

    def __len__(self) -> int:
        return len(self.trial)


def rungs(view: View) -> Rungs:
    """Return what was decided at the rungs, in order."""
    log = view.log
    first: dict[int, float] = {}
    until: dict[int, float] = {}
    rows: list[tuple[Any, ...]] = []
    for kind, verdict, trial, step, by, ahead, reason in zip(
        log.kind.tolist(), log.verdict.tolist(), log.trial.tolist(), log.step.tolist(), log.by.tolist(),
        log.until.tolist(), log.reason.tolist(), strict=True,
    ):  # fmt: skip
        if kind == "launched" and ahead == ahead:
            first.setdefault(trial, ahead)
        if kind == "verdict" and by == "scheduler" and verdict in OUTCOMES and step > 0:
            done = verdict == "stop" and "max" in reason
            rows.append(
                (trial, first.get(trial, np.nan), until.get(trial, step), step, "done" if done else verdict, reason)
            )
        if ahead == ahead:
            until[trial] = ahead
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [()] * 6
    trial, step = np.array(columns[0], np.int64), np.array(columns[3], np.int64)
    return Rungs(
        trial, np.array(columns[1], float), np.array(columns[2], float), values_at(view, trial, step),
        np.array(columns[4], object), np.array(columns[5], object),
    )  # fmt: skip


def values_at(view: View, trial: Whole, step: Whole) -> Floats:
    """Return the values of the metric that trials had at their reports; NaN where these are not held."""
    reports = view.reports
    if not len(reports):
        return np.full(len(trial), np.nan)
    wide = int(max(reports.step.max(), step.max(initial=0))) + 1
    keys = reports.trial * wide + reports.step
    at = np.minimum(np.searchsorted(keys, trial * wide + step), len(keys) - 1)
    return np.where(keys[at] == trial * wide + step, reports.column(view.metric)[at], np.nan)


def _some_rung(view: View) -> str:
    return some_trial(view) or (
        "" if len(rungs(view)) else "The scheduler has decided nothing at a rung: all trials run to their end."
    )


def _rungs_summary(view: View) -> str:
    found = rungs(view)
    count = {word: int((found.outcome == word).sum()) for word in OUTCOMES}
    told = ", ".join(f"{count[word]} {OUTCOMES[word][2]}" for word in OUTCOMES if count[word])
    return f"At {len(np.unique(found.level))} rungs: {told}."


@figure("rungs", "Rungs", _rungs_summary, _some_rung)
def rungs_figure(view: View) -> go.Figure:
    """Draw the rungs as columns, one group a bracket, with a dot for each trial that came there; hovers say why."""
    found = rungs(view)
    brackets = np.nan_to_num(found.bracket).tolist()  # of a trial whose first milestone nobody said: 0
    places = list(zip(brackets, found.level.tolist(), strict=True))
    columns = sorted(set(places))
    several = len({b for b, _ in columns}) > 1
    place = {key: at for at, key in enumerate(columns)}
    at = np.array([place[key] for key in places], float)
    at += (np.random.default_rng(0).random(len(at)) - 0.5) * 0.5  # side by side, not over one another
    drawn = go.Figure()
    for word, (colour, symbol, name) in OUTCOMES.items():
        mine = np.flatnonzero((found.outcome == word) & np.isfinite(found.value))[-_ROWS * 5 :]
        if len(mine):
            said = [f"trial {found.trial[row]}: {text(found.reason[row], 120)}" for row in mine]
            drawn.add_trace(
                scatter(len(found))(
                    x=at[mine], y=found.value[mine], mode="markers", name=name, hovertext=said, hoverinfo="text+y",
                    marker={"color": colour, "symbol": symbol, "size": 7, "opacity": 0.8}, customdata=found.trial[mine],
                )
            )  # fmt: skip
    words = [f"{level:g}" + (f"<br>bracket {b:g}" if several else "") for b, level in columns]
    drawn.update_layout(
        xaxis={"title": "rung (resource)", "tickvals": list(range(len(words))), "ticktext": words},
        yaxis_title=text(view.metric),
    )
    return drawn


# ------------------------------------------------------------------------------------------ populations


def _cloned(view: View) -> str:
    return some_trial(view) or (
        "" if view.family is not None and view.family.clones else "No trial went on from another's checkpoint."
    )


def _lineage_summary(view: View) -> str:
    assert view.family is not None
    sources = [clone.source for clone in view.family.clones]
    most = max(sorted(set(sources)), key=sources.count)
    return f"{len(sources)} clones; trial {most} was the source of {sources.count(most)}."


@figure("lineage", "Family of the population", _lineage_summary, _cloned)
def lineage(view: View) -> go.Figure:
    """Draw each trial as a line over time, and a line from a source to each clone when that went on from it."""
    assert view.family is not None
    clones = view.family.clones[-_ROWS:]
    trials = sorted({each for clone in clones for each in (clone.trial, clone.source)})
    lane = {trial: place for place, trial in enumerate(trials)}
    at = [clone.time.timestamp() - view.created for clone in clones]
    x: list[Any] = []
    y: list[Any] = []
    for trial in trials:
        row = view.trials.place(trial)
        begin = float(np.nan_to_num(view.trials.started[row] - view.created))
        x += [begin, begin + float(np.nan_to_num(view.trials.seconds[row])), None]
        y += [lane[trial], lane[trial], None]
    drawn = go.Figure(
        go.Scatter(x=x, y=y, mode="lines", name="trials", line={"color": PALETTE[7], "width": 2}, hoverinfo="skip")
    )
    x, y = [], []
    for clone, when in zip(clones, at, strict=True):
        x += [when, when, None]
        y += [lane[clone.source], lane[clone.trial], None]
    drawn.add_trace(
        go.Scatter(x=x, y=y, mode="lines", name="took over", line={"color": PALETTE[1], "width": 1.5}, hoverinfo="skip")
    )
    drawn.add_trace(
        go.Scatter(
            x=at, y=[lane[clone.trial] for clone in clones], mode="markers", name="clone",
            marker={"color": PALETTE[5], "symbol": "star", "size": 10}, customdata=[clone.trial for clone in clones],
            hovertext=[
                f"trial {c.trial} (step {c.step}) from trial {c.source} (step {c.source_step}): {text(c.reason, 120)}"
                for c in clones
            ],
            hoverinfo="text",
        )
    )  # fmt: skip
    drawn.update_layout(
        xaxis_title="seconds since the start",
        yaxis={"title": "trial", "tickvals": list(lane.values()), "ticktext": [str(each) for each in trials]},
    )
    return drawn


def _schedules_summary(view: View) -> str:
    best = view.best if view.best is not None else int(view.trials.number[0])
    assert view.family is not None
    return f"The weights of the best trial, {best}, were trained by {len(view.family.schedule(best))} configs in turn."


@figure("schedules", "Schedules of the parameters", _schedules_summary, _cloned)
def schedules(view: View, *, trials: Sequence[int] | None = None, parameter: str | None = None) -> go.Figure:
    """Draw a parameter over the training of the weights of `trials` (the best five), across their clones."""
    assert view.family is not None
    chosen = list(trials) if trials is not None else (view.ranking[:5] or view.trials.number[:5].tolist())
    changed = [cells(clone.config) for clone in view.family.clones]
    names = list(dict.fromkeys(name for config in changed for name in config))
    names.sort(key=lambda name: -len({repr(config.get(name)) for config in changed}))
    name = parameter or (names[0] if names else "")
    long = dict(zip(view.trials.number.tolist(), view.trials.step.tolist(), strict=True))
    drawn = go.Figure()
    for place, trial in enumerate(chosen):
        x: list[Any] = []
        y: list[Any] = []
        done = 0
        for segment in view.family.schedule(trial):
            last = long.get(trial, segment.first) if segment.last is None else segment.last
            value = cells(dict(segment.config)).get(name)
            x += [done, done + max(0, last - segment.first)]
            y += [value, value]
            done += max(0, last - segment.first)
        drawn.add_trace(
            go.Scatter(
                x=x, y=y, mode="lines+markers", name=f"trial {trial}", line={"color": PALETTE[place % len(PALETTE)]}
            )
        )
    dimension = view.space.get(name)
    kind = "log" if dimension is not None and dimension.log else "linear" if dimension and dimension.numeric else None
    ticks = {"dtick": "D2"} if kind == "log" else {}  # 1, 2, 5: of all nine digits none can be read
    drawn.update_layout(xaxis_title="steps of training", yaxis={"title": text(name), "type": kind or "-", **ticks})
    return drawn if names else nothing("The configs of the clones are empty.")


# ------------------------------------------------------------------------------------------ the log


def decision_rows(view: View, trial: int | None = None, newest: int = _ROWS) -> list[dict[str, Any]]:
    """Return the newest decisions, newest first, as rows of a table: time, trial, step, what, by, reason, until."""
    log = view.log
    rows = np.arange(len(log)) if trial is None else np.flatnonzero((log.trial == trial) | (log.trial < 0))
    return [
        {
            "seq": int(log.seq[row]),
            "time": float(log.time[row]),
            "trial": None if log.trial[row] < 0 else int(log.trial[row]),
            "step": None if log.step[row] < 0 else int(log.step[row]),
            "what": log.verdict[row],
            "by": log.by[row],
            "reason": log.reason[row] or log.place[row],
            "until": None if np.isnan(log.until[row]) else float(log.until[row]),
        }
        for row in rows[::-1][:newest]
    ]


def _decided(view: View) -> str:
    return "" if len(view.log) else "Nothing was decided yet."


def _decisions_summary(view: View) -> str:
    verdicts = view.log.verdict[view.log.kind == "verdict"].tolist()
    told = ", ".join(f"{verdicts.count(word)} {word}" for word in sorted(set(verdicts)))
    return f"{len(view.log)} rows; verdicts: {told or 'none'}."


@figure("decisions", "Log of the decisions", _decisions_summary, _decided)
def decisions(view: View, *, trial: int | None = None, newest: int = 200) -> go.Figure:
    """Show the newest decisions as a table, newest first."""
    rows = decision_rows(view, trial, newest)
    head = ["seconds", "trial", "step", "what", "by", "reason", "until"]
    table = [
        [f"{row['time'] - view.created:.2f}" for row in rows],
        *([text("" if row[name] is None else row[name], 200) for row in rows] for name in head[1:-1]),
        ["" if row["until"] is None else f"{row['until']:g}" for row in rows],
    ]
    drawn = go.Figure(
        go.Table(
            columnwidth=[1.2, 0.8, 0.8, 1.5, 1.4, 6, 0.8],  # the reason is what is read
            header={"values": head, "align": "left", "height": 30},
            cells={"values": table, "align": "left", "height": 26},
        )
    )
    drawn.update_layout(margin={"l": 10, "r": 10, "b": 10})
    return drawn
