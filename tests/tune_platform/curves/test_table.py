"""Tables of learning curves: their files, the nearest config, and what is wrong with them in one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tune_platform.curves.table import CurveTable
from tune_platform.errors import SpecError
from tune_platform.space import Space, choice, loguniform, randint, when

SPACE = Space(
    {"lr": loguniform(1e-4, 1.0), "net": choice(["mlp", "cnn"]), "width": when(choice([8, 64]), {"net": "mlp"})}
)
CONFIGS = [
    {"lr": 0.001, "net": "mlp", "width": 8},
    {"lr": 0.1, "net": "mlp", "width": 64},
    {"lr": 0.1, "net": "cnn"},
]


def table(**changes: Any) -> CurveTable:
    nan = np.nan
    parts: dict[str, Any] = {
        "space": SPACE,
        "metric": "loss",
        "mode": "min",
        "configs": CONFIGS,
        "values": {"loss": np.array([[3, 2, 1], [6, 5, nan], [9, 8, 7]], dtype=np.float32)},
        "seconds": np.array([[1, 1, 1], [2, 2, nan], [4, 4, 4]], dtype=np.float32),
        "resource": "epoch",
        "name": "small",
    }
    return CurveTable(**{**parts, **changes})


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_a_file_gives_the_table_back(tmp_path: Path, ending: str) -> None:
    table().save(tmp_path / f"t.{ending}")
    found = CurveTable.load(tmp_path / f"t.{ending}")
    assert (found.name, found.metric, found.mode, found.resource) == ("small", "loss", "min", "epoch")
    assert found.configs == CONFIGS
    assert found.space.to_dict() == SPACE.to_dict()
    np.testing.assert_array_equal(found.values["loss"], table().values["loss"])
    np.testing.assert_array_equal(found.seconds, table().seconds)


def test_a_config_is_answered_with_its_nearest_row() -> None:
    curve, seconds = table().lookup()
    near_first = {"lr": 0.003, "net": "mlp", "width": 8}
    near_second = {"lr": 0.003, "net": "mlp", "width": 64}  # the width counts more than a third of the scale of lr
    near_third = {"lr": 1e-4, "net": "cnn"}
    assert [curve(near_first, 1), seconds(near_first, 1)] == [{"loss": 3.0, "epoch": 1}, 1.0]
    assert [curve(near_second, 2), seconds(near_second, 2)] == [{"loss": 5.0, "epoch": 2}, 2.0]
    assert curve(near_second, 3) is None  # its row has ended
    assert [curve(near_third, 3), curve(near_third, 4)] == [{"loss": 7.0, "epoch": 3}, None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": np.full((3, 3), np.nan)}, "config 0 has a value at step 1 and no seconds for it"),
        ({"seconds": np.ones((3, 2))}, r"seconds has the shape \(3, 2\)"),
        ({"metric": "los"}, "no values of 'los' .did you mean 'loss'"),
        ({"mode": "least"}, "mode is 'least'; allowed: min, max"),
        ({"configs": []}, "holds no config"),
    ],
)
def test_a_table_whose_parts_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        table(**changes)


def test_a_file_without_seconds_and_one_that_is_none(tmp_path: Path) -> None:
    table().save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "seconds"}
    np.savez(tmp_path / "no.npz", **arrays)
    (tmp_path / "text.npz").write_text("no table")
    for name, message in [("no", "has no seconds"), ("text", "cannot be read"), ("absent", "there is no such file")]:
        with pytest.raises(SpecError, match=message):
            CurveTable.load(tmp_path / f"{name}.npz")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"lr": loguniform(1e-3, 0.1), "nett": choice(["mlp"])},
            "the table has no parameter 'nett' .did you mean 'net'",
        ),
        ({**SPACE.param_space, "lr": loguniform(1e-5, 0.1)}, "lr=1e-05 is not in the table's"),  # type: ignore[dict-item]
        ({**SPACE.param_space, "net": choice(["gru"])}, "net='gru' is not in the table's"),  # type: ignore[dict-item]
    ],
)
def test_a_space_that_does_not_fit(space: dict[str, Any], message: str) -> None:
    if "width" in space and "gru" in str(space["net"]):
        space = {key: value for key, value in space.items() if key != "width"}
    with pytest.raises(SpecError, match=message):
        table().lookup(Space(space))


def test_a_wide_range_of_integers_is_compared_by_its_ends() -> None:
    small = table(space=Space({"n": randint(1, 10)}), configs=[{"n": 1}, {"n": 2}, {"n": 9}])
    with pytest.raises(SpecError, match="n=1000000000 is not in the table's"):
        small.lookup(Space({"n": randint(1, 10**9 + 1)}))
