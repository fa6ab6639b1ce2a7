"""What may stand in a space and a config besides plain numbers and text."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner

from tune_platform import Budget, SearchSpec, load, load_spec, report, resume, run
from tune_platform.cli import main
from tune_platform.errors import SpecError
from tune_platform.space import (
    Space,
    SpaceTrial,
    choice,
    constant,
    grid_search,
    loguniform,
    randint,
    sample_from,
    uniform,
    when,
)


class Size(NamedTuple):
    width: Any
    height: Any


def by_run(trial: SpaceTrial) -> dict[str, Any]:
    trial.suggest_float("lr", 1e-4, 1.0, log=True)
    if trial.suggest_categorical("kind", ["sgd", "adam"]) == "sgd":
        trial.suggest_float("momentum", 0.0, 0.9)
    return {"epochs": 10, "data": {"name": "digits"}}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------------ define by run


def test_what_is_suggested_and_not_returned_belongs_to_the_config() -> None:
    for seed in range(10):
        config = Space(by_run).sample(rng(seed))
        assert config["epochs"] == 10
        assert ("momentum" in config) == (config["kind"] == "sgd")
        assert Space(by_run).flatten(config) == {k: v for k, v in config.items() if k not in ("epochs", "data")}


def test_what_is_returned_under_a_parameters_name_stays_as_it_is() -> None:
    def space(trial: SpaceTrial) -> dict[str, Any]:
        return {"n": 2 * trial.suggest_int("n", 1, 3), "opt": {"lr": trial.suggest_float("opt/lr", 0, 1)}}

    config = Space(space).sample(rng())
    assert config["n"] in (2, 4, 6)
    assert set(config) == {"n", "opt"}


def test_a_start_point_keeps_its_constants() -> None:
    point = {"lr": 0.5, "epochs": 50, "data": {"name": "mnist"}, "note": "from a paper"}
    config = Space(by_run).complete(point, rng())
    assert {key: config[key] for key in point} == point
    assert config["kind"] in ("sgd", "adam")


@pytest.mark.parametrize("seed", range(10))
def test_a_start_point_may_leave_out_what_decides_whether_a_parameter_exists(seed: int) -> None:
    config = Space(by_run).complete({"momentum": 0.25}, rng(seed))
    assert (config["kind"], config["momentum"]) == ("sgd", 0.25)


def test_mistakes_in_a_start_point_of_a_function() -> None:
    with pytest.raises(SpecError, match=r"lr=3\.0 is not in Float"):
        Space(by_run).complete({"lr": 3.0}, rng())
    with pytest.raises(SpecError, match=r"'momentumm' in the space \(did you mean 'momentum'"):
        Space(by_run).complete({"momentumm": 0.3}, rng())
    with pytest.raises(SpecError, match=r"start_points: \[0\]: there is no parameter 'momentumm'"):
        SearchSpec(trainable=print, param_space=by_run, metric="x", mode="min", start_points=[{"momentumm": 0.3}])


# ------------------------------------------------------------------------------------------ numpy scalars


def plain_types(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(plain_types, value.values()))
    return all(map(plain_types, value)) if isinstance(value, (list, tuple)) else not isinstance(value, np.generic)


def test_scalars_of_numpy_are_values() -> None:
    low, high, one, nine = np.float32(1e-4), np.float32(0.1), np.int64(1), np.int32(9)
    space = Space(
        {
            "lr": loguniform(low, high),  # type: ignore[arg-type]
            "n": randint(one, nine),  # type: ignore[arg-type]
            "kind": choice(np.array([1, 2])),
            "nested": choice([[np.float32(0.1), (np.int64(2),)]]),
            "const": np.float32(0.3),
            "flag": constant(np.bool_(True)),
            "late": when(uniform(0, 1), {"kind": np.int64(2)}),
        }
    )
    config = space.sample(rng())
    assert plain_types(config)
    assert (config["const"], config["flag"], config["nested"]) == (0.3, True, [0.1, (2,)])
    point = {"lr": np.float32(0.1), "n": np.int64(3), "kind": np.int64(2), "flag": np.bool_(True)}
    completed = space.complete(point, rng())
    assert plain_types(completed)
    assert {key: completed[key] for key in point} == {"lr": 0.1, "n": 3, "kind": 2, "flag": True}


def test_scalars_of_numpy_in_the_points_and_configs_of_a_function() -> None:
    space = Space(lambda trial: {"lr": trial.suggest_float("lr", 0, 1), "seed": np.int64(3)})
    config = space.complete({"lr": np.float32(0.1), "scale": np.float16(0.5)}, rng())
    assert plain_types(config)
    assert config == {"lr": 0.1, "seed": 3, "scale": 0.5}


# ------------------------------------------------------------------------------------------ objects, tuples, keys


class Relu:
    pass


class Gelu:
    pass


def double(x: int) -> int:
    return 2 * x


OBJECTS: dict[str, Any] = {
    "act": choice([Relu, Gelu]),
    "scale": choice([double, abs]),
    "shape": choice([(3, 3), (5, 5)]),
    "grid": grid_search([(1,), (2,)]),
    "nested": {"kernel": (1, uniform(0, 1)), "cls": Relu},
    "sizes": {1: randint(1, 4), 2: 7},
    "branch": choice([{"kind": Relu, "x": uniform(0, 1)}, {"kind": Gelu}]),
    "late": when(uniform(0, 1), {"act": Gelu}),
    "epochs": 3,
}
SEEN: list[dict[str, Any]] = []


def sees(config: dict[str, Any]) -> None:
    SEEN.append(config)
    report({"loss": float(config["scale"](3))})


def sound(config: dict[str, Any]) -> bool:
    return (
        config["act"] in (Relu, Gelu)
        and config["scale"] in (double, abs)
        and config["shape"] in ((3, 3), (5, 5))
        and config["grid"] in ((1,), (2,))
        and type(config["nested"]["kernel"]) is tuple
        and config["nested"]["cls"] is Relu
        and set(config["sizes"]) == {1, 2}
        and config["branch"]["kind"] in (Relu, Gelu)
        and ("late" in config) == (config["act"] is Gelu)
    )


def search(place: Any, **given: Any) -> SearchSpec:
    values: dict[str, Any] = {
        "name": "objects", "trainable": sees, "param_space": OBJECTS, "metric": "loss", "mode": "min",
        "budget": Budget(trials=4), "storage": str(place), "backend": "inline",
    }  # fmt: skip
    return SearchSpec(**{**values, **given})


@pytest.mark.parametrize("searcher", ["random", "tpe", "nsgaii"])
def test_objects_tuples_and_keys_reach_the_training_code_as_they_are(tmp_path: Any, searcher: str) -> None:
    SEEN.clear()
    point = {"act": Gelu, "shape": (5, 5), "scale": double}
    results = run(search(tmp_path, searcher=searcher, start_points=[point]), progress="off")
    assert results.counts == {"COMPLETED": 4}
    assert len(SEEN) == 4
    assert all(map(sound, SEEN))
    assert {key: SEEN[0][key] for key in point} == point
    assert [trial.config for trial in results] == SEEN


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_they_are_the_same_after_resuming(tmp_path: Any, searcher: str) -> None:
    SEEN.clear()
    run(search(tmp_path, searcher=searcher), progress="off")
    first = list(SEEN)
    results = resume("objects", storage=tmp_path, extend={"trials": 3}, progress="off")
    assert results.counts == {"COMPLETED": 7}
    assert len(SEEN) == 7
    assert all(map(sound, SEEN))
    assert [trial.config for trial in load("objects", storage=tmp_path)] == SEEN
    assert SEEN[:4] == first


def test_the_file_form_gives_the_same_space() -> None:
    spec = search(".")
    data = json.loads(json.dumps(spec.to_dict()))
    again = SearchSpec.from_dict(data)
    assert again.fingerprint() == spec.fingerprint()
    for seed in range(5):
        assert again.space.sample(rng(seed)) == spec.space.sample(rng(seed))
        assert sound(again.space.sample(rng(seed)))


def test_a_spec_from_before_tuples_and_objects_were_kept_is_the_same() -> None:
    spec = search(".", param_space={"shape": choice([(1, 2), (3, 4)]), "keys": {1: 2}, "act": choice([Relu, Gelu])})
    old = spec.to_dict()
    names = [{"python": f"{__name__}:{name}"} for name in ("Relu", "Gelu")]
    old["space"] = {
        "shape": {"type": "choice", "values": [[1, 2], [3, 4]]},
        "keys": {"1": 2},
        "act": {"type": "choice", "values": names},
    }
    assert spec.differences(old) == []


def test_a_person_writes_an_object_by_its_name() -> None:
    space = Space({"act": choice([Relu, Gelu]), "shape": choice([(3, 3), (5, 5)])})
    config = space.complete({"act": f"{__name__}:Gelu", "shape": [5, 5]}, rng())
    assert config == {"act": Gelu, "shape": (5, 5)}
    assert type(config["shape"]) is tuple


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"args": argparse.Namespace(lr=1)}, "args: got Namespace(lr=1), of type argparse.Namespace"),
        ({"model": {"act": choice([Relu, lambda x: x])}}, "model/act: got <function"),
        ({"size": Size(3, 4)}, "size: got Size(width=3, height=4), of type test_space_values.Size"),
        ({"size": Size(uniform(0, 1), 4)}, "size: got Size("),
        ({"data": np.zeros(2)}, "data: got array([0., 0.]), of type numpy.ndarray"),
        ({"opt": choice([{"x": uniform(0, 1), "p": {1, 2}}])}, "opt/p: got {1, 2}, of type builtins.set"),
    ],
)
def test_what_no_store_can_keep_is_refused_by_the_spec(space: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        search(".", param_space=space)
    assert f"SearchSpec: param_space: {words}" in str(caught.value)


def test_of_a_function_it_is_refused_by_check() -> None:
    spec = search(".", param_space=lambda trial: {"args": argparse.Namespace(lr=trial.suggest_float("lr", 0, 1))})
    with pytest.raises(SpecError, match=r"space: args: got Namespace\(.*of type argparse\.Namespace"):
        spec.check()


def fails(trial: Any) -> None:
    trial.suggest_float("lr", 0, 1)
    raise ValueError("not today")


def no_trial() -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (fails, r"fails failed: ValueError: not today \(.*test_space_values.py:\d+\)"),
        (lambda trial: trial.suggest_loguniform("lr", 0.1, 1), "no attribute 'suggest_loguniform'"),
        (no_trial, "takes 0 positional arguments"),
    ],
)
def test_an_error_in_a_function_is_told_with_its_line_by_check(function: Any, words: str) -> None:
    spec = search(".", param_space=function)
    with pytest.raises(SpecError, match=f"space: the space function .*{words}"):
        spec.check()


def test_a_function_that_needs_an_await_is_refused() -> None:
    async def space(trial: Any) -> None: ...

    with pytest.raises(SpecError, match=r"space function .* must return a dict or None, seen <coroutine"):
        search(".", param_space=space).check()


def test_what_only_some_configs_hold_fails_those_trials(tmp_path: Any) -> None:
    space = {"x": choice([1, 2]), "scale": double, "made": sample_from(lambda config: late_set(config["x"]))}
    spec = search(tmp_path, param_space=space, start_points=[{"x": 1}, {"x": 2}], budget=Budget(trials=2))
    results = run(spec, progress="off")
    assert [trial.status for trial in results] == ["COMPLETED", "FAILED"]
    assert "made: got {2}, of type builtins.set" in results[1].reason + results[1].error


def late_set(x: int) -> Any:
    """What `check` does not come across: it draws x = 1 there."""
    return {x} if x == 2 else x


def test_exports_and_the_command_line_show_names(tmp_path: Any) -> None:
    results = run(search(tmp_path), progress="off")
    frame = results.dataframe()
    assert set(frame["config/act"]) <= {f"{__name__}:Relu", f"{__name__}:Gelu"}
    call = CliRunner().invoke
    base = ["--storage", str(tmp_path)]
    scope: dict[str, Any] = {}
    exec(call(main, ["best", "objects", "--as", "python", *base]).stdout, scope)
    assert scope["config"] == results.best().config
    told = json.loads(call(main, ["best", "objects", "--as", "json", *base]).stdout)
    assert told["act"].startswith(f"{__name__}:")
    assert told["shape"] in ([3, 3], [5, 5])
    listed = json.loads(call(main, ["show", "objects", "--json", *base]).stdout)["trials"]
    assert all(trial["config"]["act"].startswith(f"{__name__}:") for trial in listed)
    assert f"{__name__}:" in call(main, ["best", "objects", "--as", "yaml", *base]).stdout
    assert f"{__name__}:" in call(main, ["export", "objects", *base]).stdout
    records = json.loads(call(main, ["export", "objects", "--format", "json", *base]).stdout)
    assert records[0]["config/shape"] in ([3, 3], [5, 5])
    file = tmp_path / "out.parquet"
    assert call(main, ["export", "objects", "--format", "parquet", "-o", str(file), *base]).exit_code == 0
    for command in (["show", "objects"], ["show", "objects", "0"], ["best", "objects"]):
        assert call(main, [*command, *base]).exit_code == 0


SCRIPT = """
import sys
from tune_platform import Budget, SearchSpec, SpecError, choice, report, resume, run

class Small:
    width = 1

class Large:
    width = 2

def train(config):
    assert config["model"] in (Small, Large), config
    report({"loss": float(config["model"].width)})

SPEC = SearchSpec(
    name="own", trainable=train, param_space={"model": choice([Small, Large])}, metric="loss", mode="min",
    searcher="tpe", duplicates="allow", budget=Budget(trials=4), storage=sys.argv[1], backend=BACKEND,
)
if __name__ == "__main__":
    if sys.argv[2] == "run":
        results = run(SPEC, progress="off")
    else:
        try:
            resume("own", storage=sys.argv[1], progress="off")
            raise SystemExit("resumed without the spec")
        except SpecError as error:
            assert "pass the same SearchSpec again" in str(error), error
        results = resume("own", storage=sys.argv[1], spec=SPEC, extend={"trials": 2}, progress="off")
    print(results.counts, all(trial.config["model"] in (Small, Large) for trial in results))
"""


def both_runs(tmp_path: Any, backend: str) -> None:
    script = tmp_path / "own.py"
    script.write_text(SCRIPT.replace("BACKEND", backend))
    for word, count in (("run", 4), ("resume", 6)):
        command = [sys.executable, str(script), str(tmp_path / "results"), word]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith(f"{{'COMPLETED': {count}}} True"), done.stdout
    # Elsewhere the script's own classes cannot be had, and are shown by their names.
    config = load("own", storage=tmp_path / "results").best().config
    assert str(config["model"]) == "__main__:Small"


def test_classes_of_a_script_are_choices(tmp_path: Any) -> None:
    both_runs(tmp_path, "'inline'")


@pytest.mark.slow
def test_classes_of_a_script_are_choices_on_ray(tmp_path: Any) -> None:
    both_runs(tmp_path, "{'name': 'ray', 'address': 'local', 'num_cpus': 1}")


YAML = f"""
version: 1
name: words
entrypoint: {__name__}:sees
objective: {{metric: loss, mode: min}}
space:
  act: {{type: choice, values: [{{$object: "{__name__}:Relu"}}, {{$object: "{__name__}:Gelu"}}]}}
  scale: {{$object: "{__name__}:double"}}
  shape: {{type: choice, values: [{{$tuple: [3, 3]}}, {{$tuple: [5, 5]}}]}}
  sizes: {{$dict: [[1, 64], [2, {{type: int, low: 1, high: 4}}]]}}
  late: {{type: float, low: 0, high: 1, when: {{act: {{$object: "{__name__}:Gelu"}}}}}}
search: {{name: random, initial: [{{act: {{$object: "{__name__}:Gelu"}}}}, {{act: "{__name__}:Relu", shape: [5, 5]}}]}}
budget: {{trials: 3}}
backend: {{name: inline}}
"""


def test_a_file_has_words_for_them(tmp_path: Any) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(YAML)
    SEEN.clear()
    spec = load_spec(path)
    run(SearchSpec(**{**{name: getattr(spec, name) for name in type(spec).model_fields}, "storage": str(tmp_path)}))
    assert [config["act"] for config in SEEN[:2]] == [Gelu, Relu]
    assert SEEN[1]["shape"] == (5, 5)
    assert all(config["scale"] is double and set(config["sizes"]) == {1, 2} for config in SEEN)
    assert all(("late" in config) == (config["act"] is Gelu) for config in SEEN)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (':Relu"}, {', ':Rleu"}, {', "cannot be imported here: AttributeError"),
        ("{$tuple: [3, 3]}", "{$tuple: 3}", "$tuple takes a list"),
        ("[1, 64]", "[1]", "$dict takes a list of pairs"),
    ],
)
def test_mistakes_in_these_words(tmp_path: Any, old: str, new: str, words: str) -> None:
    assert old in YAML
    path = tmp_path / "spec.yaml"
    path.write_text(YAML.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert words in str(caught.value)
    assert "line " in str(caught.value)


# ------------------------------------------------------------------------------------------ text


HALF = "\ud800"  # half of a surrogate pair: a text to Python, and to nothing that it could be written to


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"param_space": {"x": choice([HALF, "b"])}}, "param_space: x: got"),
        ({"param_space": {"x": choice(["a", ("b", HALF)])}}, "got"),
        ({"param_space": {"x": uniform(0, 1), "c": {"d": HALF}}}, "c/d: got"),
        ({"param_space": {HALF: uniform(0, 1)}}, "a key of the config: got"),
        ({"param_space": {"x": uniform(0, 1), "c": {HALF: 1}}}, "got"),
        ({"description": HALF}, "description: got"),
        ({"metric": HALF}, "metric: got"),
        ({"metric": ["loss", HALF], "mode": "min"}, "metric: got"),
        ({"stop": {HALF: 3}}, "got"),
    ],
)
def test_text_that_nothing_can_hold_is_refused_with_its_place(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(SpecError) as caught:
        SearchSpec(**{"trainable": print, "param_space": {"x": uniform(0, 1)}, "metric": "loss", "mode": "min",
                      "num_samples": 1, **changes})  # fmt: skip
    said = str(caught.value)
    assert where in said
    assert "'\\ud800', which no file or table can hold" in said
    said.encode()


def test_a_storage_path_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    spec = SearchSpec(trainable=print, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=1,
                      storage=f"{tmp_path}/d\udcff", backend="inline")  # fmt: skip
    with pytest.raises(SpecError, match="stands for no character; write it in UTF-8"):
        run(spec)


def test_text_of_any_language_stands_in_a_space() -> None:
    spec = SearchSpec(trainable=print, param_space={"größe": choice(["é", "日本", "🙂"])}, metric="loss", mode="min",
                      num_samples=1)  # fmt: skip
    assert spec.check() == []
