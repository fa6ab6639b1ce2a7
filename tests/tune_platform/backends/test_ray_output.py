"""What trials print on Ray workers, how their processes die, and what Ray itself would say of that."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import ray

from tune_platform.backends.ray import RayBackend
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Release
from tune_platform.testing.backends import Watch, launch
from tune_platform.trainable import report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def own_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False)  # as a user would, with Ray's output in the terminal
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()


@pytest.fixture
def watch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watch]:
    backend = RayBackend()
    job: dict[str, Any] = {"experiment": "e", "trainable": request.param, "metrics": ("loss",), "flush_s": 5.0}
    backend.start(Job(**job, directory=str(tmp_path)))
    yield Watch(backend)
    backend.close()


def chatty(config: Mapping[str, Any]) -> dict[str, Any]:
    sys.stdout.write("python\n")
    sys.stderr.write("errors\n")
    os.write(1, b"descriptor 1\n")
    os.write(2, b"descriptor 2\n")
    subprocess.run(["sh", "-c", "echo child; echo child >&2"], check=True)
    logging.getLogger("users").warning("logged")
    return {"loss": 0.0, "pid": os.getpid(), "descriptors": len(list(Path("/proc/self/fd").iterdir()))}


@pytest.mark.parametrize("watch", [chatty], indirect=True)
def test_all_that_a_trial_prints_is_in_its_log(watch: Watch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for trial in range(5):
        watch.backend.submit([launch(trial, None)])
        watch.until(lambda trial=trial: watch.done(trial))  # type: ignore[misc]
        watch.backend.submit([Release(trial=trial)])
    last = [watch.reports(trial)[-1].metrics for trial in range(5)]
    assert len({metrics["pid"] for metrics in last}) == 1
    opened = [metrics["descriptors"] for metrics in last]  # Ray opens some for a moment now and then
    assert min(opened[3:]) <= min(opened[1:3]), "none is left open"
    for trial in range(5):
        lines = (tmp_path / f"trial-0000{trial}" / "log.txt").read_text().splitlines()
        assert lines == ["python", "errors", "descriptor 1", "descriptor 2", "child", "child", "logged"]
    assert capfd.readouterr().out == ""


def silent(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"loss": 0.0}


@pytest.mark.parametrize("watch", [silent], indirect=True)
def test_a_trial_that_prints_nothing_leaves_no_folder(watch: Watch, tmp_path: Path) -> None:
    for trial in range(2):
        watch.backend.submit([launch(trial, None)])
        watch.until(lambda trial=trial: watch.done(trial))  # type: ignore[misc]
        watch.backend.submit([Release(trial=trial)])
    watch.backend.close()
    assert list(tmp_path.iterdir()) == []


def dying(config: Mapping[str, Any]) -> None:
    for _ in range(3):
        report({"loss": 0.0})
    match config["how"]:
        case "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        case "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        case "SIGSEGV":
            ctypes.string_at(0)
        case "SIGABRT":
            os.abort()
        case "os._exit":
            if os.fork() == 0:
                os._exit(0)  # a child that ends as children do
            os.wait()
            time.sleep(0.1)
            os._exit(3)


@pytest.mark.parametrize("watch", [dying], indirect=True)
@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("SIGKILL", "it left no word: most likely signal 9 (SIGKILL), which the system sends where memory runs out"),
        ("SIGTERM", "signal 15 (SIGTERM): somebody asked it to end"),
        ("SIGSEGV", "signal 11 (SIGSEGV): a crash in native code; its log has the stack"),
        ("SIGABRT", "signal 6 (SIGABRT): native code gave up; its log has the stack"),
        ("os._exit", "the training code called os._exit(3)"),
    ],
)
def test_how_a_process_died_is_one_short_line(
    watch: Watch,
    tmp_path: Path,
    how: str,
    cause: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "tune_platform.ray")
    watch.backend.submit([launch(0, None, config={"how": how})])
    watch.until(lambda: watch.failure(0))
    failure = watch.failure(0)
    assert failure is not None
    assert failure.cause == "worker_died"
    assert "not started" not in failure.message
    assert failure.message.startswith("the worker process ")
    assert failure.message.endswith(f" died: {cause}")
    assert "\n" not in failure.message
    assert len(failure.message) < 160
    assert "The actor is dead because" in failure.traceback
    assert failure.traceback.endswith(failure.message)
    assert "\x1b" not in failure.traceback
    assert watch.has_steps(0, 1, 2, 3)  # what it had reported just before
    assert watch.events.index(failure) == len(watch.events) - 1
    assert list(tmp_path.glob(".unsent-*")) == []
    watch.until(lambda: "A worker died or was killed" in caplog.text)  # what Ray would have printed
    assert capfd.readouterr().out == ""


def nested(config: Mapping[str, Any]) -> dict[str, Any]:
    divide: Callable[[int], float] = lambda x: 1 / x  # noqa: E731

    def inner() -> float:
        return divide(0)

    return {"loss": inner()}


@pytest.mark.parametrize("watch", [nested], indirect=True)
def test_a_traceback_has_the_files_and_lines_of_functions_that_were_sent(watch: Watch) -> None:
    watch.backend.submit([launch(0, None)])
    watch.until(lambda: watch.failure(0))
    failure = watch.failure(0)
    assert failure is not None
    line = nested.__code__.co_firstlineno + 1
    assert failure.message == f"ZeroDivisionError: division by zero ({__file__}:{line})"
    for offset, name in ((6, "nested"), (4, "inner"), (1, "<lambda>")):
        at = nested.__code__.co_firstlineno + offset
        assert f'File "{__file__}", line {at}, in {name}' in failure.traceback
    assert "= lambda x: 1 / x" in failure.traceback
    assert "<dynamic-code>" not in failure.traceback
