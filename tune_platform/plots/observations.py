"""What a person would want to be told of an experiment, in plain words, each with the figure that proves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tune_platform.plots import crashes, workers
from tune_platform.plots.bridge import labels_of
from tune_platform.plots.effects import borders, effect
from tune_platform.plots.theme import number
from tune_platform.plots.view import View

_TRIALS = 20  # below so many nothing is said of parameters and of plateaus
_MUCH = 0.3  # of the order of the trials: a parameter that tells less is not said to matter most


class Insight(NamedTuple):
    """One sentence, and the name of the figure that proves it."""

    kind: str  #: plateau | border | strong_parameter | idle_parameter | noise | failures | idle | saved
    text: str
    figure: str


def insights(view: View) -> list[Insight]:
    """Return all that is to be told, what matters most first; of a small or an empty experiment little or nothing."""
    return [each for find in _FINDERS for each in find(view)]


def _failures(view: View) -> Iterator[Insight]:
    found = crashes.groups(view)
    if found and len(found[0].trials) >= 3:
        group = found[0]
        where = "".join(f"; {name} is {what}" for name, what in list(group.shared.items())[:3])
        yield Insight(
            "failures",
            f"{len(group.trials)} of {len(view.trials)} trials failed of one cause, {group.signature}{where}.",
            "failures",
        )


def _borders(view: View) -> Iterator[Insight]:
    for each in borders(view):
        yield Insight(
            "border",
            f"{each.share:.0%} of the best trials lie at the {each.side} border of {each.name} ({number(each.bound)}): "
            "widen the space there.",
            "slice",
        )


def _plateau(view: View) -> Iterator[Insight]:
    if view.best is None or len(view.ranking) < _TRIALS:
        return
    behind = len(view.trials) - view.trials.place(view.best) - 1
    if behind >= len(view.trials) / 2:
        yield Insight(
            "plateau",
            f"The last {behind} of {len(view.trials)} trials found nothing better than trial {view.best}.",
            "history",
        )


def _strongest(view: View) -> Iterator[Insight]:
    if len(view.ranking) < _TRIALS or len(view.varied) < 2:
        return
    share, name = max((effect(view, name), name) for name in view.varied)
    if share >= _MUCH:
        text = f"{name} matters most: alone it tells {share:.0%} of the order of {len(view.ranking)} trials."
        yield Insight("strong_parameter", text, "importance")


def _idle_parameters(view: View) -> Iterator[Insight]:
    if len(view.ranking) < _TRIALS or len(view.varied) < 2:
        return
    names = [n for n in view.varied if len(set(labels_of(view.parameter(n))) - {None}) > 1]
    strength = {name: effect(view, name) for name in names}
    idle = [name for name, share in strength.items() if share < 0.01]
    if idle and len(idle) < len(names):
        yield Insight(
            "idle_parameter",
            f"{', '.join(idle[:5])}: no effect shows on the order of {len(view.ranking)} trials.",
            "importance",
        )


def is_seed(parameter: str) -> bool:
    """Whether a parameter is the seed of a run."""
    return parameter.rsplit("/", 1)[-1] == "seed"


def same_config(view: View) -> list[list[int]]:
    """Return the rows of the trials with a value whose configs differ in nothing but the seed, two or more each."""
    columns = [labels_of(view.parameter(name)) for name in view.trials.parameters if not is_seed(name)]
    found: dict[tuple[str | None, ...], list[int]] = {}
    for row in np.flatnonzero(np.isfinite(view.values)).tolist():
        found.setdefault(tuple(column[row] for column in columns), []).append(row)
    return [rows for rows in found.values() if len(rows) > 1]


def noise(view: View) -> tuple[float, int] | None:
    """Return the standard deviation between trials of the same config but for their seed, and how many such groups."""
    repeated = [view.values[rows] for rows in same_config(view)]
    if not repeated:
        return None
    return float(np.sqrt(np.mean([np.var(values, ddof=1) for values in repeated]))), len(repeated)


def _noise(view: View) -> Iterator[Insight]:
    found = None if view.family is not None else noise(view)  # clones of one config have other weights
    if found is None or len(view.ranking) < 4:
        return
    spread, count = found
    rows = [view.trials.place(trial) for trial in view.ranking[:2]]
    gap = abs(float(np.diff(view.values[rows])[0]))
    if spread > gap:
        yield Insight(
            "noise",
            f"Runs of one config differ by {number(spread)} (standard deviation, {count} configs), more than the best "
            f"two trials: {number(gap)}.",
            "edf",
        )


def _idle(view: View) -> Iterator[Insight]:
    by_gpu = workers.utilisation(view, "gpu")
    busy, word = (by_gpu, "GPUs") if by_gpu else (workers.utilisation(view), "nodes")
    slack = {node: 1 - share for node, share in busy.items() if share < 0.7}
    if slack and len(view.trials) > len(busy):
        node = max(slack, key=lambda each: slack[each])
        yield Insight(
            "idle",
            f"{len(slack)} of {len(busy)} {word} were idle more than 30 % of the time; {node} {slack[node]:.0%}.",
            "timeline",
        )


def saved(view: View) -> float | None:
    """Return the share of the steps that stopping early has saved: of those that the stopped would else have run.

    Each is taken to have run as long as the longest completed trial; None where nothing was stopped or completed.
    """
    stopped, completed = view.trials.state == "stopped", view.trials.state == "completed"
    if not stopped.any() or not completed.any():
        return None
    longest = int(view.trials.step[completed].max())
    whole = longest * int((stopped | completed).sum())
    run = int(np.minimum(view.trials.step[stopped], longest).sum() + longest * completed.sum())
    return (whole - run) / whole if whole else None


def _saved(view: View) -> Iterator[Insight]:
    share = saved(view)
    if share is not None and share >= 0.01:
        yield Insight("saved", f"Early stopping saved {share:.0%} of the steps.", "rungs")


_FINDERS = (_failures, _strongest, _borders, _plateau, _idle_parameters, _noise, _idle, _saved)
