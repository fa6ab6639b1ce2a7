"""The socket beside Ray's calls: what goes through it, and what becomes of a trial where it breaks or cannot be had."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import ray

from tune_platform.backends._ray_nodes import Nodes
from tune_platform.backends._ray_worker import Call, RayWorker
from tune_platform.backends.ray import RayBackend
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Advance, Release, Save
from tune_platform.protocol.events import Failed
from tune_platform.testing.backends import Watch, launch
from tune_platform.trainable import Trainable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def own_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()


class Pid(Trainable):
    """Reports its process; `sleep` seconds a step; writes a file when it is cleaned up."""

    def step(self) -> Mapping[str, Any]:
        time.sleep(self.config.get("sleep", 0.0))
        return {"loss": 0.0, "pid": os.getpid(), "size": len(self.config.get("big", ""))}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "pid").write_text(str(os.getpid()))

    def cleanup(self) -> None:
        if "clean" in self.config:
            Path(self.config["clean"]).touch()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    backend = RayBackend(idle_s=60.0)
    backend.start(
        Job(
            experiment="e", trainable=Pid, metrics=("loss",), flush_s=0.1, directory=str(tmp_path),
            checkpoints=str(tmp_path / "checkpoints"), resources=None,
        )
    )  # fmt: skip
    yield Watch(backend)
    backend.close()


def worker_of(watch: Watch, trial: int) -> RayWorker:
    leases = watch.backend._leases  # type: ignore[attr-defined]
    return leases._of[trial]  # type: ignore[no-any-return]


def begin(watch: Watch, trial: int = 0, **config: Any) -> RayWorker:
    """Launch a trial that halts after step 1 and can be reached through a link."""
    watch.backend.submit([launch(trial, 1, config=config)])
    watch.until(lambda: watch.steps(trial) == [1])
    worker = worker_of(watch, trial)
    watch.until(lambda: worker.link is not None and worker.link.serves)
    return worker


@pytest.fixture
def by_ray(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called through Ray from now on."""
    called: list[str] = []
    call = RayWorker.call

    def noted(self: RayWorker, results: Any, kind: str, *args: Any) -> None:
        before = len(self.link._pending) if self.link is not None else 0
        call(self, results, kind, *args)
        if self.link is None or len(self.link._pending) == before:
            called.append(kind)

    monkeypatch.setattr(RayWorker, "call", noted)
    return called


def test_after_the_first_leg_all_short_ones_go_through_the_link(watch: Watch, by_ray: list[str]) -> None:
    begin(watch)
    del by_ray[:]
    watch.backend.submit([Advance(trial=0, until=3, save=False)])
    watch.until(lambda: watch.steps(0) == [1, 2, 3])
    watch.backend.submit([Save(trial=0)])
    watch.until(lambda: watch.answers(0))
    watch.backend.submit([Release(trial=0)])
    for trial in range(1, 20):
        watch.backend.submit([launch(trial, 2)])
        watch.until(partial(watch.has_steps, trial, 1, 2))
        watch.backend.submit([Release(trial=trial)])
    assert set(by_ray) <= {"collect"}, "legs that took longer than flush_s are collected on the way"
    pids = {report.metrics["pid"] for trial in range(20) for report in watch.reports(trial)}
    assert len(pids) == 1


def test_what_does_not_fit_goes_through_ray_in_its_order(watch: Watch, by_ray: list[str]) -> None:
    worker = begin(watch)
    watch.backend.submit([Release(trial=0), launch(1, 1, config={"big": "x" * 100_000})])
    watch.backend.submit([Advance(trial=1, until=3, save=False)])
    watch.until(lambda: watch.steps(1) == [1, 2, 3])
    assert {report.metrics["size"] for report in watch.reports(1)} == {100_000}
    assert worker_of(watch, 1) is worker
    assert by_ray.count("launch") == 2
    assert "advance" not in by_ray


def test_a_process_that_dies_in_a_leg_is_told_with_what_it_had_reported(watch: Watch) -> None:
    worker = begin(watch, sleep=0.05)
    watch.backend.submit([Advance(trial=0, until=1000, save=False)])
    watch.until(lambda: len(watch.steps(0)) > 3)
    os.kill(watch.reports(0)[0].metrics["pid"], signal.SIGKILL)
    watch.until(lambda: watch.failure(0))
    failure = watch.failure(0)
    assert failure is not None
    assert failure.cause == "worker_died"
    assert "SIGKILL" in failure.message
    assert watch.steps(0) == list(range(1, len(watch.steps(0)) + 1))
    assert worker.dead
    begin(watch, 1)


@pytest.mark.parametrize("busy", [True, False])
def test_a_link_that_breaks_is_no_fault_of_the_trial(watch: Watch, busy: bool) -> None:
    """Where the worker was asked for something the answer is lost; else it goes on, through Ray."""
    worker = begin(watch, sleep=0.2)
    assert worker.link is not None
    line = worker.link._line
    assert line is not None
    if busy:
        watch.backend.submit([Advance(trial=0, until=4, save=False)])
    line._sock.shutdown(socket.SHUT_RDWR)
    if busy:
        watch.until(lambda: watch.failure(0))
        failure = watch.failure(0)
        assert failure is not None
        assert failure.cause == "node_lost", "the cluster's fault, which takes none of the trial's retries"
        assert "its connection to the driver has broken" in failure.message
        watch.backend.submit([launch(0, 4, attempt=2, committed=watch.steps(0)[-1])])
    else:
        watch.backend.submit([Advance(trial=0, until=4, save=False)])
    watch.until(lambda: watch.steps(0) == [1, 2, 3, 4])
    assert (worker_of(watch, 0) is worker) is not busy


def test_last_words_that_are_a_loss_themselves_are_told_once(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a call is an error of the platform's own, and the process dies before the driver has read it."""
    worker = begin(watch)
    link = worker.link
    assert link is not None
    call = Call("advance", worker.order, worker.lease, ())
    words = [(call, RuntimeError("broken inside"))]
    monkeypatch.setattr(link, "answers", lambda: iter([words.pop()] if words else []))
    watch.backend._leases.settle(worker, call, ConnectionError("and gone"))  # type: ignore[attr-defined]
    watch.until(lambda: watch.failure(0))
    watch.settle()
    failures = [event for event in watch.events if isinstance(event, Failed)]
    assert [failure.message for failure in failures] == ["broken inside"]
    assert worker.dead
    monkeypatch.undo()


@pytest.mark.parametrize("why", ["address", "port"])
def test_where_there_is_no_way_all_goes_through_ray(
    watch: Watch, by_ray: list[str], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "address":
        monkeypatch.setattr(Nodes, "address_of", lambda self, place: "203.0.113.1")
    else:
        monkeypatch.setattr("tune_platform.backends._ray_link.knock", lambda *a: None)
    watch.backend.submit([launch(0, 1)])
    watch.until(lambda: watch.steps(0) == [1])
    worker = worker_of(watch, 0)
    for until in range(2, 8):
        watch.backend.submit([Advance(trial=0, until=until, save=False)])
        watch.until(partial(watch.has_steps, 0, *range(1, until + 1)))
    assert by_ray.count("advance") == 6
    assert worker.link is not None
    assert not worker.link.serves


def test_workers_give_back_what_they_hold_at_the_end(watch: Watch, tmp_path: Path) -> None:
    begin(watch, clean=str(tmp_path / "clean"))
    watch.backend.close()
    assert (tmp_path / "clean").exists()
