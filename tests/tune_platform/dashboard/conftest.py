"""A small experiment, written as a driver would, whose texts try to be more than texts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tune_platform.store.records import CheckpointRow, LogRow, ReportRow, TrialRow
from tune_platform.store.sql import SqlExperiment, open_store

MARKUP = "<script>alert(1)</script>"
SPEC: dict[str, Any] = {
    "objective": {"metric": "loss", "mode": "min"},
    "space": {
        "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
        "optimizer": {"type": "choice", "values": ["adam", "sgd", MARKUP]},
    },
    "budget": {"trials": 10},
}


def trial_row(number: int, status: str = "COMPLETED", **more: Any) -> TrialRow:
    """Return a trial of the small experiment: its loss is a tenth of its number, plus 0.1."""
    loss = 0.1 + number / 10
    values: dict[str, Any] = {
        "trial": number, "status": status,
        "config": {"lr": 0.01 * (number + 1), "optimizer": ("adam", "sgd")[number % 2]},
        "step": 3, "metrics": {"loss": loss, "epoch": 3}, "best": loss, "best_step": 3, "created": 100.0 + number,
        "started": 101.0 + number, "ended": 111.0 + number, "worker": "node:1",
    }  # fmt: skip
    return TrialRow(**{**values, **more})


def write(experiment: SqlExperiment, folder: Path) -> None:
    """Write the trials 0 to 4, of which 3 has failed and 4 is running."""
    failed: dict[str, Any] = {
        "config": {"lr": 0.1, "optimizer": MARKUP}, "metrics": {}, "best": None, "best_step": None, "step": 0,
        "error": f"Traceback\nValueError: {MARKUP}", "reason": "failed",
    }  # fmt: skip
    rows = [trial_row(n) for n in range(3)] + [trial_row(3, "FAILED", **failed)]
    rows.append(trial_row(4, "RUNNING", ended=None))
    log = [LogRow(n + 1, 100.0 + n, "launched", n, {"attempt": 1, "nodes": [0], "until": 3}) for n in range(len(rows))]
    reports = [
        ReportRow(n, step, n + 1, 102.0 + step, {"loss": 0.4 + n / 10 - step / 10, "epoch": step})
        for n in (0, 1, 2, 4)
        for step in (1, 2, 3)
    ]
    saved = folder / "checkpoints" / "trial-00000"
    (saved / "files").mkdir(parents=True)
    (saved / "files" / "model.bin").write_bytes(b"weights")
    experiment.append(log, reports, rows, [CheckpointRow(trial=0, step=3, uri=str(saved), bytes=7)])
    text = folder / "trials" / "trial-00000"
    text.mkdir(parents=True)
    (text / "log.txt").write_text(f"epoch 1\n{MARKUP}\n")


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Path]:
    """A folder with the experiment `small`, which runs, held by this process."""
    with open_store(tmp_path) as store, store.create("small", SPEC, created=time.time()) as experiment:
        experiment.acquire()
        write(experiment, tmp_path / "small")
        yield tmp_path
