"""The searcher `screen`: how it ranks trials, that it stays broad, bad input, and how its cost does not grow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome, PastTrial, Suggestion
from tune_platform.searchers import screen
from tune_platform.searchers.bohb import density
from tune_platform.searchers.screen import Screen
from tune_platform.space import Space, grid_search, uniform

LINE = Space({"x": uniform(0, 1)})


def start(space: Space = LINE, mode: str = "min", **options: Any) -> Screen:
    searcher = Screen(**{"random_fraction": 0.0, **options})
    searcher.setup(space, mode=[mode], seed=0)
    return searcher


def asked(searcher: Screen, number: int) -> Suggestion:
    found = searcher.ask(number)
    assert found is not None
    return found


def outcome(status: str, *rungs: tuple[float, float]) -> Outcome:
    value = min((value for _, value in rungs), default=None)
    return Outcome(status, value, len(rungs), resource=rungs[-1][0] if rungs else 0.0, rungs=rungs)


def order(searcher: Screen) -> list[int]:
    return [key[-1] for key in searcher._ranking]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_completed_trials_come_first_then_who_came_farther_then_the_better_value(mode: str) -> None:
    searcher, sign = start(mode=mode), 1 if mode == "min" else -1
    told = [
        outcome("stopped", (1.0, sign * 0.1)),
        outcome("completed", (1.0, sign * 9.0), (9.0, sign * 5.0)),
        outcome("running", (1.0, sign * 0.2), (3.0, sign * 7.0)),
        outcome("completed", (2.0, sign * 4.0)),
        outcome("stopped", (1.0, sign * 0.3)),
        Outcome("stopped", None, 2, worst=True),
        outcome("failed", (1.0, sign * 0.0)),
    ]
    for number, each in enumerate(told):
        searcher.observe(number, {"x": 0.5})
        searcher.tell(number, each)
    assert order(searcher) == [3, 1, 2, 0, 4, 5]
    searcher.tell(2, outcome("completed", (1.0, sign * 0.2), (3.0, sign * 3.0)))
    assert order(searcher) == [2, 3, 1, 0, 4, 5], "a later outcome takes the place of the one before"
    again = start(mode=mode)
    again.restore([PastTrial(n, {"x": 0.5}, None, each) for n, each in enumerate(told)])
    assert order(again) == [3, 1, 2, 0, 4, 5]


def test_it_suggests_where_trials_came_far_and_stays_as_broad_as_that() -> None:
    """Trials above 0.6 passed the first rung; of the values there the best lies at 0.9."""
    searcher = start()
    for number, x in enumerate(np.linspace(0, 1, 60)):
        searcher.observe(number, {"x": float(x)})
        rungs = [(1.0, float(x)), (3.0, abs(float(x) - 0.9))][: 2 if x > 0.6 else 1]
        searcher.tell(number, outcome("stopped", *rungs))
    drawn = [asked(searcher, 100 + number) for number in range(60)]
    assert all(each.memo == {"model": True} for each in drawn)
    found = [each.config["x"] for each in drawn]
    assert np.mean(np.array(found) > 0.6) > 0.9
    assert max(found) - min(found) > 0.2
    assert len(set(found)) == 60


def test_it_keeps_away_from_what_was_tried_and_from_what_runs() -> None:
    """All trials are equally good, so only the distance counts; a fifth of the line is full, also of running ones."""
    space = Space({"x": uniform(0, 1)})
    for told in (True, False):
        searcher = start(space, candidates=2)
        for number in range(20):
            searcher.observe(number, {"x": (number % 2) + 0.001 * number * (-1) ** number})
            searcher.tell(number, outcome("completed", (1.0, 1.0)))
        for number in range(20, 60):
            searcher.observe(number, {"x": 0.4 + 0.005 * (number - 20)})
            if told:
                searcher.tell(number, outcome("completed", (1.0, 1.0)))
        drawn = np.array([seeded(searcher, number) for number in range(1000, 1300)])
        assert np.mean((drawn > 0.4) & (drawn < 0.6)) < 0.08, "of random draws a fifth lies there"


def seeded(searcher: Screen, number: int) -> float:
    """What it would suggest for that number; it does not remember that it did."""
    found = searcher.suggest(np.random.default_rng(number), {})
    assert found is not None
    return float(found["x"])


def test_one_candidate_is_random_search() -> None:
    searcher = start(candidates=1)
    for number in range(30):
        searcher.observe(number, {"x": number / 30})
        searcher.tell(number, outcome("completed", (1.0, number / 30)))
    found = [asked(searcher, 100 + number).config["x"] for number in range(200)]
    assert abs(np.mean(found) - 0.5) < 0.07


def test_too_few_trials_are_drawn_at_random_and_a_grid_is_followed() -> None:
    searcher = start(Space({"x": uniform(0, 1), "g": grid_search([1, 2])}))
    told = [asked(searcher, number) for number in range(40)]
    assert all(each.memo == {} for each in told)
    assert [each.config["g"] for each in told[:4]] == [1, 2, 1, 2]
    for number, each in enumerate(told):
        searcher.tell(number, outcome("completed", (1.0, each.config["x"])))
    later = [asked(searcher, number) for number in range(40, 60)]
    assert [each.config["g"] for each in later[:4]] == [1, 2, 1, 2]
    assert np.median([each.config["x"] for each in later]) < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "screen: candidates must be a whole number from 1 to 10000, got 0"),
        ({"candidates": 2.5}, "screen: candidates must be a whole number from 1 to 10000, got 2.5"),
        ({"quantile": 2}, "screen: quantile must be a number from 0 to 1, got 2"),
        ({"random_fraction": "a"}, "screen: random_fraction must be a number from 0 to 1, got 'a'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Screen(**options)


def test_the_densities_see_a_bounded_number_of_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = start()
    sizes: list[int] = []

    def counted(encoding: Any, rows: Any, points: Any) -> Any:
        sizes.append(len(rows))
        return density(encoding, rows, points)

    monkeypatch.setattr("tune_platform.searchers.screen.density", counted)
    for number in range(3000):
        searcher.observe(number, {"x": number / 3000})
        searcher.tell(number, outcome("stopped", (1.0, number / 3000)))
    searcher.ask(3000)
    assert sizes == [screen._MOST_GOOD, screen._MOST_BAD]
