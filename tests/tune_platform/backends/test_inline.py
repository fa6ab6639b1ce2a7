from __future__ import annotations

import bdb
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tune_platform.backends.inline import InlineBackend
from tune_platform.errors import ExperimentError, Interrupted
from tune_platform.protocol.backend import Backend, Job
from tune_platform.protocol.events import Reported
from tune_platform.testing.backends import BackendContract, Curve, falling, launch, trainable_of
from tune_platform.trainable import Trainable


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


def test_submit_before_start_says_what_to_do() -> None:
    with pytest.raises(ExperimentError, match="call start"):
        InlineBackend().submit([launch(0, 1)])
