"""A search is resumed with more values at the end of a list of choices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from click.testing import CliRunner

from tune_platform import PBT, Budget, Results, SearchSpec, choice, load, report, resume, run, uniform
from tune_platform.claim import claim
from tune_platform.cli import main
from tune_platform.engine import snapshot
from tune_platform.errors import ExperimentError
from tune_platform.searchers import OptunaSearcher, RandomSearcher
from tune_platform.spec.growth import added_choices
from tune_platform.store.sql import open_store

SHORT, LONG = ["adam", "sgd"], ["adam", "sgd", "lion", "adan"]


def train(config: dict[str, Any]) -> None:
    report({"loss": len(config["optimizer"]) + config["lr"]})


def search(storage: Path, values: list[Any], **changes: Any) -> SearchSpec:
    arguments: dict[str, Any] = {
        "name": "grown",
        "trainable": train,
        "param_space": {"optimizer": choice(values), "lr": uniform(0, 1)},
        "metric": "loss",
        "mode": "min",
        "budget": Budget(trials=8),
        "max_concurrent": 1,
        "prefetch": 0,
        "backend": "inline",
        "storage": storage,
        "progress": "off",
        "seed": 3,
    }
    return SearchSpec(**arguments | changes)


def tried(results: Results) -> list[Any]:
    return [trial.config for trial in results.trials()]


@pytest.mark.parametrize("searcher", ["random", "tpe", "cmaes", "nsgaii"])
def test_the_new_values_are_tried_and_every_later_resume_is_exact(tmp_path: Path, searcher: str) -> None:
    for place, parts in (("whole", [12]), ("cut", [1, 3, 8])):
        run(search(tmp_path / place, SHORT, searcher=searcher))
        before = tried(load("grown", storage=tmp_path / place))
        resume("grown", spec=search(tmp_path / place, LONG, searcher=searcher), extend={"trials": parts[0]})
        for more in parts[1:]:  # by the stored spec, which has the longer list
            resume("grown", storage=tmp_path / place, extend={"trials": more}, progress="off")
        assert tried(load("grown", storage=tmp_path / place))[:8] == before
    whole, cut = (load("grown", storage=tmp_path / place) for place in ("whole", "cut"))
    assert len(whole) == 20
    assert {config["optimizer"] for config in tried(whole)[8:]} & {"lion", "adan"}
    assert tried(whole) == tried(cut)
    assert whole.spec["space"]["optimizer"]["values"] == LONG
    assert [more for _, more in cut.choices_added()] == [{"optimizer": ["lion", "adan"]}]


def test_the_list_and_the_fact_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(search(tmp_path, SHORT))
    with monkeypatch.context() as patched:

        def away(*_: Any, **__: Any) -> None:
            raise RuntimeError("cut")

        patched.setattr("tune_platform.store.experiment.SqlExperiment.append", away)
        with pytest.raises(RuntimeError, match="cut"):
            resume("grown", spec=search(tmp_path, LONG), extend={"trials": 1})
    left = load("grown", storage=tmp_path)
    assert (left.spec["space"]["optimizer"]["values"], left.choices_added()) == (SHORT, [])


def test_run_with_if_exists_goes_on_too(tmp_path: Path) -> None:
    run(search(tmp_path, SHORT))
    results = run(search(tmp_path, LONG), if_exists="resume")
    assert len(results) == 8  # the budget was used up; more of it is asked for with `extend`
    assert results.choices_added()[0][1] == {"optimizer": ["lion", "adan"]}


def test_a_snapshot_from_before_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "due", lambda seq, last: seq >= last + 10)
    run(search(tmp_path, SHORT, searcher="random"))
    with open_store(tmp_path) as store, store.open("grown") as experiment:
        assert list(experiment.snapshots())
    read: list[int] = []
    monkeypatch.setattr(snapshot, "load", lambda *_: read.append(1))
    resume("grown", spec=search(tmp_path, LONG, searcher="random"), extend={"trials": 1})
    assert not read


def refusal(storage: Path, short: SearchSpec, longer: SearchSpec) -> str:
    run(short)
    with pytest.raises(ExperimentError) as refused:
        resume("grown", spec=longer)
    assert load("grown", storage=storage).choices_added() == []
    return str(refused.value)


def test_a_grid_says_why_not(tmp_path: Path) -> None:
    def grid(values: list[str]) -> SearchSpec:
        space = {"optimizer": choice(values), "lr": choice([0.1, 0.2])}
        return search(tmp_path, values, searcher="grid", param_space=space)

    said = refusal(tmp_path, grid(SHORT), grid(LONG))
    assert "cannot go on with more choices (optimizer: lion, adan): a grid is counted through" in said
    assert "begin another search, under another name, with the new values alone" in said


def test_searchers_that_do_not_say_that_they_can(tmp_path: Path) -> None:
    class Mine(RandomSearcher):
        longer_choices = False

    said = refusal(tmp_path, search(tmp_path, SHORT, searcher=Mine()), search(tmp_path, LONG, searcher=Mine()))
    assert "the searcher Mine does not say that it can (`longer_choices`)" in said
    assert not OptunaSearcher(optuna.samplers.TPESampler(seed=0)).longer_choices


def test_a_population_keeps_its_space(tmp_path: Path) -> None:
    with claim(search(tmp_path, SHORT, scheduler=PBT(interval=1))):
        pass
    with pytest.raises(ExperimentError, match="the scheduler PBT changes configs within the space"):
        resume("grown", spec=search(tmp_path, LONG, scheduler=PBT(interval=1)))


OPT: dict[str, Any] = {"type": "choice", "values": ["a", {"b": {"type": "int", "low": 1, "high": 3}}], "when": {"c": 1}}


@pytest.mark.parametrize(
    ("now", "added"),
    [
        ({"c": 1, "in": {"o": OPT}}, {}),
        ({"c": 1, "in": {"o": OPT | {"values": [*OPT["values"], "z"]}}}, {"in/o": ["z"]}),
        ({"c": 1, "in": {"o": OPT | {"values": ["z", *OPT["values"]]}}}, None),  # not at the end
        ({"c": 1, "in": {"o": OPT | {"values": OPT["values"][:1]}}}, None),  # fewer
        ({"c": 1, "in": {"o": OPT | {"values": [*OPT["values"], "z"], "when": {"c": 2}}}}, None),
        ({"c": 1, "in": {"o": OPT | {"values": [*OPT["values"], {"g": {"type": "grid", "values": [1]}}]}}}, None),
        ({"c": 2, "in": {"o": OPT | {"values": [*OPT["values"], "z"]}}}, None),
        ({"in": {"o": OPT}}, None),
    ],
)
def test_what_counts_as_more_choices(now: Any, added: Any) -> None:
    assert added_choices(now, {"c": 1, "in": {"o": OPT}}) == added


def test_the_command_line_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("toy_training.py").write_text(
        "from tune_platform import report\n\n\ndef train(config):\n    report({'loss': len(config['optimizer'])})\n"
    )
    data = {
        "version": 1,
        "name": "grown",
        "entrypoint": "toy_training:train",
        "objective": {"metric": "loss", "mode": "min"},
        "space": {"optimizer": {"type": "choice", "values": SHORT}},
        "budget": {"trials": 3},
        "backend": "inline",
    }

    def tune(*words: str) -> str:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return result.output

    Path("short.yaml").write_text(yaml.safe_dump(data))
    data["space"] = {"optimizer": {"type": "choice", "values": LONG}}
    Path("long.yaml").write_text(yaml.safe_dump(data))
    tune("run", "short.yaml", "--progress", "off")
    assert "has fewer choices; `run --if-exists resume` adds optimizer: lion, adan" in tune("check", "long.yaml")
    tune("resume", "grown", "long.yaml", "--extend", "trials=2", "--progress", "off")
    assert "choices    optimizer: lion, adan: tried since" in tune("show", "grown")
    assert "a new driver took over, with more choices: optimizer: lion, adan" in tune("why", "grown", "4")
    assert json.loads(tune("show", "grown", "--json"))["counts"] == {"COMPLETED": 5}
