"""TuRBO: candidates lie in the box, which grows and shrinks by what was told, and a tiny one is given up."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome, PastTrial
from tune_platform.searchers.turbo import TuRBO
from tune_platform.space import Space, choice, uniform

SPACE = Space({"x": uniform(0, 1), "y": uniform(0, 1)})


def start(space: Space = SPACE, **options: Any) -> TuRBO:
    searcher = TuRBO(**{"candidates": 50, **options})
    searcher.setup(space, mode=["min"], seed=0)
    return searcher


def drive(searcher: TuRBO, numbers: range, loss: Any) -> list[PastTrial]:
    found = []
    for number in numbers:
        suggestion = searcher.ask(number)
        assert suggestion is not None
        value = float(loss(number, suggestion.config))
        outcome = Outcome("completed", value, 1, (value,), suggestion.config, 1.0, ((1.0, value),))
        searcher.tell(number, outcome)
        memo = json.loads(json.dumps(suggestion.memo))
        found.append(PastTrial(number, suggestion.config, memo, outcome))
    return found


def test_three_improvements_double_the_box_and_failures_halve_it() -> None:
    searcher = start(initial=5, failures=4)
    drive(searcher, range(8), lambda number, config: -number)
    searcher._look()
    assert searcher._side == 1.6
    drive(searcher, range(8, 12), lambda number, config: number)
    searcher._look()
    assert searcher._side == 0.8


def test_candidates_lie_in_the_box_around_the_best_trial() -> None:
    searcher = start(Space({f"x{i}": uniform(0, 1) for i in range(4)}), initial=5, failures=2)
    past = drive(searcher, range(13), lambda number, config: number)
    searcher._look()
    assert searcher._side == 0.8 / 2**4
    generator = np.random.default_rng(0)
    assert searcher.fit(generator)
    points, lengths = searcher._drawn(generator), searcher.lengths()
    center = np.array(list(past[0].config.values()))
    half = searcher._side * lengths / np.exp(np.log(lengths).mean()) / 2
    assert (np.abs(points - center) <= half + 1e-12).all()
    assert (points != center).any(axis=1).all()


def test_a_tiny_box_is_given_up_for_a_new_region_and_a_restored_search_knows() -> None:
    searcher = start(initial=5, failures=1)
    past = drive(searcher, range(40), lambda number, config: number)
    regions = [(trial.memo or {})["region"] for trial in past]
    assert regions == sorted(regions)
    assert regions[-1] >= 1
    first = regions.index(1)
    models = ["model" in (trial.memo or {}) for trial in past]
    assert not any(models[first : first + 5])  # the new region begins at random
    assert models[first + 5]
    resumed = start(initial=5, failures=1)
    resumed.restore(past[: first + 2])
    again = drive(resumed, range(first + 2, 40), lambda number, config: number)
    assert [trial.config for trial in again] == [trial.config for trial in past[first + 2 :]]


def test_a_valley_in_many_parameters_is_followed() -> None:
    space = Space({f"x{i}": uniform(-1, 1) for i in range(12)})

    def bowl(number: int, config: dict[str, float]) -> float:
        return sum((value - 0.3) ** 2 for value in config.values())

    searcher = start(space, candidates=200)
    past = drive(searcher, range(60), bowl)
    losses = [trial.outcome.value for trial in past if trial.outcome and trial.outcome.value is not None]
    assert min(losses) < 0.25 * min(losses[:20])


def test_without_a_value_it_draws_at_random_and_choices_are_changed_too() -> None:
    searcher = start(Space({"x": uniform(0, 1), "kind": choice(["a", "b", "c"])}))
    for number in range(20):
        suggestion = searcher.ask(number)
        assert suggestion is not None
        assert "model" not in (suggestion.memo or {})
        searcher.tell(number, Outcome("failed", None, 0))
    past = drive(searcher, range(20, 50), lambda number, config: config["x"] + (config["kind"] != "b"))
    assert {trial.config["kind"] for trial in past if "model" in (trial.memo or {})} > {"b"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": 0}, "turbo: initial must be a whole number from 1"),
        ({"failures": 1.5}, "turbo: failures must be a whole number"),
        ({"candidates": "many"}, "turbo: candidates must be a whole number"),
    ],
)
def test_bad_options_get_one_message(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TuRBO(**options)
