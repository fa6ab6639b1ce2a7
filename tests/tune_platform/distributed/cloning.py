"""Gangs that are cloned, and tell what came of it; for threads and for Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.tune_platform.distributed.recipes import Recipe
from tune_platform import PBT, Resources, SearchSpec, loguniform, run


class Cloned(Recipe):
    """Tells, after a checkpoint was loaded, whether that came from memory, and which rank's model each rank has."""

    loaded: Mapping[str, float] = {}

    def load_checkpoint(self, directory: Path) -> None:
        super().load_checkpoint(directory)
        with TemporaryDirectory() as again:
            self.save_checkpoint(Path(again))
            given, taken = (_models(folder) for folder in (directory, Path(again)))
        self.loaded = {
            "in_memory": float(directory.name.startswith("tune-platform-copy-")),
            "same": float(all(torch.equal(a, b) for a, b in zip(given, taken, strict=True))),
            "alike": float(torch.equal(given[0], given[-1])),
        }

    def step(self) -> dict[str, Any]:
        time.sleep(self.config["pause"])  # a copy is dropped when the next is there: time to take it over
        return {**super().step(), **self.loaded}


def _models(folder: Path) -> list[torch.Tensor]:
    """The parameters of each rank's model, in one row."""
    states = [torch.load(path, map_location="cpu", weights_only=True) for path in sorted(folder.glob("worker-*.pt"))]
    return [torch.cat([value.flatten() for value in state["model"].values()]) for state in states]


def clones(backend: Any, storage: Path, pause: float = 0.0) -> list[dict[str, float]]:
    """Two gangs of two under PBT whose workers never agree on anything; what those that were cloned tell."""
    spec = SearchSpec(
        name="gangs",
        trainable=Cloned,
        param_space={
            "strategy": {"name": "averaging", "period": 1000},
            "lr": loguniform(1e-3, 1.0),
            "updates": 16,
            "report_every": 4,
            "pause": pause,
        },
        metric="accuracy",
        mode="max",
        num_samples=2,
        searcher="random",
        scheduler=PBT(interval=1, quantile=0.5, synchronous=True, mutations={"lr": None}),
        resources=Resources(cpu=1, workers=2),
        backend=backend,
        storage=str(storage),
    )
    results = run(spec, progress="off")
    assert [trial.status for trial in results.trials()] == ["COMPLETED"] * 2
    assert results.family().clones
    rows = results.dataframe(reports=True).to_dict("records")
    seen = [{name: row[f"metrics/{name}"] for name in ("in_memory", "same", "alike")} for row in rows]
    return [report for report in seen if report["in_memory"] == report["in_memory"]]
