from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tune_platform.cli.conftest import SPEC, Call, Make
from tune_platform.store.sql import open_store


def requests(storage: Path) -> list[tuple[str, int | None, dict[str, Any]]]:
    with open_store(storage) as store, store.open("digits", readonly=True) as experiment:
        return [(row.action, row.trial, dict(row.data)) for row in experiment.requests(0)]


@pytest.mark.parametrize(
    ("words", "request_", "said"),
    [
        (["stop", "digits"], ("stop", None, {}), "its 1 running ones finish, then the search ends"),
        (["stop", "digits", "--now"], ("cancel", None, {}), "its 1 running trials are stopped"),
        (["stop", "digits", "3"], ("stop", 3, {}), "trial 3 is stopped once its present step is over, which is kept"),
        (["stop", "digits", "3", "--now"], ("cancel", 3, {}), "trial 3 is stopped"),
        (["pause", "digits"], ("pause", None, {}), "no new trials start; running ones go on until `unpause`"),
        (["pause", "digits", "3"], ("pause", 3, {}), "trial 3 is put aside until `unpause`"),
        (["unpause", "digits"], ("unpause", None, {}), "trials start again"),
        (["unpause", "digits", "3"], ("unpause", 3, {}), "trial 3 goes on when there is room"),
        (
            ["enqueue", "digits", "lr=1e-3", "model/width=64"],
            ("enqueue", None, {"config": {"lr": 0.001, "model/width": 64}}),
            "one more trial with lr=0.001, model/width=64",
        ),
    ],
)
def test_a_request_is_left_and_said(
    call: Call, make: Make, storage: Path, words: list[str], request_: Any, said: str
) -> None:
    make(status="running")
    result = call(*words)
    assert result.stdout == ""
    assert result.stderr.startswith("digits: asked; ")
    assert said in result.stderr
    assert requests(storage) == [request_]


@pytest.mark.parametrize("verb", [["stop"], ["pause"], ["unpause"], ["enqueue"]])
def test_what_does_not_run_cannot_be_asked(call: Call, make: Make, storage: Path, verb: list[str]) -> None:
    make(status="finished", reason="all 4 trials are done")
    result = call(*verb, "digits", *(["lr=0.1"] if verb == ["enqueue"] else []), code=2)
    assert result.stderr == (
        "error: experiment 'digits' is not running (finished: all 4 trials are done). "
        "To go on with it: tune-platform resume digits\n"
    )
    assert requests(storage) == []


def test_an_ended_trial_cannot_be_stopped(call: Call, make: Make, storage: Path) -> None:
    make(status="running")
    assert "trial 1 of 'digits' has ended already: stopped" in call("stop", "digits", "1", code=2).stderr
    assert "has no trial 9" in call("stop", "digits", "9", code=2).stderr
    assert requests(storage) == []


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["lr=7"], "lr=7"),
        (["learning_rate=0.1"], "learning_rate"),
        (["optimizer=adam"], "adam"),
        (["optimizer=adamw", "momentum=0.5"], "momentum"),
        (["lr"], "key=value is wanted"),
    ],
)
def test_enqueue_checks_the_values(call: Call, make: Make, storage: Path, values: list[str], wanted: str) -> None:
    make(status="running")
    assert wanted in call("enqueue", "digits", *values, code=2).stderr
    assert requests(storage) == []


def test_enqueue_where_the_space_is_a_function(call: Call, make: Make, storage: Path) -> None:
    make(status="running", spec={**SPEC, "space": {"python": "my:space"}})
    assert "cannot be checked here" in call("enqueue", "digits", "lr=7").stderr
    assert requests(storage) == [("enqueue", None, {"config": {"lr": 7}})]


def test_tags_are_set_taken_off_and_listed_whether_it_runs_or_not(call: Call, make: Make) -> None:
    make()
    assert call("tag", "digits").stdout == ""
    assert call("tag", "digits", "paper", "draft").stdout == "draft\npaper\n"
    assert call("tag", "digits", "--remove", "draft").stdout == "paper\n"
    assert json.loads(call("ls", "--json").stdout)[0]["tags"] == ["paper"]
    assert "paper" in call("ls").stdout
    assert "1 to 40 letters" in call("tag", "digits", "two\nlines", code=2).stderr
    assert call("tag", "digits").stdout == "paper\n"
