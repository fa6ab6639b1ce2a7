"""`num_samples` counts passes over the grid, whichever searcher is beside it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tune_platform import (
    Budget,
    ExperimentError,
    Results,
    SearchSpec,
    choice,
    grid_search,
    report,
    resume,
    run,
    uniform,
)


def train(config: dict[str, Any]) -> None:
    report({"loss": float(config["n"])})


def search(place: Path, **given: Any) -> SearchSpec:
    values: dict[str, Any] = {
        "name": "grid", "trainable": train, "metric": "loss", "mode": "min", "storage": str(place),
        "param_space": {"n": grid_search([1, 2, 3]), "x": uniform(0, 1)}, "backend": "inline",
    }  # fmt: skip
    return SearchSpec(**{**values, **given})


def points(results: Results, *names: str) -> Counter[Any]:
    return Counter(tuple(trial.config[name] for name in names) for trial in results)


@pytest.mark.parametrize("searcher", ["random", "tpe", "nsgaii", "qmc", pytest.param("gp", marks=pytest.mark.slow)])
@pytest.mark.parametrize("samples", [1, 2])
def test_every_value_once_in_each_pass(tmp_path: Path, searcher: str, samples: int) -> None:
    results = run(search(tmp_path, searcher=searcher, num_samples=samples), progress="off")
    assert points(results, "n") == {(1,): samples, (2,): samples, (3,): samples}
    assert len({trial.config["x"] for trial in results}) == 3 * samples


def test_of_two_grids_the_cross_product(tmp_path: Path) -> None:
    space = {"n": grid_search([1, 2]), "m": grid_search(["a", "b"]), "x": uniform(0, 1)}
    results = run(search(tmp_path, searcher="tpe", param_space=space, num_samples=1), progress="off")
    assert points(results, "n", "m") == {(n, m): 1 for n in (1, 2) for m in ("a", "b")}


def test_the_grid_goes_on_where_it_was_after_resuming(tmp_path: Path) -> None:
    budget = Budget(trials=4)
    run(search(tmp_path, searcher="tpe", budget=budget, start_points=[{"n": 3}]), progress="off")
    results = resume("grid", storage=tmp_path, extend={"trials": 3}, progress="off")
    assert [trial.config["n"] for trial in results] == [3, 1, 2, 3, 1, 2, 3]


def test_a_constraint_that_forbids_a_point(tmp_path: Path) -> None:
    results = run(search(tmp_path, searcher="tpe", num_samples=1, constraints=["n < 3"]), progress="off")
    assert len(results) == 3
    assert {trial.config["n"] for trial in results} == {1, 2}


@pytest.mark.parametrize(("samples", "times"), [(None, 1), (1, 1), (2, 2)])
def test_the_grid_searcher_makes_as_many_passes(tmp_path: Path, samples: int | None, times: int) -> None:
    space = {"n": grid_search([1, 2, 3]), "m": choice([4, 5])}
    results = run(search(tmp_path, searcher="grid", param_space=space, num_samples=samples), progress="off")
    assert points(results, "n", "m") == {(n, m): times for n in (1, 2, 3) for m in (4, 5)}


@pytest.mark.parametrize("searcher", ["random", "tpe", "bohb", "screen"])
def test_every_searcher_repeats_a_grid_as_often_as_it_is_asked(tmp_path: Path, searcher: str) -> None:
    given = {"searcher": searcher, "param_space": {"n": grid_search([1, 2, 3])}, "num_samples": 2}
    assert points(run(search(tmp_path, **given), progress="off"), "n") == {(n,): 2 for n in (1, 2, 3)}
    once = search(tmp_path, **given, duplicates="avoid", if_exists="new")
    assert points(run(once, progress="off"), "n") == {(n,): 1 for n in (1, 2, 3)}


def test_the_grid_searcher_with_constraints_makes_as_many_passes(tmp_path: Path) -> None:
    space = {"n": choice([1, 2, 3]), "m": choice([1, 2, 3])}
    spec = search(tmp_path, searcher="grid", param_space=space, num_samples=2, constraints=["n < m"])
    assert points(run(spec, progress="off"), "n", "m") == {(1, 2): 2, (1, 3): 2, (2, 3): 2}


def test_the_second_pass_goes_on_after_resuming(tmp_path: Path) -> None:
    space = {"n": choice([1, 2, 3]), "m": choice([1, 2, 3])}
    spec = search(
        tmp_path, searcher="grid", param_space=space, num_samples=2, constraints=["n < m"], budget=Budget(trials=4)
    )
    run(spec, progress="off")
    results = resume("grid", storage=tmp_path, extend={"trials": 2}, progress="off")
    assert points(results, "n", "m") == {(1, 2): 2, (1, 3): 2, (2, 3): 2}


# ------------------------------------------------------------------------------------------ what resume says


def test_more_samples_on_resume_are_told_of_extend(tmp_path: Path) -> None:
    run(search(tmp_path, num_samples=1), progress="off")
    with pytest.raises(ExperimentError, match=r"num_samples: 2 here, 1 there.*extend=.*--extend trials=10"):
        resume("grid", storage=tmp_path, spec=search(tmp_path, num_samples=2), progress="off")


def test_another_space_on_resume_is_told_what_to_do(tmp_path: Path) -> None:
    space = {"n": choice([1, 2])}
    run(search(tmp_path, param_space=space), progress="off")
    other = search(tmp_path, param_space={"n": choice([1, 3, 2])})
    with pytest.raises(ExperimentError, match=r"another space \(space\.n\.values.*end of their lists.*start_points="):
        resume("grid", storage=tmp_path, spec=other, progress="off")
