"""What a trial finds in its process does not depend on who was there before: in this process."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tune_platform.backends.spoiling import Spoiling, found, leave_a_process
from tune_platform.backends.inline import InlineBackend
from tune_platform.isolation.process import Process
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Release
from tune_platform.testing.backends import Watch, launch
from tune_platform.trainable import Trainable, report

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """A failure here must not spoil the tests that follow."""
    process = Process()
    process.begin(0)
    yield
    process.close()


def watched(trainable: Any, **job: Any) -> Watch:
    backend = InlineBackend(num_cpus=2)
    backend.start(Job(experiment="e", trainable=trainable, metrics=("loss",), **job))
    return Watch(backend)


def first_report(watch: Watch, trial: int, **changes: Any) -> dict[str, Any]:
    watch.backend.submit([launch(trial, 1, **changes)])
    watch.until(partial(watch.reports, trial))
    watch.backend.submit([Release(trial=trial)])
    return dict(watch.reports(trial)[0].metrics)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_trial_finds_what_the_first_one_found() -> None:
    watch = watched(Spoiling)
    first, second = first_report(watch, 0), first_report(watch, 1)
    again = first_report(watch, 1)
    watch.backend.close()
    watch = watched(Spoiling)
    elsewhere = first_report(watch, 1)
    watch.backend.close()
    assert first.pop("draws") != second["draws"]
    assert first == {name: value for name, value in second.items() if name != "draws"}
    assert second == again == elsewhere


def test_this_process_is_afterwards_as_it_was() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    wanted = found()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    watch = watched(Spoiling)
    first_report(watch, 0)
    assert os.getcwd() == wanted["folder"]  # noqa: PTH109 (between two steps too)
    watch.backend.close()
    assert found() == wanted


def test_trials_that_take_turns_each_have_their_own_state() -> None:
    def alone(trial: int) -> list[Any]:
        watch = watched(Spoiling)
        watch.backend.submit([launch(trial, 2)])
        watch.until(partial(watch.has_steps, trial, 1, 2))
        watch.backend.close()
        return [report.metrics for report in watch.reports(trial)]

    watch = watched(Spoiling)
    watch.backend.submit([launch(0, 2), launch(1, 2)])
    watch.until(lambda: watch.has_steps(0, 1, 2) and watch.has_steps(1, 1, 2))
    watch.backend.close()
    for trial in (0, 1):
        assert [report.metrics for report in watch.reports(trial)] == alone(trial)
        assert watch.reports(trial)[1].metrics["folder"] == "/"


def test_a_paused_trial_in_memory_finds_its_own_state_again() -> None:
    watch = watched(Spoiling, keep_warm=1)
    watch.backend.submit([launch(0, 1)])
    watch.until(partial(watch.reports, 0))
    watch.backend.submit([Release(trial=0, warm=True)])
    first_report(watch, 1)
    watch.backend.submit([launch(0, 2, attempt=2, start=1, committed=1)])
    watch.until(partial(watch.has_steps, 0, 1, 2))
    watch.backend.close()
    calm = watched(Spoiling)
    calm.backend.submit([launch(0, 2)])
    calm.until(partial(calm.has_steps, 0, 1, 2))
    calm.backend.close()
    assert watch.reports(0)[1].metrics == calm.reports(0)[1].metrics


def test_what_a_trial_draws_depends_on_the_seed_the_trial_and_where_it_starts() -> None:
    class Draws(Trainable):
        def step(self) -> dict[str, Any]:
            same = random.Random(self.context.seed).random()
            return {"loss": random.random(), "own": same}

        def load_checkpoint(self, directory: Path) -> None: ...

    def draw(trial: int = 0, seed: int = 0, **changes: Any) -> dict[str, Any]:
        return first_report(watched(Draws, seed=seed), trial, **changes)

    first = draw()
    assert first["loss"] == first["own"], "context.seed is the seed"
    assert draw(attempt=2) == first
    others = [draw(1), draw(seed=1), draw(start=4, committed=4)]
    assert len({first["loss"], *(other["loss"] for other in others)}) == 4


SCRIPT = """
import sys
from tune_platform.isolation.process import Process
process = Process()
process.begin(5)
assert "numpy" not in sys.modules and "torch" not in sys.modules
import numpy, torch
first = numpy.random.rand(), torch.rand(()).item(), torch.get_num_threads()
torch.set_default_dtype(torch.float64)
torch.set_num_threads(first[2] + 1)
process.begin(5)
assert torch.get_default_dtype() is torch.float32
assert (numpy.random.rand(), torch.rand(()).item(), torch.get_num_threads()) == first
process.close()
"""


def test_a_library_is_seeded_when_the_first_trial_imports_it() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, check=True)


def test_a_logger_that_came_with_a_module_keeps_its_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import logging\nlogging.getLogger(__name__).addHandler(logging.NullHandler())\n"
    (tmp_path / "with_a_handler.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def train(config: dict[str, Any]) -> dict[str, Any]:
        import with_a_handler  # type: ignore[import-not-found]

        own, new = logging.getLogger(with_a_handler.__name__), logging.getLogger("not.a.module")
        before = f"{len(own.handlers)} {len(new.handlers)}"
        new.addHandler(logging.NullHandler())
        return {"loss": 0.0, "handlers": before}

    watch = watched(train)
    assert [first_report(watch, trial)["handlers"] for trial in range(3)] == ["1 0", "1 0", "1 0"]
    watch.backend.close()


def test_a_folder_that_is_gone_does_not_harm_the_next_trial(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        before = os.getcwd()  # noqa: PTH109
        (tmp_path / "short").mkdir()
        os.chdir(tmp_path / "short")
        (tmp_path / "short").rmdir()
        return {"loss": 0.0, "before": before}

    watch = watched(train)
    home = os.getcwd()  # noqa: PTH109
    assert [first_report(watch, trial)["before"] for trial in range(2)] == [home, home]
    watch.backend.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_handlers_of_the_driver_stay(number: signal.Signals) -> None:
    """A debugger, or training code, sets its own: the next Ctrl-C belongs to the run all the same."""

    class Handles(Trainable):
        def step(self) -> dict[str, Any]:
            signal.signal(number, signal.SIG_IGN)
            return {"loss": 0.0}

    before = signal.getsignal(number)
    watch = watched(Handles)
    first_report(watch, 0)
    assert signal.getsignal(number) is before
    watch.backend.close()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running")
def test_processes_that_a_trial_leaves_are_ended(caplog: pytest.LogCaptureFixture) -> None:
    own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        watch = watched(leave_a_process)
        child = first_report(watch, 3)["child"]
        assert gone(child)
        assert f"trial 3 left processes behind, which were ended: {child}" in caplog.text
        assert own.poll() is None, "it was there before the trial"
        watch.backend.close()
    finally:
        own.kill()
        own.wait()


def test_a_pool_that_is_let_go_ends_itself(caplog: pytest.LogCaptureFixture) -> None:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        import joblib  # type: ignore[import-untyped]

        return {"loss": float(sum(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(i) for i in range(4))))}

    pytest.importorskip("joblib")
    watch = watched(train)
    assert [first_report(watch, trial)["loss"] for trial in range(3)] == [6.0, 6.0, 6.0]
    watch.backend.close()
    assert "left processes" not in caplog.text


def test_a_thread_that_a_trial_leaves_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()

    def train(config: dict[str, Any]) -> None:
        def wait_on() -> None:
            while not stop.is_set():
                time.sleep(0.01)

        threading.Thread(target=wait_on, name="wait_on", daemon=True).start()
        report({"loss": 0.0})

    watch = watched(train)
    try:
        for trial in range(2):
            first_report(watch, trial)
    finally:
        stop.set()
        watch.backend.close()
    assert caplog.text.count("still runs training code in this process") == 1
    assert "trial 0 has ended, but the thread(s) wait_on" in caplog.text


def test_threads_of_libraries_and_those_that_end_are_no_matter(caplog: pytest.LogCaptureFixture) -> None:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(2)
        pool.submit(abs, -1).result()
        config["pool"] = pool  # which waits for more to do
        threading.Thread(target=lambda: time.sleep(0.2)).start()
        train.pool = pool  # type: ignore[attr-defined]
        return {"loss": 0.0}

    watch = watched(train)
    first_report(watch, 0)
    watch.backend.close()
    train.pool.shutdown()  # type: ignore[attr-defined]
    assert "still runs" not in caplog.text


def test_warnings_are_as_they_were() -> None:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        warnings.warn("told", stacklevel=1)
        warnings.simplefilter("error")
        return {"loss": 0.0}

    watch = watched(train)
    with pytest.warns(UserWarning, match="told"):
        [first_report(watch, trial) for trial in range(2)]
    watch.backend.close()
