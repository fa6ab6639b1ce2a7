"""Tables from a folder of YAHPO Gym's form: what is read, and what is said of one that lacks something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.curves.yahpo import MODEL, SCENARIOS, read
from tune_platform.errors import SpecError

NUMBERS: dict[str, dict[str, Any]] = {
    "batch_size": {"type": "uniform_int", "log": True, "lower": 16, "upper": 512},
    "epoch": {"type": "uniform_int", "log": False, "lower": 1, "upper": 5},
    "learning_rate": {"type": "uniform_float", "log": True, "lower": 1e-4, "upper": 0.1},
    "max_dropout": {"type": "uniform_float", "log": False, "lower": 0.0, "upper": 1.0},
    "max_units": {"type": "uniform_float", "log": True, "lower": 64.0, "upper": 1024.0},
    "momentum": {"type": "uniform_float", "log": False, "lower": 0.1, "upper": 0.99},
    "num_layers": {"type": "uniform_int", "log": False, "lower": 1, "upper": 5},
    "weight_decay": {"type": "uniform_float", "log": False, "lower": 1e-5, "upper": 0.1},
}


def folder(place: Path, **more: Any) -> Path:
    """Write a scenario in the public form; its network is given to `read`."""
    found = place / "lcbench"
    found.mkdir()
    task = {"name": "OpenML_task_id", "type": "categorical", "choices": ["3945", "7593"], "probabilities": None}
    space = {"hyperparameters": [task, *({"name": name, **each} for name, each in NUMBERS.items())], "conditions": []}
    (found / "config_space.json").write_text(
        json.dumps({**space, "forbiddens": [], "json_format_version": 0.2, **more})
    )
    (found / "encoding.json").write_text(json.dumps({"OpenML_task_id": {"#na#": 0, "3945": 2, "7593": 1}}))
    return found


def network(categories: NDArray[np.int32], numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return time, then values that tell which task, epoch and learning rate were asked for."""
    epoch, rate = numbers[:, 0], numbers[:, 2]
    time = np.where(epoch == 4, 5.0, 2.0 * epoch)  # it goes back once
    columns = [time, 10 * epoch + categories[:, 0], rate, epoch, epoch, epoch]
    return np.stack(columns, axis=1).astype(np.float32)


def test_the_network_is_asked_at_each_epoch_and_seconds_are_differences(tmp_path: Path) -> None:
    table = read(folder(tmp_path), "3945", configs=7, network=network)
    assert (table.metric, table.mode, table.resource, table.steps) == ("val_accuracy", "max", "epoch", 5)
    assert table.values["val_accuracy"].tolist() == [[12, 22, 32, 42, 52]] * 7
    rates = [config["learning_rate"] for config in table.configs]
    assert np.allclose(table.values["val_cross_entropy"][:, 3], rates)
    assert np.allclose(table.seconds, [2, 2, 2, 0.001, 5])
    assert len(set(rates)) == 7
    assert set(table.configs[0]) == set(NUMBERS) - {"epoch"}
    assert isinstance(table.configs[0]["num_layers"], int)
    table.save(tmp_path / "t.npz")
    assert type(table).load(tmp_path / "t.npz").configs == table.configs
    assert read(tmp_path / "lcbench", "3945", configs=7, network=network).configs == table.configs  # the same draws


def test_the_other_metrics_have_their_own_mode(tmp_path: Path) -> None:
    place = folder(tmp_path)
    assert read(place, "7593", metric="val_cross_entropy", configs=2, network=network).mode == "min"
    assert read(place, "7593", metric="val_balanced_accuracy", configs=2, network=network).mode == "max"


@pytest.mark.parametrize(
    ("instance", "given", "message"),
    [
        ("3954", {}, "no data set '3954'.*; it has 3945, 7593"),
        ("3945", {"metric": "val_acuracy"}, "no target 'val_acuracy' .did you mean 'val_accuracy'"),
        ("3945", {"configs": 0}, "configs: got 0; at least 1 is wanted"),
        ("3945", {"network": lambda codes, rows: rows[:, :3]}, "gives .3,. targets; 6 are wanted"),
        ("3945", {"network": None}, f"{MODEL}: there is no such network"),
    ],
)
def test_what_is_lacking_is_said(tmp_path: Path, instance: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read(folder(tmp_path), instance, **{"network": network, "configs": 2, **given})


def test_folders_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no scenario with epochs is called 'rbv2_svm'; lcbench, fcnet are"):
        read(tmp_path / "rbv2_svm", "3", network=network)
    place = folder(tmp_path, conditions=[{"child": "momentum"}])
    with pytest.raises(SpecError, match="has conditions"):
        read(place, "3945", network=network)
    (place / "config_space.json").write_text("[")
    with pytest.raises(SpecError, match=r"config_space.json: it cannot be read as JSON"):
        read(place, "3945", network=network)
    (place / "config_space.json").write_text(json.dumps({"hyperparameters": [{"name": "epoch"}]}))
    with pytest.raises(SpecError, match="it lacks OpenML_task_id; it has epoch"):
        read(place, "3945", network=network)


def test_the_networks_own_file(tmp_path: Path) -> None:
    """A network in ONNX's form whose targets are its first six numbers: needs onnx and onnxruntime."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, place = onnx.helper, folder(tmp_path)
    numbers = make.make_tensor_value_info("x_cont", onnx.TensorProto.FLOAT, [None, 8])
    codes = make.make_tensor_value_info("x_cat", onnx.TensorProto.INT32, [None, 1])
    targets = make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 6])
    ends = [make.make_tensor(name, onnx.TensorProto.INT64, [1], [value])
            for name, value in (("from", 0), ("to", 6), ("axis", 1))]  # fmt: skip
    node = make.make_node("Slice", ["x_cont", "from", "to", "axis"], ["y"])
    graph = make.make_graph([node], "first six", [codes, numbers], [targets], ends)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8), place / MODEL)
    table = read(place, "3945", configs=3)
    assert table.seconds.tolist() == [[1.0] * 5] * 3  # the time is the epoch
    assert np.allclose(table.values["val_accuracy"][:, 0], [config["batch_size"] for config in table.configs])
    assert list(table.values) == [name for name in SCENARIOS["lcbench"].targets if name != "time"]
