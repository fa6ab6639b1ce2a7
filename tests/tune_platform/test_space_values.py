"""What may stand in a space and a config besides plain numbers and text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.space import Space, SpaceTrial, choice, constant, loguniform, randint, uniform, when
from tune_platform.spec import SearchSpec


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
