"""One table of options: both sides take each other's words, and the docs have every option."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tune_platform import Budget, SearchSpec, uniform
from tune_platform.errors import SpecError
from tune_platform.spec import NOT_IN_FINGERPRINT, OPTIONS, json_schema, load_spec, resolve
from tune_platform.spec.file import SpecFile
from tune_platform.spec.words import file_key

ROOT = Path(__file__).parents[2]
OWN = """\
version: 1
entrypoint: a:b
objective: {metric: loss, mode: max, target: 2}
space: {x: {type: float, low: 0, high: 1}}
search: {name: tpe, n_startup_trials: 3, seed: 7, initial: [{x: 0.5}], prefetch: 2}
schedule: {name: asha, max: 9}
budget: {trials: 5, num_samples: 4, concurrency: 3, time: 1h}
storage: {path: here}
"""
PYTHONS = """\
version: 1
trainable: a:b
metric: loss
mode: max
param_space: {x: {type: float, low: 0, high: 1}}
seed: 7
start_points: [{x: 0.5}]
prefetch: 2
searcher: {name: tpe, n_startup_trials: 3}
scheduler: {name: asha, max: 9}
num_samples: 4
max_concurrent: 3
budget: {trials: 5, time: 1h, target: 2}
storage: here
"""


def load(text: str, folder: Path) -> SearchSpec:
    path = folder / "spec.yaml"
    path.write_text(text)
    return load_spec(path)


@pytest.fixture
def own(tmp_path: Path) -> SearchSpec:
    return load(OWN, tmp_path)


def test_every_option_has_an_argument_and_a_key() -> None:
    blocks = {option.python.split(".")[0] for option in OPTIONS}
    assert blocks | {"callbacks"} == set(SearchSpec.model_fields)  # they are objects of a process, in no file
    assert {option.file.split(".")[0] for option in OPTIONS} | {"version"} == set(SpecFile.model_fields)
    assert len({option.python for option in OPTIONS}) == len({option.file for option in OPTIONS}) == len(OPTIONS)
    inner = {option.python for option in OPTIONS if "." in option.python}
    assert inner == {f"budget.{name}" for name in Budget.model_fields}


def test_a_file_takes_pythons_words(own: SearchSpec, tmp_path: Path) -> None:
    assert load(PYTHONS, tmp_path).to_dict() == own.to_dict()
    mixed = PYTHONS.replace("searcher:", "search:").replace("prefetch: 2\n", "").replace("3}", "3, prefetch: 2}")
    assert load(mixed, tmp_path).to_dict() == own.to_dict()
    short = load(PYTHONS.replace("{name: tpe, n_startup_trials: 3}", "grid"), tmp_path)
    assert (short.searcher, short.seed) == ("grid", 7)


def test_a_file_takes_several_metrics_in_pythons_words(tmp_path: Path) -> None:
    head = "version: 1\ntrainable: a:b\n"
    one = load(head + "metric: [a, b]\nmode: [min, max]\n", tmp_path)
    assert (one.metrics, one.modes) == (("a", "b"), ("min", "max"))
    assert load(head + "metric: [a, b]\nmode: min\n", tmp_path).modes == ("min", "min")


def test_python_takes_the_files_words(own: SearchSpec) -> None:
    given: dict[str, Any] = {
        "entrypoint": "a:b", "objective": {"metric": "loss", "mode": "max", "target": 2},
        "space": {"x": uniform(0, 1)},
        "search": {"name": "tpe", "n_startup_trials": 3, "seed": 7, "initial": [{"x": 0.5}], "prefetch": 2},
        "schedule": {"name": "asha", "max": 9}, "storage": {"path": "here"},
        "budget": {"trials": 5, "num_samples": 4, "concurrency": 3, "time": "1h"},
    }  # fmt: skip
    assert SearchSpec(**given).to_dict() == own.to_dict()
    assert "num_samples" in given["budget"], "what is given stays as it is"
    several = SearchSpec(entrypoint="a:b", objective=[{"metric": "a", "mode": "min"}, {"metric": "b", "mode": "max"}])  # type: ignore[call-arg]
    assert (several.metrics, several.modes) == (("a", "b"), ("min", "max"))
    only = SearchSpec(trainable="a:b", metric="m", mode="min", search={"seed": 3})  # type: ignore[call-arg]
    assert (only.searcher, only.seed) == ("random", 3)
    budget = SearchSpec(trainable="a:b", objective={"metric": "m", "mode": "min", "target": 1}, budget=Budget(trials=2))  # type: ignore[call-arg]
    assert (budget.budget.trials, budget.budget.target) == (2, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": "tpe", "searcher": "grid"}, "SearchSpec: searcher: is given twice: also as search"),
        ({"search": {"seed": 1}, "seed": 2}, "SearchSpec: seed: is given twice: also as search.seed"),
        ({"objective": {"metric": "a"}}, "SearchSpec: metric: is given twice: also as objective.metric"),
        ({"objective": "a"}, "SearchSpec: objective: keys and values are wanted: metric, mode, target"),
        ({"storage": {"url": 3}}, "SearchSpec: storage: got 3"),
    ],
)
def test_what_is_given_twice_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as raised:
        SearchSpec(**{"trainable": "a:b", "metric": "m", "mode": "min", **values})
    assert str(raised.value).startswith(message)


def test_flags_take_both_words(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(PYTHONS)
    spec, sources = resolve(
        path, {"TUNE_PLATFORM_SEED": "9"}, {"scheduler.max": 27, "max_concurrent": 8, "metric": "m"}
    )
    assert (spec.seed, spec.scheduler["max"], spec.max_concurrent, spec.metric) == (9, 27, 8, "m")
    assert sources["search.seed"] == "environment TUNE_PLATFORM_SEED"
    assert (sources["schedule.max"], sources["budget.concurrency"]) == ("flag", "flag")
    assert sources["search.initial"] == "spec.yaml"
    assert [file_key(key) for key in ("seed", "searcher.name", "search.seed", "resources.cpu")] == [
        "search.seed", "search.name", "search.seed", "resources.cpu",
    ]  # fmt: skip


def test_the_schema_has_both_words() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import yaml

    for text in (OWN, PYTHONS):
        jsonschema.validate(yaml.safe_load(text), json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"version": 1, "trainable": "a:b", "metric": "loss"}, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(PYTHONS), "seed": "x"}, json_schema())


def test_options_of_how_long_to_wait() -> None:
    common: dict[str, Any] = {"trainable": "a:b", "metric": "m", "mode": "min"}
    spec = SearchSpec(**common)
    assert (spec.grace, spec.store_patience, spec.misfit_after, spec.node_patience) == (60, 300, None, 3600)
    other = SearchSpec(**{**common, "grace": "2m", "store_patience": 0, "misfit_after": "1h"})
    assert (other.grace, other.store_patience, other.misfit_after) == (120, 0, 3600)
    assert other.fingerprint() == spec.fingerprint()
    assert other.differences(spec.to_dict()) == []
    again = SearchSpec.from_dict(other.to_dict())
    assert (again.grace, again.store_patience, again.misfit_after) == (120, 0, 3600)


def test_the_docs_have_every_option() -> None:
    page = (ROOT / "docs/spec.md").read_text()
    rows = re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", page, re.MULTILINE)
    for option in OPTIONS:
        cells = [python for file, python in rows if re.match(rf"`{re.escape(option.file)}[`.]", file)]
        assert cells, f"docs/spec.md has no row for {option.file}"
        said = {word for cell in cells for word in re.findall(r"`([^`]*)`", cell)}
        assert option.python in said or (option.python == option.file and "same" in cells), option
    (sentence,) = re.findall(r"all\s+keys count but (.*?)\. ", page, re.DOTALL)
    assert set(re.findall(r"`([^`]*)`", sentence)) == set(NOT_IN_FINGERPRINT)
