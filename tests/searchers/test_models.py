"""Searchers that fit a model: what they learn, what of the past they are fitted to, bad input, and that they help."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.searchers import FUNCTIONS, on_function
from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome
from tune_platform.registry import make_searcher
from tune_platform.searchers._boosting import QuantileTrees
from tune_platform.searchers._history import spread
from tune_platform.searchers._normal import improvement, normal_scores
from tune_platform.space import Space, choice, uniform

SPACE = Space({"x": uniform(0, 1), "y": uniform(0, 1), "kind": choice(["a", "b", "c"])})
MODELS = ("cqr", "forest")


def told(name: str, count: int = 60, **options: Any) -> Any:
    """Return a searcher that was told of trials that are best at x = 0.8 with kind b."""
    searcher = make_searcher(name, random_fraction=0, **options)
    searcher.setup(SPACE, mode=["min"], seed=0)
    generator = np.random.default_rng(0)
    for number in range(count):
        config = SPACE.sample(generator)
        value = (config["x"] - 0.8) ** 2 + (config["kind"] != "b")
        searcher.observe(number, config)
        searcher.tell(number, Outcome("completed", value, 1, (value,), config, 1.0, ((1.0, value),)))
    return searcher


@pytest.mark.parametrize("name", MODELS)
def test_what_is_good_is_learned(name: str) -> None:
    searcher = told(name)
    found = [searcher.ask(100 + number) for number in range(8)]
    assert all(suggestion.memo == {"model": True} for suggestion in found)
    configs = [suggestion.config for suggestion in found]
    assert sum(config["kind"] == "b" for config in configs) >= 7
    assert np.median([abs(config["x"] - 0.8) for config in configs]) < 0.2


@pytest.mark.parametrize("name", MODELS)
def test_it_finds_better_configs_than_random_search(name: str) -> None:
    searcher = {"name": name, "candidates": 100}
    assert on_function("hartmann6", searcher, 0, trials=60) < on_function("hartmann6", "random", 0, trials=60)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"random_fraction": 2}, "random_fraction must be a number from 0 to 1, got 2"),
        ({"candidates": 0}, "candidates must be a whole number from 1"),
        ({"candidtes": 7}, "did you mean 'candidates'"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make_searcher(name, **options)


def test_the_trees_give_the_quantiles() -> None:
    generator = np.random.default_rng(0)
    x = generator.random((2000, 2))
    y = np.where(x[:, 0] > 0.5, 5.0, 0.0) + generator.standard_normal(2000)
    trees = QuantileTrees(x, y, np.array([0.1, 0.5, 0.9]), rounds=40)
    found = trees.predict(x)
    below = (y < found).mean(axis=1)
    assert below == pytest.approx([0.1, 0.5, 0.9], abs=0.04)
    left = trees.predict(np.array([[0.2, 0.5], [0.8, 0.5]]))
    assert left[:, 0] == pytest.approx([-1.28, 0.0, 1.28], abs=0.45)
    assert left[:, 1] == pytest.approx([3.72, 5.0, 6.28], abs=0.45)


def test_few_rows_and_columns_without_variety_are_survived() -> None:
    x = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    found = QuantileTrees(x, np.array([3.0, 3.0, 3.0]), np.array([0.25, 0.75])).predict(x)
    assert found == pytest.approx(np.full((2, 3), 3.0))


def test_a_spread_has_the_best_and_some_of_every_rank() -> None:
    ranked = [(float(index), index) for index in range(10_000)]
    picked = spread(ranked, 64, 256)
    assert len(picked) == 256
    assert picked[:64] == ranked[:64]
    assert picked[-1] == ranked[-1]
    assert 4000 < np.median([number for _, number in picked[64:]]) < 6000
    assert spread(ranked[:100], 64, 256) == ranked[:100]


def test_scores_of_ranks_and_the_expected_improvement() -> None:
    scores = normal_scores(np.array([5.0, 1.0, 1e9, 5.0]))
    assert scores[1] < scores[0] == scores[3] < scores[2]
    assert scores.max() < 2
    found = improvement(np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 1e-3]), 0.0)
    assert found == pytest.approx([0.3989, 0.0833, 0.0], abs=1e-4)


@pytest.mark.parametrize("problem", FUNCTIONS)
def test_every_function_of_the_benchmark_can_be_searched(problem: str) -> None:
    assert on_function(problem, "random", 0) != on_function(problem, "random", 1)
