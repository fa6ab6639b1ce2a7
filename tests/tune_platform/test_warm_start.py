"""`search.warm_start`: what a search learns of earlier experiments, and that it knows the same when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tune_platform import Budget, ExperimentError, SearchSpec, SpecError, choice, load, report, resume, run, uniform
from tune_platform.space import Space
from tune_platform.store.removal import remove
from tune_platform.store.sql import open_store
from tune_platform.warm_start import fitted

SPACE = {"x": uniform(0, 1), "kind": choice(["a", "b", "c"])}


def train(config: dict[str, Any]) -> None:
    report({"loss": abs(config["x"] - 0.7) + (config.get("kind", "b") != "b")})


def spec(place: Path, name: str, trials: int = 12, **given: Any) -> SearchSpec:
    values: dict[str, Any] = {
        "name": name, "trainable": train, "param_space": SPACE, "metric": "loss", "mode": "min", "storage": str(place),
        "backend": "inline", "searcher": {"name": "bohb", "random_fraction": 0}, "budget": Budget(trials=trials),
    }  # fmt: skip
    return SearchSpec(**{**values, **given})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("warm")
    run(spec(place, "old", trials=60, searcher="random"), progress="off")
    return place


def test_the_best_of_before_is_tried_first_and_the_model_begins_at_once(place: Path) -> None:
    best = load("old", storage=place).best().config
    warm = run(spec(place, "warm", warm_start=["old"]), progress="off")
    assert warm[0].config == best
    late = [trial.config for trial in list(warm)[1:]]
    assert sum(config["kind"] == "b" for config in late) >= 9
    assert np.median([abs(config["x"] - 0.7) for config in late]) < 0.2
    cold = run(spec(place, "cold"), progress="off")
    mean_warm, mean_cold = (np.mean([trial.best for trial in list(found)[:6]]) for found in (warm, cold))
    assert mean_warm < 0.5 * mean_cold


def test_another_space_takes_what_fits_and_says_what_does_not(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = {"x": uniform(0, 0.9), "depth": choice([1, 2])}
    warm = run(spec(place, "other", param_space=space, warm_start=["old"]), progress="plain")
    assert abs(warm[0].config["x"] - 0.7) < 0.1
    assert "trials of old without kind, x, not of this space" in capsys.readouterr().err.replace("\n", " ")


def test_a_resumed_search_knows_what_was_read_though_the_earlier_one_is_gone(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        run(spec(tmp_path, "old", trials=30, searcher="random", if_exists="replace"), progress="off")
        given = spec(tmp_path, name, trials=12 if name == "whole" else 5, warm_start=["old"])
        run(given, progress="off")
    with open_store(str(tmp_path)) as store:
        remove(store, "old")
    resumed = resume("cut", storage=tmp_path, extend={"trials": 7}, spec=spec(tmp_path, "cut", 5, warm_start=["old"]))
    whole = load("whole", storage=tmp_path)
    assert [trial.config for trial in resumed] == [trial.config for trial in whole]


def test_what_cannot_be_read_gets_one_message(place: Path) -> None:
    with pytest.raises(ExperimentError, match="'olf'"):
        run(spec(place, "a", warm_start=["olf"]), progress="off")
    with pytest.raises(SpecError, match=r"nothing of 'old' fits this space.*x.*; here there are depth"):
        run(spec(place, "b", param_space={"depth": choice([1, 2])}, warm_start=["old"]), progress="off")
    with pytest.raises(SpecError, match="RandomSearcher learns nothing of others; bohb"):
        run(spec(place, "c", searcher="random", warm_start=["old"]), progress="off")
    assert not {"a", "b", "c"} & set(open_store(str(place)).names())


@pytest.mark.parametrize("name", ["evolution", "cqr", "forest"])
def test_others_that_learn_take_it_too(place: Path, name: str) -> None:
    searcher = {"name": name, "random_fraction": 0}
    warm = run(spec(place, f"by-{name}", trials=6, searcher=searcher, warm_start=["old"]), progress="off")
    assert sum(trial.config["kind"] == "b" for trial in warm) >= 4


def test_a_config_of_another_space_is_completed() -> None:
    generator = np.random.default_rng(0)
    space = Space({"x": uniform(0, 1), "y": uniform(5, 6)})
    found, unfit = fitted(space, {"x": 0.25, "y": 9.0, "z": 1}, generator)
    assert found is not None
    assert found["x"] == 0.25
    assert 5 <= found["y"] <= 6
    assert unfit == {"y", "z"}
    assert fitted(space, {"z": 1}, generator) == (None, {"z"})
