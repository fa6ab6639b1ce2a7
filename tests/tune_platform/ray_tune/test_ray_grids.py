"""The trials of the drop-in Tuner come in the order of Ray Tune's own generator of variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import tune as theirs
from ray.tune.experiment import Experiment
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.variant_generator import generate_variants

from tune_platform import Space, SpecError
from tune_platform import ray_tune as tune
from tune_platform.registry import make_searcher
from tune_platform.searchers import RandomSearcher

GRID = theirs.grid_search


def configs(tmp_path: Path, space: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    grid = tune.Tuner(
        lambda config: {"loss": 1.0}, param_space=space, tune_config=tune.TuneConfig(**options),
        run_config=tune.RunConfig(storage_path=str(tmp_path), name="there", verbose=0), backend="inline",
    ).fit()  # fmt: skip
    assert grid.num_errors == 0
    return [result.config for result in grid]


@pytest.mark.parametrize(
    "space",
    [
        {"a": GRID([1, 2]), "b": GRID([10, 20, 30])},
        {"z": GRID([1, 2]), "a": GRID(["x", "y"]), "m": 5},
        {"net": {"width": GRID([8, 16]), "act": GRID(["relu", "tanh"])}, "a": GRID([1, 2])},
        {"b/c": GRID([1, 2]), "b": {"a": GRID([3, 4])}, "B": GRID([5, 6])},
        {f"p{n}": GRID([n, -n]) for n in (2, 9, 10, 11)},
    ],
)
def test_a_grid_comes_in_their_order(tmp_path: Path, space: dict[str, Any]) -> None:
    assert configs(tmp_path, space) == [spec["config"] for _, spec in generate_variants({"config": space})]


def test_num_samples_goes_through_the_grid_again(tmp_path: Path) -> None:
    found = configs(tmp_path, {"a": GRID([1, 2]), "b": GRID([3, 4]), "c": theirs.uniform(0, 1)}, num_samples=2)
    assert [(each["a"], each["b"]) for each in found] == [(1, 3), (2, 3), (1, 4), (2, 4)] * 2
    assert len({each["c"] for each in found}) == 8


def test_constant_grid_search_draws_once_for_a_whole_grid(tmp_path: Path) -> None:
    space = {"a": GRID([1, 2]), "c": theirs.uniform(0, 1)}
    found = configs(tmp_path, space, num_samples=3, search_alg=BasicVariantGenerator(constant_grid_search=True))
    drawn = [each["c"] for each in found]
    assert [each["a"] for each in found] == [1, 2] * 3
    assert drawn[::2] == drawn[1::2]
    assert len(set(drawn)) == 3


def test_their_random_state_decides_the_draws(tmp_path: Path) -> None:
    space = {"c": theirs.uniform(0, 1)}
    first, same, other = (
        configs(tmp_path / name, space, num_samples=3, search_alg=BasicVariantGenerator(random_state=state))
        for name, state in (("first", 7), ("same", 7), ("other", 8))
    )
    assert first == same
    assert first != other


@pytest.mark.parametrize(
    ("points", "first"),
    [
        ([{"x": 0.5}], [(0.5, 1, 3), (0.5, 2, 3), (0.5, 1, 4), (0.5, 2, 4)]),
        ([{"x": 0.5, "a": 2}, {"x": 0.25, "a": 1, "net": {"b": 4}}], [(0.5, 2, 3), (0.5, 2, 4), (0.25, 1, 4)]),
    ],
)
def test_a_point_to_begin_with_goes_through_the_grid(
    tmp_path: Path, points: list[dict[str, Any]], first: list[Any]
) -> None:
    space = {"x": theirs.uniform(0, 1), "a": GRID([1, 2]), "net": {"b": GRID([3, 4])}}
    search = BasicVariantGenerator(points_to_evaluate=points)
    search.add_configurations([
        Experiment("theirs", lambda config: None, config=space, num_samples=3, storage_path=str(tmp_path))
    ])  # fmt: skip
    other = [trial.config for trial in iter(search.next_trial, None)][: len(first)]
    found = configs(tmp_path, space, num_samples=3, search_alg=BasicVariantGenerator(points_to_evaluate=points))
    assert [(each["x"], each["a"], each["net"]["b"]) for each in found[: len(first)]] == first
    assert found[: len(first)] == other


def test_our_own_searcher_keeps_its_order() -> None:
    searcher = RandomSearcher()
    space = Space({"a": GRID([1, 2]), "b": GRID([3, 4])})
    searcher.setup(space, mode=["min"], seed=0)
    suggested = [searcher.ask(number) for number in range(4)]
    assert [each.config["b"] for each in suggested if each is not None] == [3, 4, 3, 4]
    assert searcher.to_spec() == {"name": "random"}
    assert RandomSearcher(grid_order="ray").to_spec() == {"name": "random", "grid_order": "ray"}
    with pytest.raises(SpecError, match="grid_order: got 'first'; allowed: last, ray"):
        make_searcher("random", grid_order="first")
