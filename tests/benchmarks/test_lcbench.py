"""Tables from a file of LCBench's form: what is read, and what is said of a file that lacks something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.curves.lcbench import METRIC, read
from tune_platform.errors import SpecError

CONFIG = {
    "batch_size": 512, "learning_rate": 0.01, "momentum": 0.5, "weight_decay": 0.02, "num_layers": 5, "max_units": 1024,
    "max_dropout": 0.25, "optimizer": "sgd",
}  # fmt: skip


def file(folder: Path, *logs: dict[str, Any], **config: Any) -> Path:
    data = {"adult": {str(n): {"config": {**CONFIG, **config}, "log": log} for n, log in enumerate(logs)}}
    path = folder / "data.json"
    path.write_text(json.dumps(data))
    return path


def test_the_seconds_are_differences_and_short_trainings_end(tmp_path: Path) -> None:
    logs = {METRIC: [50.0, 60.0, 70.0], "time": [2.0, 5.0, 6.0]}, {METRIC: [40.0, 41.0], "time": [1.0, 2.5]}
    table = read(file(tmp_path, *logs), "adult")
    assert (table.metric, table.mode, table.resource, table.steps) == ("val_accuracy", "max", "epoch", 3)
    assert np.array_equal(table.seconds, np.array([[2, 3, 1], [1, 1.5, np.nan]]), equal_nan=True)
    curve, step_time = table.lookup()
    config = dict(table.configs[0])
    assert "optimizer" not in config
    assert curve(config, 3) == {"val_accuracy": 70.0, "epoch": 3}
    assert step_time(config, 2) == 3.0
    table.save(tmp_path / "adult.npz")
    assert type(table).load(tmp_path / "adult.npz").configs == table.configs


@pytest.mark.parametrize(
    ("log", "name", "message"),
    [
        ({METRIC: [1.0], "time": [1.0]}, "adlut", "no data set 'adlut' .did you mean 'adult'.*; it has adult"),
        ({METRIC: [1.0]}, "adult", "config 0 of adult has no 'time'; it has Train/val_accuracy"),
        ({METRIC: [1.0], "time": [1.0, 2.0]}, "adult", "1 values of Train/val_accuracy and 2 of time"),
    ],
)
def test_what_is_lacking_is_said(tmp_path: Path, log: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read(file(tmp_path, log), name)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("[")
    with pytest.raises(SpecError, match="cannot be read as LCBench's JSON"):
        read(path, "adult")
