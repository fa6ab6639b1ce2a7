"""Write a table of learning curves from LCBench's own file (Zimmer, Lindauer and Hutter 2021), which the user has.

    python -m benchmarks.curves.lcbench data_2k_lw.json Fashion-MNIST --to fashion.npz

The file maps data set -> config's number -> `config` (one value a parameter) and `log` (one list a tag, one entry an
epoch), as LCBench's `api.py` reads it. `time` counts up over a training, so the seconds of an epoch are differences.
The space is that of LCBench's description: seven parameters; the others are the same in all configs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tune_platform.curves.table import CurveTable
from tune_platform.errors import SpecError, did_you_mean
from tune_platform.space import Space, lograndint, loguniform, randint, uniform

#: LCBench's search space; upper ends of whole numbers are exclusive.
SPACE = {
    "batch_size": lograndint(16, 513),
    "learning_rate": loguniform(1e-4, 1e-1),
    "momentum": uniform(0.1, 0.99),
    "weight_decay": uniform(1e-5, 1e-1),
    "num_layers": randint(1, 6),
    "max_units": lograndint(64, 1025),
    "max_dropout": uniform(0.0, 1.0),
}
METRIC = "Train/val_accuracy"


def read(path: Path, name: str, metric: str = METRIC, mode: str = "max") -> CurveTable:
    """Return the table of one data set. Raises SpecError where the file is none of LCBench's or lacks what is asked."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: it cannot be read as LCBench's JSON: {error}") from error
    if not isinstance(data, Mapping) or name not in data:
        known = list(data) if isinstance(data, Mapping) else []
        raise SpecError(f"{path}: no data set {name!r}{did_you_mean(name, known)}; it has {', '.join(known) or 'none'}")
    runs = list(data[name].values())
    values, seconds = [], []
    for number, run in enumerate(runs):
        log = run.get("log", {})
        for tag in (metric, "time"):
            if tag not in log:
                hint = did_you_mean(tag, log)
                raise SpecError(f"{path}: config {number} of {name} has no {tag!r}{hint}; it has {', '.join(log)}")
        if len(log[metric]) != len(log["time"]):
            raise SpecError(
                f"{path}: config {number} of {name} has {len(log[metric])} values of {metric} and {len(log['time'])} "
                "of time; one of each an epoch is wanted"
            )
        values.append([float(value) for value in log[metric]])
        seconds.append(np.diff([0.0, *map(float, log["time"])]))
    return CurveTable(
        space=Space(SPACE),
        metric=metric.rsplit("/", 1)[-1],
        mode=mode,
        configs=[_config(path, number, run["config"]) for number, run in enumerate(runs)],
        values={metric.rsplit("/", 1)[-1]: _even(values)},
        seconds=_even(seconds),
        resource="epoch",
        name=f"lcbench_{name}",
    )


def _config(path: Path, number: int, config: Mapping[str, Any]) -> dict[str, Any]:
    lacking = [name for name in SPACE if name not in config]
    if lacking:
        raise SpecError(f"{path}: config {number} lacks {', '.join(lacking)}; it has {', '.join(config)}")
    whole = ("batch_size", "num_layers", "max_units")
    return {name: int(config[name]) if name in whole else float(config[name]) for name in SPACE}


def _even(rows: list[Any]) -> np.ndarray[Any, Any]:
    """Return rows of unlike length as one array, with NaN behind their ends."""
    array = np.full((len(rows), max(map(len, rows))), np.nan, dtype=np.float32)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


def main() -> None:
    """Read the arguments and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("data_set")
    parser.add_argument("--metric", default=METRIC)
    parser.add_argument("--mode", default="max", choices=["min", "max"])
    parser.add_argument("--to", type=Path, required=True, help="a file .npz or .parquet")
    options = parser.parse_args()
    try:
        read(options.file, options.data_set, options.metric, options.mode).save(options.to)
    except SpecError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
