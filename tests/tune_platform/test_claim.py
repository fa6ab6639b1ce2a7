"""A run whose name is taken, names that are made up, and starts that failed."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tune_platform import SearchSpec, load, report, resume, run, uniform
from tune_platform.backends.inline import InlineBackend
from tune_platform.claim import claim
from tune_platform.errors import ExperimentError, NameTakenError, SpecError
from tune_platform.store.sql import open_store


def train(config: Mapping[str, Any]) -> None:
    report({"loss": config["x"]})


@pytest.fixture(params=["folder", "database"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "results") if request.param == "folder" else f"sqlite:///{tmp_path}/all.db"


Make = Callable[..., SearchSpec]


@pytest.fixture
def make(storage: str) -> Make:
    """Return a function that makes a spec: two trials of `train`, unless told otherwise."""

    def spec(**changes: Any) -> SearchSpec:
        fields: dict[str, Any] = {
            "trainable": train, "param_space": {"x": uniform(0, 1)}, "metric": "loss", "mode": "min", "name": "toy",
            "num_samples": 2, "storage": storage, "backend": "inline",
        }  # fmt: skip
        return SearchSpec(**(fields | changes))

    return spec


def names(storage: str) -> list[str]:
    with open_store(storage) as store:
        return store.names()


class NoRay(InlineBackend):
    """A backend that cannot start."""

    def start(self, job: Any) -> Any:
        raise ExperimentError("Ray is not there")


# ------------------------------------------------------------------------------------------ if_exists


def test_an_error_names_the_argument_for_each_choice(make: Make, storage: str) -> None:
    run(make())
    with pytest.raises(NameTakenError) as caught:
        run(make())
    text = str(caught.value)
    assert text.startswith(f"experiment 'toy' exists already in {storage} (finished: all 2 trials are done)")
    spec = make()
    for each in ("resume", "new", "replace"):
        (typed,) = re.findall(rf'run\(spec, if_exists="{each}"\)', text)
        assert eval(typed).status == "finished"
    assert names(storage) == ["toy", "toy-2"]
    with pytest.raises(NameTakenError, match=r'run\(spec, name=\'toy-2\', if_exists="new"\) .* \'toy-2-2\''):
        run(spec, name="toy-2")


def test_resume_goes_on(make: Make) -> None:
    first = run(make(), if_exists="resume")
    before = [(trial.number, dict(trial.config), trial.created) for trial in first]
    assert [(trial.number, dict(trial.config), trial.created) for trial in run(make(), if_exists="resume")] == before


def test_resume_says_what_differs(make: Make, storage: str) -> None:
    run(make())
    with pytest.raises(ExperimentError, match=r"search\.seed: 9 here, 0 there"):
        run(make(seed=9), if_exists="resume")
    assert load("toy", storage=storage).status == "finished"


def test_new_ones_are_numbered(make: Make, storage: str) -> None:
    assert [run(make(), if_exists="new").name for _ in range(3)] == ["toy", "toy-2", "toy-3"]
    long = run(make(name="a" * 100)).name
    assert run(make(name=long), if_exists="new").name == "a" * 98 + "-2"


def test_replace_deletes_what_was_found(make: Make, storage: str) -> None:
    run(make(num_samples=3, checkpoint={"at_end": True}))
    results = run(make(seed=1), if_exists="replace")
    assert (results.name, len(results)) == ("toy", 2)
    assert names(storage) == ["toy"]


def test_the_spec_may_say_it(make: Make, storage: str) -> None:
    spec = make(if_exists="replace")
    assert SearchSpec.from_dict(spec.to_dict()).if_exists == "replace"
    assert spec.fingerprint() == make().fingerprint()
    run(spec)
    assert len(run(spec)) == 2
    with pytest.raises(NameTakenError):
        run(spec, if_exists="error")
    with pytest.raises(SpecError, match=r"if_exists: got 'repalce'; allowed: error, .* .did you mean 'replace'"):
        run(spec, if_exists="repalce")
    with pytest.raises(SpecError, match="if_exists"):
        make(if_exists="sometimes")


@pytest.mark.parametrize("choice", ["resume", "replace"])
def test_one_that_is_being_run_is_let_alone(make: Make, storage: str, choice: str) -> None:
    refused: list[str] = []

    def again(*_: Any) -> None:
        if not refused:
            with pytest.raises(ExperimentError, match=r"'toy' is being run by \S+:\d+") as caught:
                run(make(), if_exists=choice)
            refused.append(str(caught.value))

    results = run(make(), listeners=[again])
    assert len(refused) == 1
    assert (results.status, results.counts) == ("finished", {"COMPLETED": 2})


# ------------------------------------------------------------------------------------------ names


def test_a_name_is_made_of_the_documented_letters(make: Make) -> None:
    def inner(config: Mapping[str, Any]) -> None:
        report({"loss": 1.0})

    class Größe:
        def __call__(self, config: Mapping[str, Any]) -> None:
            report({"loss": 1.0})

    named: Any = lambda config: report({"loss": config["x"]})  # noqa: E731
    for trainable in (inner, named, Größe()):
        name = run(make(name="", trainable=trainable)).name
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name), name


def test_runs_of_one_second_have_names_of_their_own(make: Make, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    found = [run(make(name="")).name for _ in range(3)]
    assert found == ["train-20260101-000000", "train-20260101-000000-2", "train-20260101-000000-3"]
    assert names(storage) == sorted(found)


RACE = """
import sys, time
time.strftime = lambda *_: "20260101-000000"
from tune_platform import SearchSpec
from tune_platform.claim import claim
spec = SearchSpec(trainable="tests.tune_platform.test_claim:train", metric="loss", mode="min", storage=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    with claim(spec) as claimed:
        print(claimed.experiment.name, flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_processes_of_one_second_have_names_of_their_own(storage: str) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, storage], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(3)
    ]  # fmt: skip
    found = []
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in started:
            assert process.stdout is not None
            found += [process.stdout.readline().strip() for _ in range(5)]
    finally:
        for process in started:
            process.communicate("\n")
    assert len(set(found)) == 15
    assert names(storage) == sorted(found)


# ------------------------------------------------------------------------------------------ starts that failed


def test_a_start_that_failed_does_not_keep_the_name(make: Make, storage: str) -> None:
    for _ in range(2):
        with pytest.raises(ExperimentError, match="Ray is not there"):
            run(make(backend=NoRay()))
    assert load("toy", storage=storage).status == "failed"
    results = run(make())
    assert (results.name, results.status, len(results)) == ("toy", "finished", 2)
    with pytest.raises(NameTakenError):
        run(make())


def test_a_start_that_failed_can_be_resumed(make: Make, storage: str) -> None:
    with pytest.raises(ExperimentError, match="Ray is not there"):
        run(make(backend=NoRay()))
    results = resume("toy", storage=storage, spec=make())
    assert (results.status, results.counts) == ("finished", {"COMPLETED": 2})


def test_an_experiment_that_another_process_is_about_to_start_keeps_its_name(make: Make, storage: str) -> None:
    code = RACE.replace("with claim(spec)", "with claim(spec, name='toy')").replace("range(5)", "range(1)")
    code = code.replace("        print", "        print(claimed.experiment.name, flush=True); sys.stdin.readline()\n#")
    command = [sys.executable, "-c", code, storage]
    cwd = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "toy\n"]
        with pytest.raises(NameTakenError):
            run(make())
        process.communicate("\n\n")
    assert run(make()).status == "finished"


def test_folders_of_somebody_else_are_let_alone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mine" / "toy").mkdir(parents=True)
    (tmp_path / "mine" / "toy" / "thesis.tex").write_text("x")
    with pytest.raises(ExperimentError, match=r"holds other files already, such as 'thesis\.tex'"):
        run(make(storage=str(tmp_path / "mine")), if_exists="replace")
    assert (tmp_path / "mine" / "toy" / "thesis.tex").read_text() == "x"


def test_a_claim_lasts_as_long_as_its_context(make: Make) -> None:
    with claim(make()) as claimed:
        assert claimed.fresh
        assert claimed.experiment.row().status == "interrupted"
    with pytest.raises(ExperimentError, match="is closed"):
        claimed.experiment.row()


def test_a_store_that_can_only_be_read_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        store.create("toy", {}, created=0.0).close()

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr("tune_platform.store.database._sqlite", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may do anything but on a read-only disk
    with open_store(tmp_path) as store, pytest.raises(ExperimentError) as refused:
        store.open("toy", exact=True)
    assert str(refused.value).endswith(f"{tmp_path / 'toy'} can be read but not written: it is on a read-only disk, "
                                       "or somebody else's")  # fmt: skip
    assert "\n" not in str(refused.value)
