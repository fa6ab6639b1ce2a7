"""The bridge to Optuna: the trials of a `View` as a study in memory, for Optuna's own analyses and figures.

Names and categories are escaped on the way, as Optuna puts them into titles and hovers.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from html import escape
from typing import Any

import numpy as np

from tune_platform.plots.columns import Floats, Objects
from tune_platform.plots.view import View

#: So many trials at most: the best half of them, and others evenly over the search. Optuna copies each for each figure.
MOST = 2_000
_LOADING = threading.Lock()
_WHEN = datetime(2000, 1, 1)  # Optuna wants some time; no figure that is asked of it shows one


def load() -> None:
    """Import Optuna, in one thread at a time: its modules import each other in circles, which breaks two at once."""
    with _LOADING:
        import optuna.importance
        import optuna.visualization  # noqa: F401


def is_number(value: Any) -> bool:
    """Whether a cell is a finite number; truth values are categories."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def numeric(view: View, name: str) -> bool:
    """Whether a parameter's values lie on a scale."""
    there = [value for value in view.parameter(name).tolist() if value is not None]
    declared = view.space[name].numeric if name in view.space else bool(there)
    return declared and _numbers(there)


def _numbers(values: list[Any]) -> bool:
    """Whether all are finite numbers: `is_number` of each, in a tenth of the time."""
    if set(map(type, values)) <= {int, float}:
        try:
            return bool(np.isfinite(np.array(values, np.float64)).all())
        except OverflowError:
            return False
    return all(map(is_number, values))


def label(value: Any) -> str:
    """Return a category as text; text that looks like something else is quoted, so that "2" and 2 are two."""
    if not isinstance(value, str):
        return str(value)
    looks = value in ("True", "False", "None")
    try:
        float(value)
        looks = True
    except ValueError:
        pass
    return f'"{value}"' if looks else value


def positions(view: View, name: str) -> tuple[Floats, list[str]]:
    """Return a parameter as numbers, NaN where absent: its values, or the places of its categories, which come too."""
    column = view.parameter(name)
    if numeric(view, name):
        return np.array([np.nan if value is None else float(value) for value in column], float), []
    labels = labels_of(column)
    declared = [label(value) for value in view.space[name].choices] if name in view.space else []
    names = list(dict.fromkeys((*declared, *(each for each in labels if each is not None))))
    place = {each: float(at) for at, each in enumerate(names)}
    return np.array([np.nan if each is None else place[each] for each in labels], float), names


def labels_of(column: Objects) -> list[str | None]:
    """Return the categories of a column."""
    return [None if value is None else label(value) for value in column.tolist()]


def chosen(view: View, values: Floats, most: int = MOST) -> np.ndarray[Any, Any]:
    """Return the rows with a value, or of very many the best half of `most` and others evenly over the search."""
    there = np.flatnonzero(np.isfinite(values))
    if len(there) <= most:
        return there
    best = there[np.argsort(view.sign * values[there], kind="stable")[: most // 2]]
    spread = there[np.linspace(0, len(there) - 1, most - most // 2).astype(int)]
    return np.union1d(best, spread)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna: warnings on what is experimental, and its log."""
    load()
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


def study(view: View, names: Sequence[str], values: Floats | None = None, rows: Any = None) -> Any:
    """Return an Optuna study of the trials that have values, with these parameters.

    `values` are those of one objective in place of the search's own; `rows` restricts it to some trials.
    """
    load()
    import optuna

    if values is not None:
        objectives, modes = [values], [view.mode]
    else:
        objectives, modes = [view.objective(at) for at in range(len(view.metrics))], list(view.modes)
    if rows is None:
        rows = chosen(view, np.sum(objectives, axis=0))
    columns = {name: _column(view, name, rows) for name in names}
    made = []
    for place, row in enumerate(rows):
        params, distributions = {}, {}
        for name, (cells, distribution) in columns.items():
            if cells[place] is not None:
                params[escape(name)], distributions[escape(name)] = cells[place], distribution
        found = [float(each[row]) for each in objectives]
        made.append(
            optuna.trial.FrozenTrial(
                number=place, trial_id=place, state=optuna.trial.TrialState.COMPLETE, value=None, values=found,
                datetime_start=_WHEN, datetime_complete=_WHEN, params=params, distributions=distributions,
                user_attrs={}, system_attrs={"trial": int(view.trials.number[row])}, intermediate_values={},
            )
        )  # fmt: skip
    with quiet():
        directions = optuna.study.StudyDirection
        words = [directions.MAXIMIZE if mode == "max" else directions.MINIMIZE for mode in modes]
        found_study = optuna.create_study(directions=words)
        found_study.add_trials(made)
    return found_study


def _column(view: View, name: str, rows: Any) -> tuple[list[Any], Any]:
    load()
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    column = view.parameter(name)[rows]
    if not numeric(view, name):
        cells = [None if each is None else escape(each) for each in labels_of(column)]
        return cells, CategoricalDistribution(sorted({each for each in cells if each is not None} or {"-"}))
    there = [float(value) for value in column if value is not None] or [0.0]
    dimension = view.space.get(name)
    low, high = min(there), max(there)
    if dimension is not None and dimension.low is not None and dimension.high is not None:
        low, high = min(low, dimension.low), max(high, dimension.high)
    log = dimension is not None and dimension.log and low > 0
    if dimension is not None and dimension.kind == "int" and all(value.is_integer() for value in (*there, low, high)):
        return [None if v is None else int(v) for v in column], IntDistribution(int(low), int(high), log=log)
    return [None if v is None else float(v) for v in column], FloatDistribution(low, high, log=log)
