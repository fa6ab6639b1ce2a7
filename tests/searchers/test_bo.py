"""Bayesian optimisation: what the process knows, that running trials are kept away from, its cost, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome
from tune_platform.searchers import bo
from tune_platform.searchers.bo import BO
from tune_platform.space import Space, uniform

PLANE = Space({"x": uniform(0, 1), "y": uniform(0, 1)})


def start(space: Space = PLANE, **options: Any) -> BO:
    searcher = BO(**{"random_fraction": 0.0, **options})
    searcher.setup(space, mode=["min"], seed=0)
    return searcher


def tell(searcher: BO, number: int, config: dict[str, float], loss: float) -> None:
    searcher.observe(number, config)
    searcher.tell(number, Outcome("completed", loss, 1, (loss,), config, 1.0, ((1.0, loss),)))


def known(trials: int = 40) -> BO:
    """A searcher that knows a bowl of which only x matters: the least is at x = 0.3."""
    searcher, generator = start(), np.random.default_rng(0)
    for number in range(trials):
        x, y = generator.random(2).tolist()
        tell(searcher, number, {"x": x, "y": y}, (x - 0.3) ** 2)
    assert searcher.fit(generator)
    return searcher


def test_the_process_orders_what_it_has_not_seen_and_knows_where_it_knows_little() -> None:
    searcher = known()
    mean, _ = searcher._process.predict(np.array([[0.3, 0.9], [0.6, 0.1], [0.95, 0.5]]))
    assert mean[0] < mean[1] < mean[2]
    here, far = searcher._process.predict(np.array([searcher._process.x[0], [3.0, 3.0]]))[1]
    assert here < 0.5 < far


def test_a_feature_that_matters_has_a_shorter_length_than_one_that_does_not() -> None:
    scales = known()._process.scales
    assert scales[0] > 2 * scales[1]


def test_it_finds_the_least_and_expects_little_more_where_a_trial_runs() -> None:
    searcher, generator = known(12), np.random.default_rng(0)
    found = searcher.suggest(generator, {})
    assert found is not None
    assert abs(found["x"] - 0.3) < 0.1
    point = np.array([[found["x"], found["y"]]])
    searcher.fit(generator)
    before = -searcher.scores(point, generator)[0]
    searcher.observe(100, found)
    searcher.fit(generator)
    assert -searcher.scores(point, generator)[0] < 0.7 * before


def test_the_process_is_fitted_to_a_bounded_number_of_trials() -> None:
    searcher = known(1000)
    for number in range(1000, 1100):
        searcher.observe(number, {"x": number / 1100, "y": 0.5})
    assert searcher.fit(np.random.default_rng(0))
    assert len(searcher._process.x) == bo._MOST + bo._PENDING


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "bo: candidates must be a whole number from 1 to 10000, got 0"),
        ({"random_fraction": -1}, "bo: random_fraction must be a number from 0 to 1, got -1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        BO(**options)
