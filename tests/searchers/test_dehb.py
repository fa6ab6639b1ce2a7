"""Differential evolution: which trials evolve, what a child is made of, that it converges, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome
from tune_platform.searchers.dehb import DEHB
from tune_platform.space import Space, choice, uniform

PLANE = Space({"x": uniform(0, 1), "y": uniform(0, 1)})


def start(space: Space = PLANE, **options: Any) -> DEHB:
    searcher = DEHB(**{"population": 5, "random_fraction": 0.0, **options})
    searcher.setup(space, mode=["min"], seed=0)
    return searcher


def tell(searcher: DEHB, number: int, config: dict[str, Any], *losses: float) -> None:
    rungs = tuple(zip((1.0, 3.0, 9.0), losses, strict=False))
    searcher.observe(number, config)
    outcome = Outcome("stopped", losses[-1], int(rungs[-1][0]), losses, config, rungs[-1][0], rungs)
    searcher.tell(number, outcome)


def test_the_best_at_the_highest_resource_evolve_filled_up_from_below() -> None:
    searcher = start()
    for number in range(8):
        tell(searcher, number, {"x": number / 8, "y": 0.5}, float(8 - number))
    assert searcher._pool() == [7, 6, 5, 4, 3]
    for number in range(8, 12):  # bad at 1, and the only ones that came to 3
        tell(searcher, number, {"x": 0.1, "y": 0.5}, 100.0, float(number))
    assert searcher._pool() == [8, 9, 10, 11, 7]
    tell(searcher, 12, {"x": 0.1, "y": 0.5}, 1.0, 1.0, 1.0)  # one alone at 9 cannot evolve
    assert searcher._pool() == [12, 8, 9, 10, 11]


def test_a_child_has_the_targets_values_but_for_those_of_the_mutant() -> None:
    """All differ in x alone, so y stays what it is; without crossover one parameter alone is the mutant's."""
    searcher, generator = start(crossover=0.0, factor=0.5), np.random.default_rng(0)
    for number in range(5):
        tell(searcher, number, {"x": 0.3 + number / 10, "y": 0.25}, 1.0)
    tried = {0.3, 0.4, 0.5, 0.6, 0.7}
    children = [searcher.suggest(generator, {}) for _ in range(40)]
    assert all(child is not None and child["y"] == pytest.approx(0.25) for child in children)
    moved = [child for child in children if child and min(abs(child["x"] - x) for x in tried) > 1e-9]
    assert 5 < len(moved) < 40
    # base + 0.5 (one - other): all multiples of 0.05 that lie inside, or drawn anew where they do not
    inside = [child for child in moved if abs(child["x"] * 20 - round(child["x"] * 20)) < 1e-6]
    assert len(inside) > len(moved) / 2


def test_it_comes_to_the_least_of_a_bowl_where_random_search_does_not() -> None:
    space = Space({"x": uniform(0, 1), "y": uniform(0, 1), "kind": choice(["good", "bad"])})

    def best(searcher: DEHB) -> float:
        losses: list[float] = []
        for number in range(200):
            found = searcher.ask(number)
            assert found is not None
            config = dict(found.config)
            loss = float((config["x"] - 0.37) ** 2 + (config["y"] - 0.71) ** 2 + (config["kind"] == "bad"))
            losses.append(loss)
            searcher.tell(number, Outcome("completed", loss, 1, (loss,), config, 1.0, ((1.0, loss),)))
        return min(losses)

    assert best(start(space, population=10)) < 1e-5 < best(start(space, random_fraction=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 3}, "dehb: population must be a whole number from 4 to 10000, got 3"),
        ({"factor": 3}, "dehb: factor must be a number from 0 to 2, got 3"),
        ({"crossover": "half"}, "dehb: crossover must be a number from 0 to 1, got 'half'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        DEHB(**options)
