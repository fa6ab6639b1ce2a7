"""What failed: failures by the place and the kind of their error, with what the configs of each group share."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from tune_platform.plots.effects import range_text
from tune_platform.plots.registry import figure, some_trial
from tune_platform.plots.theme import LINE, text, whole
from tune_platform.plots.view import View

_CHANGING = re.compile(r"0x[0-9a-fA-F]+|\d+(\.\d+)?")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
#: A parameter is told of a group where the group's range is at most this part of that of all trials.
_NARROW = 0.5


def signature(error: str) -> str:
    """Return what failures of one cause have in common: the error without its numbers, and where it was raised."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    if not lines:
        return "unknown"
    frames = _FRAME.findall(error)
    message = _CHANGING.sub("#", lines[-1])
    if not frames:
        return message
    path, line, function = frames[-1]
    return f"{message} ({path.rsplit('/', 1)[-1]}:{line} in {function})"


@dataclass(frozen=True, slots=True)
class Group:
    """Failed trials of one signature; `shared` says where their parameters lie that are narrower than those of all."""

    signature: str
    trials: list[int]
    shared: dict[str, str]


def groups(view: View) -> list[Group]:
    """Return the failures by signature, the largest group first."""
    failed = np.flatnonzero(view.trials.state == "failed")
    found: dict[str, list[int]] = {}
    for row in failed:
        found.setdefault(signature(view.trials.error[row] or view.trials.reason[row]), []).append(int(row))
    made = [Group(name, view.trials.number[rows].tolist(), shared(view, rows)) for name, rows in found.items()]
    return sorted(made, key=lambda group: (-len(group.trials), group.signature))


def shared(view: View, rows: list[int]) -> dict[str, str]:
    """Return the ranges of the parameters of these trials (three at least) that are much narrower than those of all."""
    found: dict[str, str] = {}
    if len(rows) < 3 or len(rows) == len(view.trials):
        return found
    from tune_platform.plots.bridge import numeric, positions

    for name in view.varied:
        at, _ = positions(view, name)
        dimension = view.space.get(name)
        if dimension is not None and dimension.log and (at[np.isfinite(at)] > 0).all():
            at = np.log(at)
        mine, everyone = at[rows], at[np.isfinite(at)]
        mine = mine[np.isfinite(mine)]
        if not len(mine) or not len(everyone):
            continue
        if numeric(view, name):
            narrow = bool(np.ptp(mine) <= _NARROW * np.ptp(everyone) and np.ptp(everyone) > 0)
        else:
            narrow = len(np.unique(mine)) <= _NARROW * len(np.unique(everyone))
        if narrow:
            found[name] = range_text(view.parameter(name)[rows].tolist())
    return found


def _failed(view: View) -> str:
    return some_trial(view) or ("" if "failed" in view.counts else "No trial has failed.")


def _summary(view: View) -> str:
    found = groups(view)
    count, total = view.counts["failed"], len(view.trials)
    first = found[0]
    if len(found) == 1:
        return f"{count} of {total} trials failed, for one cause: {first.signature}."
    return f"{count} of {total} trials failed, for {len(found)} causes; {len(first.trials)} of them: {first.signature}."


@figure("failures", "Failures by cause", _summary, _failed)
def failures(view: View) -> go.Figure:
    """Draw how many trials failed of each cause; hovers have the trials and the parameters that they share."""
    found = groups(view)[:30]
    said = [
        f"trials {', '.join(map(str, group.trials[:20]))}"
        + "".join(f"<br>{text(name)}: {text(what)}" for name, what in group.shared.items())
        for group in found
    ]
    drawn = go.Figure(
        go.Bar(
            x=[len(group.trials) for group in found], y=list(range(len(found))), orientation="h", width=0.4,
            hovertext=said, hoverinfo="text", marker={"color": "#D55E00", "pattern": {"shape": "x"}}, name="failed",
        )
    )  # fmt: skip
    for place, group in enumerate(found):  # beside the bars a long cause would leave no room for them
        lines = [text(line) for line in textwrap.wrap(group.signature, LINE)[:2]]
        drawn.add_annotation(
            text="<br>".join(lines), x=0, y=place - 0.25, xref="paper", xanchor="left", yanchor="bottom", align="left",
            showarrow=False,
        )  # fmt: skip
    most = max(len(group.trials) for group in found)
    drawn.update_layout(
        xaxis={"title": "failed trials", "rangemode": "tozero", **whole(most)}, height=160 + 70 * len(found),
        yaxis={"visible": False, "range": [len(found) - 0.7, -0.9]},
    )  # fmt: skip
    return drawn
