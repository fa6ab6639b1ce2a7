"""Which searcher and scheduler a search has that names none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tune_platform import Budget, SearchSpec, resume, run
from tune_platform.backends.simulated import SimulatedBackend
from tune_platform.cli.app import main
from tune_platform.errors import SpecError
from tune_platform.space import grid_search, uniform
from tune_platform.spec import resolve
from tune_platform.store.sql import open_store

MODEL = "screen"


def train(config: Mapping[str, Any]) -> None:
    """Stand for a trainable whose curves are simulated."""


def spec(**more: Any) -> SearchSpec:
    parts: dict[str, Any] = {"param_space": {"x": uniform(0, 1)}, "budget": Budget(trials=60), **more}
    return SearchSpec(trainable=train, metric="loss", mode="min", **parts)


def parts(one: SearchSpec) -> tuple[Any, Any]:
    return one.searcher, one.scheduler


@pytest.mark.parametrize(
    ("given", "searcher", "scheduler"),
    [
        ({}, MODEL, {"name": "asha", "min": 2}),
        ({"stop": {"step": 27}}, MODEL, {"name": "asha", "max": 27}),
        ({"stop": {"step": 1}}, MODEL, "fifo"),
        ({"budget": Budget(time=60.0)}, MODEL, {"name": "asha", "min": 2}),
        ({"budget": Budget(trials=19)}, "random", "fifo"),
        ({"max_concurrent": 31}, "random", "fifo"),
        ({"param_space": {"x": grid_search([1, 2, 3])}}, "random", "fifo"),
        ({"param_space": {"x": 1}}, "random", {"name": "asha", "min": 2}),
        ({"param_space": lambda trial: {"x": trial.suggest_float("x", 0, 1)}}, "random", {"name": "asha", "min": 2}),
        ({"metric": ("loss", "cost"), "mode": ("min", "min")}, "random", "fifo"),
        ({"scheduler": {"name": "pbt", "interval": 5}}, "random", {"name": "pbt", "interval": 5}),
        ({"searcher": "random"}, "random", {"name": "asha", "min": 2}),
        ({"scheduler": "fifo"}, MODEL, "fifo"),
        ({"searcher": "random", "scheduler": "fifo", "budget": Budget(time=9.0)}, "random", "fifo"),
    ],
)  # fmt: skip
def test_what_is_chosen(given: dict[str, Any], searcher: Any, scheduler: Any) -> None:
    given = {"metric": "loss", "mode": "min", "param_space": {"x": uniform(0, 1)}, "budget": Budget(trials=60), **given}
    assert parts(SearchSpec(trainable=train, **given)) == (searcher, scheduler)


def test_what_was_chosen_is_said_and_what_was_named_is_not() -> None:
    assert spec(stop={"step": 27}).chosen() == [
        "schedule: asha, max 27 (trials report up to 27 times)",
        "search: screen (one objective, and enough trials for a model)",
    ]
    assert spec(searcher="random", scheduler="fifo").chosen() == []


def test_a_file_may_leave_them_out_and_an_option_needs_a_name() -> None:
    data = {"version": 1, "entrypoint": "m:f", "objective": {"metric": "a", "mode": "min"}, "space": {},
            "budget": {"time": 60}}  # fmt: skip
    found, _ = resolve({**data, "search": {"seed": 7}})
    assert (found.seed, found.scheduler) == (7, {"name": "asha", "min": 2})
    assert parts(SearchSpec.from_dict(found.to_dict())) == parts(found), "a spec as data names what was chosen"
    with pytest.raises(SpecError, match="min: whose"):
        resolve({**data, "schedule": {"min": 2}})


def curve(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    return {"loss": config["x"] + 1 / step} if step <= int(config["steps"]) else None


@pytest.mark.parametrize(("steps", "stopped"), [(1, False), (9, True)])
def test_trials_that_report_once_are_never_stopped(tmp_path: Path, steps: int, stopped: bool) -> None:
    one = spec(param_space={"x": uniform(0, 1), "steps": steps}, storage=tmp_path, backend=SimulatedBackend(curve))
    assert one.scheduler == {"name": "asha", "min": 2}
    statuses = {trial.status for trial in run(one, progress="off").trials()}
    assert ("STOPPED" in {str(status).upper() for status in statuses}) is stopped


def test_an_experiment_keeps_what_was_chosen_when_it_began(tmp_path: Path) -> None:
    first = spec(storage=tmp_path, backend=SimulatedBackend(curve), budget=Budget(trials=4),
                 param_space={"x": uniform(0, 1), "steps": 3})  # fmt: skip
    run(first, name="old", progress="off")
    with open_store(tmp_path) as store, store.open("old") as experiment:
        begun = dict(experiment.spec)
        assert (begun["search"]["name"], begun["schedule"]) == ("random", {"name": "fifo"})
        later = first.model_copy(update={"backend": SimulatedBackend(curve)})
        later._chosen.update(searcher="", scheduler="")
        later.__dict__.update(searcher="bohb", scheduler="asha")  # as another version would have chosen
    again = resume("old", storage=tmp_path, spec=later, extend={"trials": 30}, progress="off")
    assert len(again.trials()) == 34
    with open_store(tmp_path) as store, store.open("old") as experiment:
        assert experiment.spec["schedule"] == begun["schedule"]
    assert not [trial for trial in again.trials() if str(trial.status).upper() == "STOPPED"]


def test_check_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(
        "version: 1\nentrypoint: json:dumps\nobjective: {metric: a, mode: min}\nstop: {step: 9}\n"
        "space: {x: {type: float, low: 0, high: 1}}\nbudget: {trials: 50}\n"
    )
    from click.testing import CliRunner

    said = CliRunner().invoke(main, ["check", str(file), "--set", f"storage={tmp_path}"])
    assert said.exit_code == 0, said.output
    assert "schedule: asha, max 9 (trials report up to 9 times)" in said.output
