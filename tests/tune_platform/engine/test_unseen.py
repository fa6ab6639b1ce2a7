"""Names in `stop`, `resource` and the metric that are Ray Tune's, and those that no report has."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune_platform import SearchSpec, report, resume, run, uniform
from tune_platform.backends import executor


def train(config: dict[str, Any]) -> None:
    for epoch in range(1, 10):
        report({"loss": 1.0 / epoch, "accuracy": 0.1, "epoch": epoch})


def of(storage: Path, **options: Any) -> SearchSpec:
    given = {"trainable": train, "param_space": {"x": uniform(0, 1)}, "metric": "loss", "mode": "min", **options}
    return SearchSpec(**{"num_samples": 2, "storage": str(storage), "backend": "inline", "name": "names", **given})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("stop: ")]


def test_a_name_that_no_report_has_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = of(tmp_path, stop={"acuracy": 0.9, "training_iteration": 5, "loss2": 3}, mode="max")
    results = run(spec)
    assert [trial.step for trial in results] == [5, 5]
    assert warnings(caplog) == [
        "stop: 'acuracy' was in no report by the end of the first trial, so that no trial is stopped by it; "
        "reported: accuracy, epoch, loss (did you mean 'accuracy'?)",
        "stop: 'loss2' was in no report by the end of the first trial, so that no trial is stopped by it; "
        "reported: accuracy, epoch, loss (did you mean 'loss'?)",
    ]
    caplog.clear()
    resume("names", storage=tmp_path, spec=spec, extend={"trials": 1})
    assert warnings(caplog) == []


def test_names_that_are_there_are_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(of(tmp_path, stop={"accuracy": 0.9, "epoch": 4, "step": 8, "time_total_s": 1e9}))
    assert warnings(caplog) == []


@pytest.mark.parametrize("name", ["step", "training_iteration"])
def test_the_number_of_the_report_has_both_names(tmp_path: Path, name: str) -> None:
    scheduler = {"name": "asha", "resource": name, "max": 3}
    assert max(trial.step for trial in run(of(tmp_path, scheduler=scheduler))) == 3
    assert [t.step for t in run(of(tmp_path / "stop", stop={name: 4}))] == [4, 4]


def test_time_total_s_counts_the_seconds_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the trial's own steps, whoever else has a turn meanwhile."""
    clock = [0.0]
    fake = SimpleNamespace(monotonic=lambda: clock[0], time=time.time, sleep=time.sleep)
    monkeypatch.setattr(executor, "time", fake)

    def slow(config: dict[str, Any]) -> None:
        for _ in range(100):
            clock[0] += 10.0
            report({"loss": 1.0})

    backend = {"name": "inline", "num_cpus": 2}
    results = run(of(tmp_path, trainable=slow, stop={"time_total_s": 35.0}, backend=backend))
    assert [trial.step for trial in results] == [4, 4]
    assert results[0].reason == "time_total_s 40 reached the stop condition 35"
    scheduler = {"name": "asha", "resource": "time_total_s", "min": 30, "max": 90}
    results = run(of(tmp_path / "asha", trainable=slow, scheduler=scheduler, backend=backend))
    assert max(trial.step for trial in results) == 9
    assert "time_total_s" not in run(of(tmp_path / "plain"))[0].metrics
