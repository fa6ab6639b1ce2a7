from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.space import (
    Space,
    SpaceTrial,
    choice,
    constant,
    grid_search,
    loguniform,
    normal,
    quniform,
    randint,
    sample_from,
    uniform,
    when,
)  # fmt: skip


def sample(space: Space, seed: int = 0) -> dict[str, Any]:
    return space.sample(np.random.default_rng(seed))


NESTED = Space(
    {
        "lr": loguniform(1e-5, 1e-1),
        "opt": choice([{"name": "sgd", "momentum": uniform(0, 0.9), "lr": uniform(0, 1)},
                       {"name": "adam", "lr": loguniform(1e-3, 1)}, "none"]),
        "nesterov": when(choice([True, False]), {"opt/name": "sgd"}),
        "b": when(choice([1, 2]), {"a": ["x", "y"]}),
        "a": when(choice(["x", "y", "z"]), {"opt": "none"}),
        "layers": [randint(1, 4), 7, (quniform(0, 1, 0.5),)],
        "group": when({"u": uniform(0, 1), "v": 2}, {"opt/name": "adam"}),
    }
)  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_nested_and_conditional(seed: int) -> None:
    config = sample(NESTED, seed)
    name = config["opt"] if isinstance(config["opt"], str) else config["opt"]["name"]
    assert ("nesterov" in config) == (name == "sgd")
    assert ("momentum" in config["opt"]) == (name == "sgd")
    assert ("a" in config) == (name == "none")
    assert ("b" in config) == (config.get("a") in ("x", "y"))
    assert ("group" in config) == (name == "adam")
    assert config["layers"][1] == 7
    assert isinstance(config["layers"][2], tuple)
    json.dumps(config)
    values = NESTED.flatten(config)
    assert NESTED.build(lambda name, domain: values[name]) == config
    assert NESTED.flatten(json.loads(json.dumps(config))) == values
    again = Space.from_dict(NESTED.to_dict())
    assert len(again.flatten(sample(again, seed))) > 0


def test_parameters_come_parents_first() -> None:
    rows = {p.name: p.condition for p in NESTED.parameters()}
    assert list(rows).index("a") < list(rows).index("b")
    assert rows["opt[0]/lr"] == "opt is 'sgd'"
    assert rows["b"] == "a in ['x', 'y']"
    assert rows["lr"] is None


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"m": when(uniform(0, 1), {"optimiser": 1}), "optimizer": choice([1])}, "did you mean 'optimizer'"),
        ({"m": when(uniform(0, 1), {"o": "sdg"}), "o": choice(["sgd"])}, "did you mean 'sgd'"),
        ({"a": when(choice([1]), {"b": 1}), "b": when(choice([1]), {"a": 1})}, "in a circle"),
        ({"a": [when(choice([1]), {"b": 1})], "b": 1}, "only as a value of a dict"),
        (3, "must be a dict"),
    ],
)
def test_wrong_spaces(space: Any, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        Space(space)
    assert words in str(caught.value)


def test_relative_names_win_over_absolute() -> None:
    space = Space({"k": "out", "inner": {"k": choice(["in"]), "x": when(uniform(0, 1), {"k": "in"}),
                                         "y": when(uniform(0, 1), {"inner/k": "in"})}})  # fmt: skip
    assert set(sample(space)["inner"]) == {"k", "x", "y"}


def test_flatten_says_what_is_wrong() -> None:
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"lrr": 1}, "did you mean 'lr'"),
        ({"lr": 5}, "lr=5 is not in Float"),
        ({"lr": "1e-4"}, "1.0e-4"),
        ({"opt": {"name": "adam"}, "nesterov": True}, "exists only when"),
        ({"opt": {"name": "rmsprop"}}, "fits none of its 3 options"),
    ]
    for config, words in mistakes:
        with pytest.raises(SpecError) as caught:
            NESTED.flatten(config)
        assert words in str(caught.value)


def test_complete_fills_in_the_rest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        config = NESTED.complete({"nesterov": True, "opt/momentum": 0.5, "lr": 1e-3}, rng)
        assert config["opt"]["name"] == "sgd"
        assert config["opt"]["momentum"] == 0.5
        assert config["lr"] == 1e-3
        assert config["nesterov"] is True
    constrained = Space({"a": uniform(0, 1), "b": uniform(0, 1)}, "a < b")
    assert constrained.complete({"a": 0.7}, rng)["b"] > 0.7
    with pytest.raises(SpecError, match="a < b"):
        constrained.complete({"a": 0.7, "b": 0.2}, rng)


def test_define_by_run() -> None:
    def tree(trial: SpaceTrial) -> None:
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            trial.suggest_float("x", 1e-3, 1, log=True)
        else:
            trial.suggest_int("n", 1, 9, step=2)

    space = Space(tree)
    assert space.define_by_run
    assert space.conditional
    assert space.parameters() == []
    for seed in range(10):
        config = sample(space, seed)
        assert set(config) == ({"kind", "x"} if config["kind"] == "a" else {"kind", "n"})
        assert space.flatten(config) == config
    assert "n" in space.complete({"n": 3}, np.random.default_rng(0))
    returned = Space(lambda trial: {"twice": 2 * trial.suggest_int("n", 1, 3)}, ["twice > 2"])
    assert sample(returned)["twice"] in (4, 6)
    assert space.to_dict()["type"] == "function"


def test_functions_of_the_config() -> None:
    space = Space({"c": sample_from(lambda config: config["b"] + 1), "a": randint(1, 5),
                   "b": sample_from(lambda spec: spec.config.a * 10), "d": sample_from(lambda: 4),
                   "e": sample_from(lambda spec: spec["config"]["a"])})  # fmt: skip
    config = sample(space)
    assert config["b"] == config["a"] * 10
    assert config["c"] == config["b"] + 1
    assert (config["d"], config["e"]) == (4, config["a"])
    assert space.to_dict()["d"]["type"] == "function"
    assert space.flatten(config) == {"a": config["a"]}
    with pytest.raises(SpecError, match="sample_from at 'x'"):
        sample(Space({"x": sample_from(lambda config: config["nope"])}))


def test_ray_tune_spaces_as_they_are() -> None:
    tune = pytest.importorskip("ray.tune")
    space = Space(
        {
            "lr": tune.loguniform(1e-4, 1e-1),
            "n": tune.randint(1, 9),
            "q": tune.qrandint(0, 20, 5),
            "grid": tune.grid_search([1, 2, 3]),
            "z": tune.randn(1, 2),
            "opt": tune.choice([{"name": "sgd", "m": tune.uniform(0, 1)}, {"name": "adam"}]),
            "twice": tune.sample_from(lambda spec: spec.config.n * 2),
        }
    )
    assert space.grid_size == 3
    for seed in range(20):
        config = sample(space, seed)
        assert config["twice"] == 2 * config["n"]
        assert ("m" in config["opt"]) == (config["opt"]["name"] == "sgd")
        assert config["q"] % 5 == 0
        assert type(config["lr"]) is float


def brute(space: Space) -> set[str]:
    """All configs of a space without infinite domains, by trying every combination of picks."""
    found = set()
    for picks in itertools.product(range(6), repeat=len(space.parameters())):
        digits = dict(zip([p.name for p in space.parameters()], picks, strict=True))
        if all(digits[p.name] < (p.domain.size or 0) for p in space.parameters()):
            config = space.build(lambda name, domain: domain.at(digits[name]))  # noqa: B023
            found.add(json.dumps(config, sort_keys=True))
    return found


def test_enumeration_against_brute_force() -> None:
    space = Space(
        {
            "a": choice([1, 2, 3]),
            "b": when(grid_search(["x", "y"]), {"a": [1, 2]}),
            "c": when(randint(0, 4), {"b": "y"}),
            "d": quniform(0, 1, 0.5),
            "e": choice([{"k": choice([1, 2])}, "none"]),
        }
    )
    points = space.grid_points(everything=True)
    listed = [
        json.dumps(space.build(lambda name, domain: values[name]), sort_keys=True)  # noqa: B023
        for values in map(points.point, range(points.total))
    ]
    assert len(set(listed)) == len(listed)
    assert set(listed) == brute(space)


def test_large_grids_are_counted_not_listed() -> None:
    points = Space({f"p{i}": randint(0, 100) for i in range(6)}).grid_points(everything=True)
    assert points.total == 10**12
    assert points.point(10**12 - 1) == {f"p{i}": 99 for i in range(6)}
    with pytest.raises(IndexError):
        points.point(10**12)
    with pytest.raises(SpecError, match="'x'"):
        Space({"x": uniform(0, 1)}).grid_points(everything=True)


def test_file_form() -> None:
    data = {
        "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
        "layers": {"type": "int", "low": 1, "high": 8},
        "optimizer": {"type": "choice", "values": ["adam", "sgd"]},
        "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": "sgd"}},
        "epochs": {"type": "const", "value": 50},
        "head": {"type": "choice", "values": [{"kind": "mlp", "width": {"type": "int", "low": 1, "high": 4}}, "no"]},
        "nested": {"z": {"type": "normal", "mean": 0, "sd": 1}, "g": {"type": "grid", "values": [1, 2]}, "plain": "x"},
    }
    space = Space.from_dict(data)
    config = sample(space, 3)
    assert config["epochs"] == 50
    assert {p.domain.at(7) for p in space.parameters() if p.name == "layers"} == {8}
    assert Space.from_dict(space.to_dict()).to_dict() == space.to_dict()
    assert sample(Space.from_dict(space.to_dict()), 3) == config
    own_type = Space({"opt": {"type": "adam", "lr": uniform(0, 1)}, "odd": constant(uniform)})
    assert sample(Space.from_dict(json.loads(json.dumps(own_type.to_dict()))))["opt"]["type"] == "adam"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"lr": {"type": "flaot", "low": 0, "high": 1}}, "did you mean 'float'"),
        ({"lr": {"type": "float", "lo": 0, "high": 1}}, "did you mean 'low'"),
        ({"lr": {"type": "float", "low": "1e-4", "high": 1}}, "write 1.0e-4"),
        ({"lr": "1e-4"}, "write 1.0e-4"),
        ({"lr": {"type": "float", "low": 0}}, "needs high"),
        ({"lr": {"type": "choice", "values": "ab"}}, "must be a list"),
        ({"lr": {"type": "float", "low": 0, "high": 1, "log": "yes"}}, "true or false"),
        ({"f": {"type": "function", "name": "g"}}, "cannot be read from a file"),
    ],
)
def test_file_mistakes(data: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        Space.from_dict(data)
    assert words in str(caught.value)


def test_normal_quantiles() -> None:
    domain = normal(2, 3)
    for value in (-4.0, 2.0, 7.5):
        assert domain.at_quantile(domain.quantile_of(value)) == pytest.approx(value, abs=1e-9)


def test_import_is_light() -> None:
    code = "import sys, tune_platform.space; print([m for m in ('ray','torch','optuna','pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
