"""BOHB's searcher: what it makes of fidelities, bad input, grids, and how its cost does not grow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome
from tune_platform.searchers import _history
from tune_platform.searchers.bohb import _MOST_BAD, _MOST_GOOD, BOHB
from tune_platform.space import Space, SpaceTrial, choice, grid_search, uniform
from tune_platform.space.encoding import Encoding

LINE = Space({"x": uniform(0, 1)})


def start(space: Space = LINE, mode: str = "min", **options: Any) -> Any:
    searcher = BOHB(random_fraction=0, **options)
    searcher.setup(space, mode=[mode], seed=0)
    return searcher


def tell(searcher: BOHB, number: int, x: float, *rungs: tuple[float, float], status: str = "stopped") -> None:
    searcher.observe(number, {"x": x})
    value = min(value for _, value in rungs)
    searcher.tell(number, Outcome(status, value, len(rungs), (rungs[-1][1],), {"x": x}, rungs[-1][0], rungs))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_it_goes_by_the_highest_fidelity_with_enough_trials(mode: str) -> None:
    """Step 1 is for small x, step 9 for large ones; that values at step 1 beat all at step 9 means nothing."""
    searcher = start(mode=mode)
    sign = 1 if mode == "min" else -1
    for number, x in enumerate(np.linspace(0, 1, 40)):
        x = float(x)
        rungs = [(1.0, sign * (x - 5))]
        if number % 2:
            rungs.append((9.0, sign * (1 - x)))
        tell(searcher, number, x, *rungs, status="completed" if number % 2 else "stopped")
    suggested = [searcher.ask(100 + number) for number in range(20)]
    assert all(suggestion.memo == {"model": True} for suggestion in suggested)
    assert np.median([suggestion.config["x"] for suggestion in suggested]) > 0.7


def test_a_running_trial_counts_at_the_rungs_that_it_has_passed() -> None:
    searcher = start()
    for number in range(20):
        x = number / 20
        tell(searcher, number, x, (1.0, x), status="running")
    assert len(searcher._history.levels[1.0]) == 20
    searcher.tell(3, Outcome("completed", 0.1, 2, (0.1,), {"x": 0.15}, 3.0, ((1.0, 0.3), (3.0, 0.1))))
    assert list(searcher._history.levels[3.0]) == [(0.1, 3)]
    assert len(searcher._history.levels[1.0]) == 20
    assert np.median([searcher.ask(50 + n).config["x"] for n in range(20)]) < 0.4


def test_a_trial_that_diverged_counts_as_bad_and_a_failed_one_not_at_all() -> None:
    searcher = start()
    for number in range(10):
        tell(searcher, number, number / 10, (1.0, 1.0))
    searcher.observe(10, {"x": 0.5})
    searcher.tell(10, Outcome("stopped", None, 1, worst=True))
    searcher.observe(11, {"x": 0.5})
    searcher.tell(11, Outcome("failed", 0.0, 1, rungs=((1.0, 0.0),)))
    assert list(searcher._history.worst) == [10]
    assert [number for _, number in searcher._history.levels[1.0]] == list(range(10))
    split = searcher._split()
    assert split is not None
    assert 0.5 in split[1][:, 0]


def test_the_model_is_fitted_to_a_bounded_set_of_trials() -> None:
    searcher = start()
    for number in range(3000):
        x = number / 3000
        tell(searcher, number, x, (1.0, x))
    split = searcher._split()
    assert split is not None
    good, bad = split
    assert (len(good), len(bad)) == (_MOST_GOOD, _MOST_BAD)
    assert good.max() < 0.05  # the best of the good
    assert bad.max() > 0.99  # and the bad from all their ranks
    assert bad.min() < 0.4


def test_grid_parameters_are_cycled_through() -> None:
    searcher = start(Space({"x": uniform(0, 1), "g": grid_search([1, 2, 3])}))
    assert [searcher.ask(number).config["g"] for number in range(6)] == [1, 2, 3, 1, 2, 3]


def test_bad_input() -> None:
    with pytest.raises(SpecError, match=r"bohb: quantile must be a number from 0 to 1, got 2"):
        BOHB(quantile=2)
    with pytest.raises(SpecError, match="single metric"):
        BOHB().setup(LINE, mode=["min", "max"], seed=0)

    def by_run(trial: SpaceTrial) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0, 1)}

    with pytest.raises(SpecError, match="a space written as a function"):
        BOHB().setup(Space(by_run), mode=["min"], seed=0)


def test_values_that_are_no_numbers_are_left_out() -> None:
    history = _history.History(Encoding(LINE), "min")
    history.add(0, {"x": 0.5})
    history.tell(0, Outcome("completed", math.nan, 1, rungs=((1.0, math.nan), (2.0, 3.0))))
    assert {level: list(found) for level, found in history.levels.items()} == {2.0: [(3.0, 0)]}


def test_a_category_that_is_good_is_preferred() -> None:
    space = Space({"kind": choice(["a", "b", "c"]), "x": uniform(0, 1)})
    searcher = start(space)
    for number in range(60):
        kind = "abc"[number % 3]
        config = {"kind": kind, "x": number / 60}
        searcher.observe(number, config)
        value = float("bac".index(kind))
        searcher.tell(number, Outcome("completed", value, 1, (value,), config, 1.0, ((1.0, value),)))
    kinds = [searcher.ask(100 + number).config["kind"] for number in range(20)]
    assert kinds.count("b") > 15
