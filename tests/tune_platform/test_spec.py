"""SearchSpec from Python: what it takes, what it means, and its form as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_platform.errors import SpecError
from tune_platform.location import Location
from tune_platform.resources import Resources
from tune_platform.schedulers import ASHA
from tune_platform.searchers.optuna import OptunaSearcher
from tune_platform.searchers.random import RandomSearcher
from tune_platform.space import choice, grid_search, loguniform, uniform, when
from tune_platform.spec import Budget, CheckpointPolicy, SearchSpec, explain, json_schema, load_spec, resolve
from tune_platform.spec.parts import memory_factor, times_of
from tune_platform.spec.values import hint, number, seconds, whole, yaml_number

YAML = """\
version: 1
name: digits
entrypoint: tune_platform.trainables.digits:DigitsTrainable
objective: {metric: val_accuracy, mode: max, target: 0.99}
space:
  lr: {type: float, low: 1.0e-4, high: 0.5, log: true}
  optimizer: {type: choice, values: [adamw, sgd]}
  momentum: {type: float, low: 0, high: 0.99, when: {optimizer: sgd}}
  epochs: 27
constraints: ["lr < 2"]
search: {name: random, seed: 7, initial: [{lr: 0.001}]}
schedule: {name: asha, resource: epoch, min: 1, max: 27, eta: 3}
budget: {trials: 64, time: 1h30m, failures: 3, concurrency: 2}
resources: {cpu: 2, gpu: 0.5, custom: {tpu: 1}}
stop: {epoch: 30}
checkpoint: {every: 5, keep_last: 2}
retries: {worker_died: 5}
step_timeout: 90s
storage: {path: results}
backend: {name: ray, num_cpus: 4}
"""


def train(config: dict[str, Any]) -> float:
    return float(config["x"])


def make(**values: Any) -> SearchSpec:
    given: dict[str, Any] = {
        "trainable": train,
        "param_space": {"x": uniform(0, 1)},
        "metric": "loss",
        "mode": "min",
    }
    return SearchSpec(**{**given, **values})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "spec.yaml"
    file.write_text(YAML)
    return file


def test_defaults() -> None:
    spec = make()
    assert (spec.searcher, spec.scheduler, spec.seed, spec.trials) == ("random", "fifo", 0, 1)
    assert spec.resources_for({}) == Resources(cpu=1)
    assert spec.retries == {"exception": 0, "worker_died": 3, "timeout": 1, "bad_metric": 0, "lost_checkpoint": 1}
    assert spec.checkpoint == CheckpointPolicy(every=0, at_end=False, keep_last=1, keep_best=None)
    assert spec.check() == []


def test_immutable() -> None:
    with pytest.raises(ValueError, match="cannot be changed"):
        make().seed = 3


def test_file_says_everything(path: Path) -> None:
    spec = load_spec(path)
    assert (spec.metrics, spec.modes) == (("val_accuracy",), ("max",))
    assert spec.budget == Budget(trials=64, time=5400, target=0.99, failures=3)
    assert (spec.max_concurrent, spec.seed, spec.step_timeout) == (2, 7, 90.0)
    assert spec.resources == Resources(cpu=2, gpu=0.5, custom={"tpu": 1})
    assert spec.retries["worker_died"] == 5
    assert spec.retries["timeout"] == 1
    assert spec.storage == "results"
    assert isinstance(spec.make_scheduler(), ASHA)
    config = spec.space.sample(np.random.default_rng(0))
    assert config["epochs"] == 27
    assert ("momentum" in config) == (config["optimizer"] == "sgd")


def test_more_memory_for_a_trial_that_ran_out_of_it(path: Path) -> None:
    text = YAML.replace("retries: {worker_died: 5}", "retries: {out_of_memory: {times: 2, memory: x1.5}}")
    path.write_text(text.replace("custom: {tpu: 1}", "custom: {memory: 4000}"))
    spec = load_spec(path)
    assert spec.retries["out_of_memory"] == {"times": 2, "memory": "x1.5"}
    assert SearchSpec.from_dict(spec.to_dict()).retries == spec.retries
    assert (times_of(spec.retries)["out_of_memory"], memory_factor(spec.retries)) == (2, 1.5)
    assert memory_factor(make().retries) == 1
    assert make(retries={"out_of_memory": 7}).retries["out_of_memory"] == {"times": 7, "memory": "x1"}


def test_round_trip(path: Path) -> None:
    spec = load_spec(path)
    data = json.loads(json.dumps(spec.to_dict()))
    assert data == spec.to_dict()
    again = SearchSpec.from_dict(data)
    assert again.to_dict() == data
    assert again.fingerprint() == spec.fingerprint()


def test_python_objects_that_data_can_hold_round_trip() -> None:
    spec = make(
        trainable="my_module:train",
        param_space={
            "a": {"b": loguniform(1e-4, 1)},
            "c": when(choice([(1, 2), (3,)]), {"d": 1}),
            "d": grid_search([1, 2]),
        },
        searcher={"name": "random"},
        start_points=[{"a": {"b": np.float64(0.5)}}],
    )
    data = json.loads(json.dumps(spec.to_dict()))
    assert SearchSpec.from_dict(data).to_dict() == data


def test_importable_trainable_becomes_an_entrypoint() -> None:
    assert make().to_dict()["entrypoint"] == f"{__name__}:train"
    assert SearchSpec.from_dict(make().to_dict()).load_trainable() is train


class OwnSearcher(RandomSearcher):
    pass


class OwnScheduler(ASHA):
    pass


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"trainable": lambda config: 1.0}, "entrypoint"),
        ({"searcher": OwnSearcher()}, "search"),
        ({"scheduler": OwnScheduler()}, "schedule"),
        ({"resources": lambda config: Resources()}, "resources"),
        ({"constraints": [lambda config: True]}, r"constraints\[0\]"),
        ({"param_space": lambda trial: {"x": trial.suggest_float("x", 0, 1)}}, "space"),
    ],
)
def test_live_objects_need_the_same_spec_again(values: dict[str, Any], where: str) -> None:
    data = json.loads(json.dumps(make(**values).to_dict()))
    with pytest.raises(SpecError, match=rf"{where} \(.*pass the same SearchSpec again"):
        SearchSpec.from_dict(data)


def test_ray_tune_domains() -> None:
    tune = pytest.importorskip("ray.tune")
    spec = make(param_space={"lr": tune.loguniform(1e-4, 1e-1), "n": tune.grid_search([1, 2, 3])}, num_samples=2)
    assert spec.trials == 6
    assert spec.to_dict()["space"]["lr"] == {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}


@pytest.mark.parametrize(
    ("values", "trials"),
    [
        ({"num_samples": 5}, 5),
        ({"num_samples": -1}, None),
        ({"num_samples": 5, "budget": {"trials": 3}}, 3),
        ({"budget": Budget(trials=8)}, 8),
        ({"budget": Budget(time="1h")}, None),
        ({"param_space": {"a": grid_search([1, 2, 3])}, "num_samples": 2}, 6),
        ({"param_space": {"a": choice([1, 2, 3])}, "searcher": "grid"}, None),
    ],
)
def test_how_many_trials(values: dict[str, Any], trials: int | None) -> None:
    assert make(**values).trials == trials


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scheduller": "asha"}, "SearchSpec: scheduller: unknown key (did you mean 'scheduler'?)"),
        ({"mode": "minimum"}, "SearchSpec: mode: got 'minimum' (text); allowed: min, max (did you mean 'min'?)"),
        ({"metric": []}, "SearchSpec: metric: got [] (a list); a name is wanted, or several in a list"),
        ({"trainable": 3}, "SearchSpec: trainable: got 3 (a whole number); a subclass of Trainable, a function"),
        ({"param_space": 3}, "SearchSpec: param_space: got 3 (a whole number); a dict of parameters"),
        ({"resources": {"cpu": -1}}, "SearchSpec: resources: resource cpu: must be a number of at least 0, got -1.0"),
        ({"resources": {"ram": 1}}, "SearchSpec: resources: unknown key 'ram'"),
        ({"num_samples": 0}, "SearchSpec: num_samples: got 0; must be at least 1, or -1 for no limit"),
        ({"budget": {"trials": -1}}, "SearchSpec: budget.trials: got -1; must be at least 1"),
        ({"searcher": "tpee"}, "SearchSpec: searcher: there is no searcher 'tpee' (did you mean 'tpe'?)"),
        ({"scheduler": {"min": 1}}, "SearchSpec: scheduler: the scheduler has no name; write for example"),
        ({"start_points": [{"y": 1}]}, "SearchSpec: start_points: [0]: "),
        ({"metric": ["a", "b"], "scheduler": "asha"}, "SearchSpec: schedule: ASHA ranks trials by one number"),
        ({"metric": ["a", "b"], "mode": ["min"] * 3}, "SearchSpec: objective: 2 metrics and 3 modes"),
        ({"backend": "spark"}, "SearchSpec: backend: there is no backend 'spark'"),
    ],
)
def test_python_mistakes_are_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as raised:
        make(**values)
    assert str(raised.value).startswith(message)


def test_several_mistakes_at_once() -> None:
    with pytest.raises(SpecError, match=r"SearchSpec: 2 problems\n  mode: .*\n  seed: "):
        make(mode="up", seed=-1)


def test_resources_by_config() -> None:
    spec = make(resources=lambda config: {"cpu": config["x"]})
    assert spec.resources_for({"x": 3}) == Resources(cpu=3)
    with pytest.raises(SpecError, match="got 3"):
        make(resources=lambda config: 3).resources_for({})


def test_check_imports_the_trainable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "user_code.py").write_text("def train(config): ...\nclass Plain: ...\nNUMBER = 1\n")
    (tmp_path / "user_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert callable(make(trainable="user_code:train").load_trainable())
    for entrypoint, message in {
        "user_code:trian": f"module 'user_code' ({tmp_path}/user_code.py) has no 'trian' (did you mean 'train'?)",
        "user_cod:train": "there is no module 'user_cod' (did you mean 'user_code'?)",
        "user_code:NUMBER": "got 1 (a whole number); a subclass of Trainable, a function of the config",
        "user_code:Plain": "is not a subclass of tune_platform.Trainable",
        "user_broken:train": "importing 'user_broken' failed: ZeroDivisionError: division by zero",
    }.items():
        with pytest.raises(SpecError) as raised:
            make(trainable=entrypoint).check()
        assert str(raised.value).startswith(f"spec: trainable: '{entrypoint}'")
        assert message in str(raised.value)


def test_a_dict_that_looks_like_a_parameter_is_warned_of() -> None:
    space = {"x": {"uniform": [0, 1]}, "deep": {"y": {"int": {"low": 1, "high": 3}}}, "z": uniform(0, 1), "f": {"a": 1}}
    space["kernel"] = {"constant": uniform(0, 1)}  # a parameter under a name of its own
    assert make(param_space=space).check() == [
        "space: x is a fixed dict, the same in all trials; for a parameter write x: {type: float, low: ..., high: ...}",
        "space: deep/y is a fixed dict, the same in all trials; "
        "for a parameter write deep/y: {type: int, low: ..., high: ...}",
    ]


def test_check_finds_an_impossible_space_and_warns() -> None:
    with pytest.raises(SpecError, match="constraint 'x > 2' failed in"):
        make(constraints=["x > 2"]).check()
    assert make(param_space={}).check() == ["space: has no parameters, so all trials have the same config"]
    spec = make(scheduler={"name": "asha", "max": 27}, stop={"step": 9})
    assert spec.check() == ["stop: step 9 ends trials before the scheduler's max 27"]


def test_fingerprint_knows_what_matters(path: Path) -> None:
    spec = load_spec(path)
    same = SearchSpec.from_dict({**spec.to_dict(), "name": "other", "storage": "elsewhere", "backend": "inline"})
    assert same.fingerprint() == spec.fingerprint()
    other = SearchSpec.from_dict({**spec.to_dict(), "schedule": {"name": "asha", "max": 9}})
    assert other.fingerprint() != spec.fingerprint()
    assert "schedule.max: 27 here, 9 there" in spec.differences(other.to_dict())


def test_precedence_and_sources(path: Path) -> None:
    env = {"TUNE_PLATFORM_TRIALS": "8", "TUNE_PLATFORM_SEED": "1", "TUNE_PLATFORM_BACKEND": "inline"}
    spec, sources = resolve(path, env, {"search.seed": "3", "schedule.eta": "1e1", "search.name": "tpe"})
    assert (spec.budget.trials, spec.seed, spec.make_scheduler().eta) == (8, 3, 10)  # type: ignore[attr-defined]
    assert sources["budget.trials"] == "environment TUNE_PLATFORM_TRIALS"
    assert sources["search.seed"] == "flag"
    assert sources["schedule.min"] == "spec.yaml"
    assert sources["checkpoint.at_end"] == "default"
    assert set(sources) >= {"space.lr.low", "budget.time", "backend.name", "storage.path"}
    line = next(line for line in explain(spec, sources).splitlines() if line.startswith("search.seed"))
    assert line.split() == ["search.seed", "3", "flag"]


@pytest.mark.parametrize("trials", [3, 30])
def test_the_number_of_trials_that_is_asked_for_is_not_that_of_samples_in_the_file(trials: int, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(
        "version: 1\nentrypoint: a:b\nmetric: loss\nmode: min\nnum_samples: 10\n"
        "space: {x: {type: float, low: 0, high: 1}}\n"
    )
    assert resolve(path, {})[0].trials == 10
    for env, flags in (({"TUNE_PLATFORM_TRIALS": str(trials)}, {}), ({}, {"budget.trials": trials})):
        spec, sources = resolve(path, env, flags)
        assert (spec.trials, spec.num_samples) == (trials, None)
        assert sources["budget.trials"] != "search.yaml"
    assert resolve(path, {}, {"budget.trials": trials, "num_samples": 2})[0].trials == 2, "both were asked for"


def test_resolve_takes_short_blocks_and_refuses_nonsense() -> None:
    data = {"version": 1, "entrypoint": "a:b", "objective": {"metric": "m", "mode": "min"}, "schedule": "asha"}
    spec, sources = resolve(data, {}, {"schedule.max": 9})
    assert spec.scheduler == {"name": "asha", "max": 9}
    assert sources["schedule.max"] == "flag"
    with pytest.raises(SpecError, match=r"flag: cannot set version\.x: version is 1"):
        resolve(data, {}, {"version.x": 9})
    with pytest.raises(SpecError, match=r"budget.trials: got 'x'"):
        resolve(data, {"TUNE_PLATFORM_TRIALS": "x"})


def test_storage_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_PLATFORM_STORAGE", "/data/results")
    assert make().storage == "/data/results"
    assert make(storage="here").storage == "here"


def test_passwords_are_not_written() -> None:
    spec = make(storage="postgresql://me:secret@db/tune")
    assert "secret" not in json.dumps(spec.to_dict())
    assert "secret" not in f"{spec!r} {spec} {spec.storage}"
    assert Location(spec.storage).unmasked == "postgresql://me:secret@db/tune"


def test_json_schema_agrees_with_the_reader() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import yaml

    schema = json_schema()
    jsonschema.validate(yaml.safe_load(YAML), schema)
    jsonschema.validate({**yaml.safe_load(YAML), "schedule": "asha", "storage": "x", "retries": 2}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(YAML), "sheduler": "asha"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(YAML), "objective": {"metric": "m", "mode": "up"}}, schema)


# ------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), ("1H 30M", 5400), (7, 7), (0.5, 0.5)],
)
def test_durations(text: Any, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("bad", ["", "90", "h", "1h30", "-5s", "0s", 0, -1, float("inf"), None, True, "1e3s"])
def test_bad_durations(bad: Any) -> None:
    with pytest.raises(SpecError, match="got"):
        seconds(bad)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_yaml_number_is_read_back_as_the_number(value: float) -> None:
    import yaml

    text = f"{value:.17e}"
    assert yaml.safe_load(yaml_number(text) or "") == float(text)


def test_numbers() -> None:
    assert (number(np.float32(0.5)), whole(np.int64(3)), whole(3.0)) == (0.5, 3, 3)
    for bad in (True, None, "1", float("nan"), [1]):
        with pytest.raises(SpecError):
            number(bad)
    for other in (True, 0.5, "1"):
        with pytest.raises(SpecError):
            whole(other)


def test_hints() -> None:
    known: Mapping[str, str] = {"cpu": "", "space": "", "mode": ""}
    assert hint("CPU", known) == " (did you mean 'cpu'?)"
    assert hint("parameters", known) == " (did you mean 'space'?)"
    assert hint("zzz", known) == ""


def test_objects_of_ours_are_written_as_names_and_options() -> None:
    spec = SearchSpec(
        trainable="tune_platform.trainables.digits:train_digits",
        param_space={"x": uniform(0, 1)},
        metric="loss",
        mode="min",
        scheduler=ASHA(resource="epoch", max=9, type="promotion"),
        searcher=OptunaSearcher("tpe", n_startup_trials=4),
        num_samples=3,
    )
    again = SearchSpec.from_dict(spec.to_dict())
    scheduler = again.make_scheduler()
    assert isinstance(scheduler, ASHA)
    assert (scheduler.resource, scheduler.max, scheduler.type) == ("epoch", 9, "promotion")
    assert again.differences(spec.to_dict()) == []
