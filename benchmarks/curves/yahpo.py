"""Write a table of learning curves from a scenario of YAHPO Gym (Pfisterer et al. 2022), which the user has.

    uv run --with onnxruntime python -m benchmarks.curves.yahpo yahpo_data/lcbench 3945 --to lcbench_3945.npz

A scenario is a folder of the public `yahpo_data`: `config_space.json` (ConfigSpace's JSON), `encoding.json` (numbers of
the categories), and a network in ONNX's form, which gives the targets of a config at an epoch. The order of its
inputs and outputs stands in YAHPO Gym's own code, and here for the scenarios with learning curves, `lcbench` and
`fcnet`. The network is asked for configs that are drawn from the space, at each epoch. Its time counts up over a
training, so the seconds of an epoch are differences, and where it predicts less than before, next to nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_platform.curves.table import CurveTable
from tune_platform.errors import SpecError, did_you_mean
from tune_platform.protocol.seeds import rng
from tune_platform.space import Space
from tune_platform.space.files import space_from_dict

#: Takes categories (n, categories) as int32 and numbers (n, numbers) as float32; returns the targets (n, targets).
Network = Callable[[NDArray[np.int32], NDArray[np.float32]], NDArray[np.float32]]

EPOCH, MODEL = "epoch", "new_model.onnx"
_BRIEFEST = 1e-3  # seconds of an epoch at least: a network's time may go back


@dataclass(frozen=True)
class Scenario:
    """What a network takes and gives, in order; which category is the data set, and what is not searched."""

    instance: str
    categories: Sequence[str]
    numbers: Sequence[str]
    targets: Sequence[str]
    time: str
    mode: str  # of the first metric, which is the one that is judged if none is named
    metric: str
    fixed: Mapping[str, float] = field(default_factory=dict)


SCENARIOS = {
    "lcbench": Scenario(
        instance="OpenML_task_id",
        categories=("OpenML_task_id",),
        numbers=(
            EPOCH, "batch_size", "learning_rate", "momentum", "weight_decay", "num_layers", "max_units", "max_dropout",
        ),
        targets=(
            "time", "val_accuracy", "val_cross_entropy", "val_balanced_accuracy", "test_cross_entropy",
            "test_balanced_accuracy",
        ),
        time="time", metric="val_accuracy", mode="max",
    ),
    "fcnet": Scenario(
        instance="task",
        categories=("task", "activation_fn_1", "activation_fn_2", "lr_schedule"),
        numbers=(EPOCH, "replication", "batch_size", "dropout_1", "dropout_2", "init_lr", "n_units_1", "n_units_2"),
        targets=("valid_loss", "valid_mse", "runtime", "n_params"),
        time="runtime", metric="valid_loss", mode="min", fixed={"replication": 1},
    ),
}  # fmt: skip


def read(
    folder: Path,
    instance: str,
    *,
    metric: str | None = None,
    mode: str | None = None,
    configs: int = 1000,
    seed: int = 0,
    model: str = MODEL,
    network: Network | None = None,
) -> CurveTable:
    """Return a table of `configs` configs of one data set; `network` in place of the folder's own.

    Raises SpecError for a folder that is no scenario of YAHPO Gym's with learning curves, or lacks what is asked.
    """
    if folder.name not in SCENARIOS:
        hint = did_you_mean(folder.name, SCENARIOS)
        raise SpecError(
            f"{folder}: no scenario with epochs is called {folder.name!r}{hint}; {', '.join(SCENARIOS)} are"
        )
    scenario = SCENARIOS[folder.name]
    metric = metric or scenario.metric
    if metric not in scenario.targets or metric == scenario.time:
        known = [target for target in scenario.targets if target != scenario.time]
        raise SpecError(f"{folder}: no target {metric!r}{did_you_mean(metric, known)}; it has {', '.join(known)}")
    if configs < 1:
        raise SpecError(f"configs: got {configs}; at least 1 is wanted")
    parameters = {each["name"]: each for each in _hyperparameters(folder)}
    for name in (*scenario.categories, *scenario.numbers):
        if name not in parameters:
            raise SpecError(f"{folder / 'config_space.json'}: it lacks {name}; it has {', '.join(parameters)}")
    encoding = _json(folder / "encoding.json")
    instances = parameters[scenario.instance]["choices"]
    if instance not in instances:
        raise SpecError(
            f"{folder}: no data set {instance!r}{did_you_mean(instance, instances)}; it has {', '.join(instances)}"
        )
    left_out = (scenario.instance, EPOCH, *scenario.fixed)
    space = Space(space_from_dict({name: _domain(each) for name, each in parameters.items() if name not in left_out}))
    drawn = [space.sample(rng(seed, number, "yahpo")) for number in range(configs)]
    epochs = np.arange(1, int(parameters[EPOCH]["upper"]) + 1)
    asked = [{**config, scenario.instance: instance, **scenario.fixed} for config in drawn]
    codes = [[_code(folder, encoding, name, config[name]) for name in scenario.categories] for config in asked]
    rows = [[config.get(name, 0.0) for name in scenario.numbers] for config in asked]
    categories = np.repeat(np.array(codes, dtype=np.int32), len(epochs), axis=0)
    numbers = np.repeat(np.array(rows, dtype=np.float32), len(epochs), axis=0)
    numbers[:, scenario.numbers.index(EPOCH)] = np.tile(epochs, configs)
    found = (network or _network(folder / model))(categories, numbers)
    if found.shape != (len(numbers), len(scenario.targets)):
        raise SpecError(
            f"{folder / model}: the network gives {found.shape[1:]} targets; {len(scenario.targets)} are wanted "
            f"({', '.join(scenario.targets)}): is it of another release of YAHPO Gym?"
        )
    by_name = {name: found[:, index].reshape(configs, -1) for index, name in enumerate(scenario.targets)}
    seconds = np.diff(by_name[scenario.time], axis=1, prepend=0.0)
    return CurveTable(
        space=space,
        metric=metric,
        mode=mode or (scenario.mode if metric == scenario.metric else "max" if "accuracy" in metric else "min"),
        configs=drawn,
        values={name: values.astype(np.float32) for name, values in by_name.items() if name != scenario.time},
        seconds=np.maximum(seconds, _BRIEFEST).astype(np.float32),
        resource=EPOCH,
        name=f"yahpo_{folder.name}_{instance}",
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: it cannot be read as JSON: {error}") from error


def _hyperparameters(folder: Path) -> list[dict[str, Any]]:
    path = folder / "config_space.json"
    data = _json(path)
    if not isinstance(data, Mapping) or not isinstance(data.get("hyperparameters"), list):
        raise SpecError(f"{path}: it has no list `hyperparameters`, as ConfigSpace writes it")
    if data.get("conditions") or data.get("forbiddens"):
        raise SpecError(f"{path}: it has conditions, or forbids configs; neither is read here")
    return list(data["hyperparameters"])


def _domain(parameter: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter of ConfigSpace in the form of spec files."""
    kind = parameter.get("type")
    if kind == "categorical":
        return {"type": "choice", "values": list(parameter["choices"])}
    if kind not in ("uniform_int", "uniform_float"):
        raise SpecError(
            f"{parameter.get('name')}: its type {kind!r} is not read; uniform_int, uniform_float, categorical are"
        )
    whole = kind == "uniform_int"
    low, high = ((int if whole else float)(parameter[end]) for end in ("lower", "upper"))
    return {"type": "int" if whole else "float", "low": low, "high": high, "log": bool(parameter.get("log"))}


def _code(folder: Path, encoding: Mapping[str, Mapping[str, int]], name: str, value: str) -> int:
    if value not in encoding.get(name, {}):
        raise SpecError(f"{folder / 'encoding.json'}: it has no number for {name} {value!r}")
    return encoding[name][value]


def _network(path: Path) -> Network:
    """Load a network. SpecError where there is none, or nothing to run it with."""
    if not path.is_file():
        raise SpecError(f"{path}: there is no such network; --model names another file of the folder")
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise SpecError("a network of YAHPO Gym needs onnxruntime: pip install onnxruntime") from error
    try:
        session = onnxruntime.InferenceSession(str(path))
    except Exception as error:  # its own exceptions have no common class
        raise SpecError(f"{path}: it cannot be read as a network: {error}") from error
    categories, numbers = (each.name for each in session.get_inputs()[:2])
    output = session.get_outputs()[0].name

    def ask(codes: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run([output], {categories: codes, numbers: values})[0]
        return found

    return ask


def main() -> None:
    """Read the arguments and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the scenario: yahpo_data/lcbench or yahpo_data/fcnet")
    parser.add_argument("instance", help="the data set: a value of OpenML_task_id, or of task")
    parser.add_argument("--metric")
    parser.add_argument("--mode", choices=["min", "max"])
    parser.add_argument("--configs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=MODEL, help="the network's file in the folder")
    parser.add_argument("--to", type=Path, required=True, help="a file .npz or .parquet")
    options = parser.parse_args()
    given = {key: value for key, value in vars(options).items() if key not in ("folder", "instance", "to")}
    try:
        read(options.folder, options.instance, **given).save(options.to)
    except SpecError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
