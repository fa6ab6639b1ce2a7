from __future__ import annotations

import bdb
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tune_platform import grid_search
from tune_platform.api import run as search
from tune_platform.backends import inline
from tune_platform.backends.inline import InlineBackend
from tune_platform.errors import ExperimentError, Interrupted
from tune_platform.protocol.backend import Backend, Job
from tune_platform.protocol.events import Reported
from tune_platform.resources import Resources
from tune_platform.spec import SearchSpec
from tune_platform.testing.backends import BackendContract, Curve, falling, launch, trainable_of
from tune_platform.trainable import Trainable, report


class TestInline(BackendContract):
    def make_backend(self, curve: Curve) -> Backend:
        return InlineBackend(num_cpus=2)


def started(trainable: Any, **job: Any) -> InlineBackend:
    backend = InlineBackend(num_cpus=2, custom={"licence": 1})
    backend.start(Job(experiment="e", trainable=trainable, metrics=("loss",), **job))
    return backend


def test_one_poll_is_one_step_in_turn() -> None:
    backend = started(trainable_of(falling))
    backend.submit([launch(0, 2), launch(1, 2)])
    seen = []
    for _ in range(4):
        (event,) = backend.poll(0)
        assert isinstance(event, Reported)
        seen.append((event.trial, event.reports[-1].step))
    assert seen == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert backend.poll(0) == []


@pytest.mark.parametrize("error", [Interrupted, bdb.BdbQuit])
def test_an_interrupt_leaves_the_backend(error: type[BaseException]) -> None:
    class Leaves(Trainable):
        def step(self) -> Mapping[str, Any]:
            raise error

    backend = started(Leaves)
    backend.submit([launch(0, 1)])
    with pytest.raises(error):
        backend.poll(0)
    backend.close()


def test_a_class_runs_in_the_callers_thread_without_a_directory(tmp_path: Path) -> None:
    threads = []

    class Here(Trainable):
        def step(self) -> Mapping[str, Any]:
            threads.append((threading.current_thread(), self.context.folder, self.context.resources))
            return {"loss": 0.0}

    backend = started(Here)
    backend.submit([launch(0, 1)])
    backend.poll(0)
    assert threads == [(threading.main_thread(), "", {"cpu": 1.0})]


@pytest.mark.parametrize(
    "resources",
    [
        Resources(cpu=64),
        Resources(cpu=0),
        Resources(cpu=2, custom={"licence": 3}),
        Resources(cpu=8, workers=3),
        Resources(workers=2, strategy="STRICT_SPREAD"),
        Resources(workers=2, strategy="STRICT_PACK"),
        pytest.param(lambda config: Resources(cpu=1 + config["x"], gpu=2), id="of the config"),
    ],
    ids=str,
)
def test_it_runs_what_a_spec_asks_of_a_cluster(resources: Any, tmp_path: Path) -> None:
    open_trials: list[int] = []

    class Counts(Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            open_trials.append(self.context.trial)
            self.now = 0

        def step(self) -> Mapping[str, Any]:
            self.now += 1
            return {"loss": len(open_trials), "done": self.now == 3, **self.context.resources}

        def cleanup(self) -> None:
            open_trials.remove(self.context.trial)

    spec = SearchSpec(
        trainable=Counts, param_space={"x": {"grid_search": [1, 2, 3]}}, metric="loss", mode="min", backend="inline",
        resources=resources, storage=str(tmp_path), max_concurrent=2,
    )  # fmt: skip
    results = search(spec, progress="off")
    assert results.status == "finished"
    assert [(trial.status, trial.best) for trial in results] == [("COMPLETED", 1)] * 3
    for trial in results:
        wanted = resources if isinstance(resources, Resources) else resources(trial.config)
        assert {name: trial.metrics.get(name, 0.0) for name in ("cpu", "licence")} == {
            "cpu": wanted.cpu, "licence": wanted.custom.get("licence", 0.0),
        }  # fmt: skip


@pytest.mark.parametrize("there", [False, True])
def test_a_gpu_that_is_not_here_is_told_and_done_without(
    there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Device(Trainable):
        def step(self) -> Mapping[str, Any]:
            return {"loss": 0.0, "device": self.context.device}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    backend = InlineBackend()
    resources = Resources(cpu=4, gpu=1)
    capacity = backend.start(Job(experiment="e", trainable=Device, metrics=("loss",), resources=resources))
    assert capacity.nodes == ({"cpu": 4.0, "gpu": 1.0},)
    for trial in range(2):
        backend.submit([launch(trial, 1, resources=resources)])
        (event,) = backend.poll(0)
        assert isinstance(event, Reported)
        assert event.reports[0].metrics["device"] == ("cuda" if there else "cpu")
    backend.close()
    assert caplog.text.count("they run on the CPU") == (0 if there else 1)


def test_amounts_that_are_given_are_all_there_is(tmp_path: Path) -> None:
    spec = SearchSpec(
        trainable=trainable_of(falling), param_space={"x": 1.0}, metric="loss", mode="min", resources={"cpu": 3},
        backend=InlineBackend(num_cpus=2), storage=str(tmp_path),
    )  # fmt: skip
    results = search(spec, progress="off")
    assert "needs 3 cpu, but the nodes have only: 2 cpu" in results[0].reason


def test_submit_before_start_says_what_to_do() -> None:
    with pytest.raises(ExperimentError, match="call start"):
        InlineBackend().submit([launch(0, 1)])


def test_step_timeout_holds_for_the_trial_that_is_slow_and_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one takes its time the others have no turn, which is no fault of theirs."""
    clock = [0.0]
    monkeypatch.setattr(inline, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time, sleep=time.sleep))

    def train(config: dict[str, Any]) -> None:
        for step in range(1, 4):
            clock[0] += 9.0 if config["slow"] and step == 2 else 0.0
            report({"loss": float(step)})

    spec = SearchSpec(
        trainable=train, param_space={"slow": grid_search([False, True, False])}, metric="loss", mode="min",
        num_samples=1, step_timeout=5, storage=str(tmp_path), backend={"name": "inline", "num_cpus": 3},
    )  # fmt: skip
    results = search(spec)
    assert [trial.status for trial in results] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert results[1].attempt == 2, "it is tried once more, as anywhere"
    assert results[1].reason == "timeout: a step took 9.0 s, longer than 5 s (step_timeout)"
