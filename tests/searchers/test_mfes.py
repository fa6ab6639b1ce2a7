"""MFES: what the processes of the fidelities weigh, when cheap values lead, bounded fits, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome
from tune_platform.searchers import mfes
from tune_platform.searchers.mfes import MFES, weigh
from tune_platform.space import Space, uniform

LINE = Space({"x": uniform(0, 1)})


def start(**options: Any) -> MFES:
    searcher = MFES(**{"random_fraction": 0.0, **options})
    searcher.setup(LINE, mode=["min"], seed=0)
    return searcher


def tell(searcher: MFES, number: int, x: float, *losses: float) -> None:
    """Tell of a trial with values at the resources 1, 3, 9."""
    rungs = tuple(zip((1.0, 3.0, 9.0), losses, strict=False))
    searcher.observe(number, {"x": x})
    step = int(rungs[-1][0])
    searcher.tell(number, Outcome("stopped", losses[-1], step, losses, {"x": x}, rungs[-1][0], rungs))


def typical(searcher: MFES, generator: np.random.Generator) -> float:
    """The median of what it suggests."""
    found = [searcher.suggest(generator, {}) for _ in range(25)]
    return float(np.median([config["x"] for config in found if config]))


def test_what_orders_the_trials_best_has_the_weight_and_equals_share_it() -> None:
    losses = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    generator = np.random.default_rng(0)
    right, turned, middling = losses * 2, -losses, np.array([2.0, 1.0, 3.0, 4.0, 6.0, 5.0])
    # A draw in which neither pair of `middling`'s faults is, is shared.
    weights = weigh([turned, right, middling], losses, generator)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] == 0
    assert weights[1] > 0.7 > weights[2] > 0
    assert weigh([right, right], losses, generator).tolist() == [0.5, 0.5]


def test_cheap_values_lead_where_they_are_right() -> None:
    """30 trials at 1 say that 0.7 is best, and five at 9, far from there, agree in their order."""
    searcher, generator = start(), np.random.default_rng(0)
    for number in range(30):
        x = number / 30
        there = [abs(x - 0.7)] * (3 if number in (2, 6, 10, 14, 18) else 1)
        tell(searcher, number, x, *there)
    assert typical(searcher, generator) == pytest.approx(0.7, abs=0.1)
    assert searcher._weights[0] > 0.4


def test_cheap_values_that_mislead_are_overruled() -> None:
    """At 1 the order is the other way round; 20 trials at 9 say so."""
    searcher, generator = start(), np.random.default_rng(0)
    for number in range(40):
        x = number / 40
        tell(searcher, number, x, *([1 - abs(x - 0.7)] if number % 2 else [1 - abs(x - 0.7), 0.5, abs(x - 0.7)]))
    assert typical(searcher, generator) == pytest.approx(0.7, abs=0.1)
    assert searcher._weights[0] == 0


def test_nothing_is_suggested_before_enough_is_known_and_a_running_trial_counts_as_known() -> None:
    searcher, generator = start(), np.random.default_rng(0)
    for number in range(mfes._JUDGES - 1):
        tell(searcher, number, number / 10, float(number))
    assert searcher.suggest(generator, {}) is None
    for number in range(4, 20):
        tell(searcher, number, number / 20, abs(number / 20 - 0.5))
    assert searcher.fit(generator)
    point = np.array([[0.62]])
    expected, doubt = searcher._together(point)
    searcher.observe(100, {"x": 0.62})
    assert searcher.fit(generator)
    then, less = searcher._together(point)
    assert then == pytest.approx(expected, abs=0.1)
    assert less < doubt


def test_each_process_is_fitted_to_a_bounded_number_of_trials() -> None:
    searcher = start()
    for number in range(600):
        tell(searcher, number, number / 600, *([number % 7.0] * (1 + number % 3)))
    assert searcher.fit(np.random.default_rng(0))
    assert [len(process.x) for process in searcher._processes] == [mfes._MOST] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "mfes: candidates must be a whole number from 1 to 10000, got 0"),
        ({"random_fraction": 2}, "mfes: random_fraction must be a number from 0 to 1, got 2"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        MFES(**options)
