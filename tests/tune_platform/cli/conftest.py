"""Experiments written through the store, as a driver would have written them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tune_platform.cli import main
from tune_platform.store.records import CheckpointRow, LogRow, ReportRow, TrialRow
from tune_platform.store.sql import SqlExperiment, open_store

#: A moment that all stored times count from, in seconds since the epoch.
START = 1_700_000_000.0

SPEC: Mapping[str, Any] = {
    "version": 1,
    "name": "digits",
    "entrypoint": "tune_platform.trainables.digits:DigitsTrainable",
    "objective": {"metric": "accuracy", "mode": "max", "target": None},
    "space": {
        "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
        "optimizer": {"type": "choice", "values": ["sgd", "adamw"]},
        "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": "sgd"}},
        "model": {"width": {"type": "choice", "values": [32, 64]}},
        "epochs": 3,
    },
    "constraints": [],
    "budget": {"trials": 4, "failures": 2},
}

TRACEBACK = """Traceback (most recent call last):
  File "/usr/lib/python3.11/site-packages/tune_platform/worker.py", line 12, in run
    trainable.step()
  File "/home/ada/train.py", line 31, in step
    raise ValueError("the loss exploded")
ValueError: the loss exploded
"""


def fill(experiment: SqlExperiment) -> None:
    """Write four trials: completed, stopped by a scheduler, failed, and running."""
    configs = [
        {"lr": 0.01, "optimizer": "adamw", "model": {"width": 64}, "epochs": 3},
        {"lr": 0.5, "optimizer": "sgd", "momentum": 0.9, "model": {"width": 32}, "epochs": 3},
        {"lr": 1e-4, "optimizer": "adamw", "model": {"width": 32}, "epochs": 3},
        {"lr": 0.1, "optimizer": "sgd", "momentum": 0.5, "model": {"width": 64}, "epochs": 3},
    ]
    curves = [[0.5, 0.93125, 0.92], [0.125], [], [0.25, float("nan")]]
    log: list[LogRow] = []
    reports: list[ReportRow] = []

    def add(kind: str, trial: int | None, at: float, **data: Any) -> int:
        log.append(LogRow(len(log) + 1, START + at, kind, trial, data))
        return len(log)

    for number, config in enumerate(configs):
        add("suggested", number, number, config=config, origin="start" if number == 0 else "searcher", memo=None)
    for number, curve in enumerate(curves):
        for step, value in enumerate(curve, 1):
            seq = add("reported", number, 10 * step, first=step, last=step)
            metrics = {"accuracy": value, "loss": 1 - value, "epoch": step}
            reports.append(ReportRow(number, step, seq, START + 10 * step, metrics))
            if number == 0 and step < 3:
                add("verdict", 0, 10 * step, step=step, verdict="continue", reason="rung 1: rank 1 of 2", until=3.0)
    add("verdict", 1, 10, step=1, verdict="stop", reason="rung 1: rank 2 of 2, keep 1")
    add("failed", 2, 5, attempt=1, cause="exception", message="the loss exploded", traceback=TRACEBACK, fatal=False)
    trials = [
        TrialRow(trial=0, status="COMPLETED", config=configs[0], reason="the training code ended", origin="start",
                 attempt=1, step=3, metrics={"accuracy": 0.92, "loss": 0.08, "epoch": 3}, best=0.93125, best_step=2,
                 worker="node1:77", created=START, started=START + 1, ended=START + 31),
        TrialRow(trial=1, status="STOPPED", config=configs[1], reason="rung 1: rank 2 of 2, keep 1",
                 attempt=1, step=1, metrics={"accuracy": 0.125, "loss": 0.875, "epoch": 1}, best=0.125, best_step=1,
                 created=START + 1, started=START + 2, ended=START + 10),
        TrialRow(trial=2, status="FAILED", config=configs[2], reason="exception: the loss exploded", attempt=1,
                 error=TRACEBACK, created=START + 2, started=START + 3, ended=START + 5),
        TrialRow(trial=3, status="RUNNING", config=configs[3], attempt=1, step=2, best=0.25, best_step=1,
                 metrics={"accuracy": float("nan"), "loss": float("nan"), "epoch": 2}, created=START + 3,
                 started=START + 4),
    ]  # fmt: skip
    saved = [CheckpointRow(trial=0, step=step, uri=f"/ckpt/trial-00000/step-{step:08}-a1", bytes=10) for step in (2, 3)]
    experiment.append(log, reports, trials, saved)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default storage of every command, empty; times are shown in UTC."""
    place = tmp_path / "results"
    monkeypatch.setenv("TUNE_PLATFORM_STORAGE", str(place))
    for name in ("NO_COLOR", "FORCE_COLOR", "TUNE_PLATFORM_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    return place


Make = Callable[..., None]


@pytest.fixture
def make(storage: Path) -> Make:
    """Return a function that writes an experiment."""

    def write(name: str = "digits", status: str = "interrupted", reason: str = "the driver was interrupted",
              spec: Mapping[str, Any] = SPEC, write: Callable[[SqlExperiment], None] = fill) -> None:  # fmt: skip
        with open_store(storage) as store, store.create(name, spec, created=START) as experiment:
            write(experiment)
            experiment.acquire(f"{socket.gethostname()}:{os.getpid()}")
            if status != "running":
                experiment.set_status(status, reason, START + 60)

    return write


Call = Callable[..., Result]


@pytest.fixture
def call(storage: Path) -> Call:
    """Return a function that runs one command line; what it raises on its own account is raised here."""

    def invoke(*words: str, code: int | None = 0) -> Result:
        result = CliRunner().invoke(main, words, prog_name="tune-platform")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if code is not None:
            assert result.exit_code == code, result.output
        return result

    return invoke


def lines(result: Result) -> Sequence[str]:
    """Return the lines of stdout."""
    return result.stdout.splitlines()
