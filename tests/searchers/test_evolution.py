"""Regularised evolution: who is a parent, what a child is, and bad input."""

from __future__ import annotations

from typing import Any

import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome
from tune_platform.searchers.evolution import Evolution
from tune_platform.space import Space, choice, uniform

SPACE = Space({"x": uniform(0, 1), "y": uniform(0, 1), "kind": choice(["a", "b", "c"])})


def start(**options: Any) -> Any:
    searcher = Evolution(random_fraction=0, **options)
    searcher.setup(SPACE, mode=["min"], seed=0)
    return searcher


def tell(searcher: Evolution, number: int, x: float, *rungs: tuple[float, float]) -> None:
    config = {"x": x, "y": 0.5, "kind": "a"}
    searcher.observe(number, config)
    searcher.tell(number, Outcome("stopped", rungs[-1][1], len(rungs), (rungs[-1][1],), config, rungs[-1][0], rungs))


def test_a_child_is_the_best_of_the_young_with_one_thing_changed() -> None:
    searcher = start(population=4, sample=4)
    tell(searcher, 0, 0.9, (1.0, 0.0))  # the best of all, and too old
    for number, x in enumerate((0.1, 0.2, 0.3, 0.4), start=1):
        tell(searcher, number, x, (1.0, x))
    parent = {"x": 0.1, "y": 0.5, "kind": "a"}
    changed = []
    for number in range(10, 40):
        config = searcher.ask(number).config
        changed += [name for name in parent if config[name] != pytest.approx(parent[name])]
        assert len(changed) == number - 9, f"one thing is changed, {config}"
    assert set(changed) == set(parent)


def test_trials_are_compared_at_a_resource_that_two_reached() -> None:
    searcher = start(population=4, sample=4)
    tell(searcher, 0, 0.1, (1.0, 0.1))
    tell(searcher, 1, 0.2, (1.0, 0.9), (3.0, 0.5))
    tell(searcher, 2, 0.3, (1.0, 0.9), (3.0, 0.4))
    tell(searcher, 3, 0.4, (1.0, 0.9), (3.0, 0.6), (9.0, 0.3))  # alone at 9, the worst of three at 3
    assert searcher._history.winner([0, 1, 2, 3]) == 2
    assert searcher._history.winner([0, 1]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"population": 1}, "population must be a whole number from 2"),
        ({"population": 5, "sample": 6}, "sample must be a whole number from 2 to 5"),
        ({"random_fraction": 2}, "random_fraction must be a number from 0 to 1"),
        ({"step": True}, "step must be a number"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=f"evolution: {said}"):
        Evolution(**options)
