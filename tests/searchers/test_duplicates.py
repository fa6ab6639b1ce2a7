"""`search.duplicates`: configs of a finite space are tried once, and a space that is used up ends the search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tune_platform import Budget, SearchSpec, SpecError, report, run
from tune_platform.protocol.searcher import Outcome, PastTrial
from tune_platform.registry import make_searcher
from tune_platform.space import Space, choice, randint, uniform, when

SIX = Space({"a": choice([1, 2, 3]), "b": choice(["x", "y"])})
SEARCHERS = ("random", "tpe", "bohb", "screen", "evolution", "cqr")


def start(name: str, space: Space = SIX, duplicates: str = "avoid") -> Any:
    searcher: Any = make_searcher(name)
    searcher.duplicates = duplicates
    searcher.setup(space, mode=["min"], seed=0)
    return searcher


def drive(searcher: Any, numbers: range) -> list[PastTrial]:
    """Ask and tell, until nothing is left."""
    found = []
    for number in numbers:
        suggestion = searcher.ask(number)
        if suggestion is None:
            break
        value = float(suggestion.config["a"])
        outcome = Outcome("completed", value, 1, (value,), suggestion.config, 1.0, ((1.0, value),))
        searcher.tell(number, outcome)
        found.append(PastTrial(number, suggestion.config, suggestion.memo or {}, outcome))
    return found


def words(past: list[PastTrial]) -> list[str]:
    return [json.dumps(trial.config, sort_keys=True) for trial in past]


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_space_that_is_used_up_ends_the_search_and_says_so(name: str) -> None:
    searcher = start(name)
    past = drive(searcher, range(20))
    assert len(past) == len(set(words(past))) == 6
    assert searcher.exhausted.startswith("all 6 configs of the space have been tried")
    assert searcher.ask(30) is None
    resumed = start(name)
    resumed.restore(past[:4])
    assert sorted(words(drive(resumed, range(4, 20)))) == sorted(words(past[4:]))


@pytest.mark.parametrize("name", SEARCHERS)
def test_duplicates_are_allowed_where_they_are_wanted(name: str) -> None:
    assert len(drive(start(name, duplicates="allow"), range(20))) == 20


@pytest.mark.parametrize("name", SEARCHERS)
def test_start_points_count_as_tried(name: str) -> None:
    searcher = start(name)
    searcher.observe(0, {"a": 2, "b": "y"})
    past = drive(searcher, range(1, 20))
    assert len(past) == 5
    assert {"a": 2, "b": "y"} not in [trial.config for trial in past]


@pytest.mark.parametrize("name", SEARCHERS)
def test_conditions_and_constraints_leave_fewer_configs(name: str) -> None:
    inner = {"a": choice([1, 2]), "n": when(randint(0, 3), {"a": 2})}
    assert len(drive(start(name, Space(inner)), range(20))) == 4
    searcher = start(name, Space({"a": randint(0, 4), "b": randint(0, 4)}, "a < b"))
    assert len(drive(searcher, range(20))) == 6
    assert searcher.exhausted.startswith("all 6 configs of the space that the constraints allow")


def test_a_space_without_an_end_keeps_nothing() -> None:
    searcher = start("random", Space({"a": uniform(0, 1)}))
    drive(searcher, range(20))
    assert searcher.state() == {"observed": [], "tried": []}


def test_random_search_takes_its_state_over() -> None:
    searcher = start("random")
    past = drive(searcher, range(3))
    state = json.loads(json.dumps(searcher.state()))
    resumed = start("random")
    resumed.load_state(state)
    assert sorted(words(past + drive(resumed, range(3, 20)))) == sorted(set(words(drive(start("random"), range(20)))))


def train(config: dict[str, Any]) -> None:
    report({"loss": float(config["a"])})


def spec(place: Path, **given: Any) -> SearchSpec:
    return SearchSpec(
        trainable=train, param_space=SIX.param_space, metric="loss", mode="min", backend="inline", name="it",
        storage=str(place), budget=Budget(trials=20), **given,
    )  # fmt: skip


def test_a_search_that_learns_avoids_them_by_default_and_random_search_does_not(tmp_path: Path) -> None:
    results = run(spec(tmp_path / "1", searcher={"name": "bohb"}))
    assert len(results) == 6
    assert len(run(spec(tmp_path / "2", searcher="random"))) == 20
    assert len(run(spec(tmp_path / "3", searcher="random", duplicates="avoid"))) == 6
    assert spec(tmp_path, searcher="random", duplicates="avoid").to_dict()["search"]["duplicates"] == "avoid"


def test_a_wrong_word_gets_one_message(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"duplicates: .*allow.*avoid"):
        spec(tmp_path, duplicates="avid")


def test_the_last_of_many_is_found() -> None:
    space = Space({"a": randint(0, 50), "b": randint(0, 20)})
    searcher = start("random", space)
    past = drive(searcher, range(1050))
    assert len(past) == len(set(words(past))) == 1000
    assert np.unique([trial.config["a"] for trial in past]).size == 50
