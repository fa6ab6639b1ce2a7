from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tune_platform.backends import executor as module
from tune_platform.backends._batch import Batch
from tune_platform.backends.executor import Executor
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Launch
from tune_platform.protocol.events import Failed, Reported
from tune_platform.protocol.seeds import derive
from tune_platform.testing.backends import falling, launch, trainable_of
from tune_platform.trainable import Trainable, get_checkpoint, report


def run(trainable: Any, until: float | None = None, *, begin: Launch | None = None, **job: Any) -> Batch:
    fields: dict[str, Any] = {"experiment": "e", "metrics": ("loss",)}
    executor = Executor(Job(trainable=trainable, **(fields | job)))
    begin = begin or launch(0, until)
    batch = executor.begin(begin) or executor.run(begin.until, begin.save, lambda: False)
    executor.close()
    return batch


def reporting(*reports: Any) -> type[Trainable]:
    class Reporting(Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.left = list(reports)

        def step(self) -> Any:
            return self.left.pop(0) if self.left else None

    return Reporting


@pytest.mark.parametrize(
    ("reports", "job", "cause", "words"),
    [
        ([{"lss": 1.0}], {}, "bad_report", ["'loss' is never reported", "did you mean 'lss'"]),
        ([], {}, "bad_report", ["never reported", "nothing"]),
        ([{"loss": float("inf")}], {}, "bad_metric", ["'loss' is inf at step 1"]),
        ([{"loss": "low"}], {}, "bad_metric", ["'low'"]),
        ([{"loss": None}], {}, "bad_metric", ["None"]),
        ([{"loss": object()}], {}, "bad_report", ["object"]),
        ([3.0], {}, "bad_report", ["returns a dict", "3.0"]),
        ([{"loss": 1.0, "epochs": 1}], {"resource": "epoch"}, "bad_report", ["'epoch'", "mean 'epochs'"]),
        ([{"loss": 1, "epoch": 2}, {"loss": 1, "epoch": 2}], {"resource": "epoch"}, "bad_report", ["must rise"]),
    ],
)
def test_what_is_wrong_with_a_report_is_said(
    reports: list[Any], job: dict[str, Any], cause: str, words: list[str]
) -> None:
    batch = run(reporting(*reports), **job)
    assert batch.failure is not None
    assert batch.failure.cause == cause
    assert batch.failure.fatal == (cause == "bad_report")
    for word in words:
        assert word in batch.failure.message


def test_a_metric_may_be_missing_between_milestones() -> None:
    batch = run(reporting({"other": 1}, {"other": 2}, {"loss": 1.0}), until=3)
    assert batch.state == "waiting"
    assert run(reporting({"other": 1}), until=1).state == "failed"


def test_done_is_not_a_metric() -> None:
    batch = run(reporting({"loss": 1.0, "done": False}, {"loss": 0.5, "done": True}))
    assert batch.state == "done"
    assert [r.metrics for r in batch.reports] == [{"loss": 1.0}, {"loss": 0.5}]
    assert [r.metrics for r in run(reporting({"loss": 1.0}, {"done": True})).reports] == [{"loss": 1.0}]


def test_an_exception_names_the_users_own_line() -> None:
    def train(config: dict[str, Any]) -> None:
        report({"loss": 1.0})
        raise ValueError("no data")

    batch = run(train)
    assert batch.failure is not None
    assert batch.failure.message.startswith("ValueError: no data (")
    assert f"{__file__}:{train.__code__.co_firstlineno + 2}" in batch.failure.message
    assert [type(event) for event in batch.events(0.0)] == [Reported, Failed]


@pytest.mark.parametrize("error", [SystemExit, MemoryError, NotImplementedError])
def test_whatever_user_code_raises_is_a_failure(error: type[BaseException]) -> None:
    class Raises(Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            raise error

    assert run(Raises).state == "failed"


@pytest.mark.parametrize(
    ("entrypoint", "words"),
    [
        ("nothing", "is not an entrypoint"),
        ("not_a_module_here:train", "no module 'not_a_module_here'"),
        ("tune_platform.trainable:Trainabel", "did you mean 'Trainable'"),
    ],
)
def test_an_entrypoint_that_is_not_there_is_explained(entrypoint: str, words: str) -> None:
    batch = run(entrypoint)
    assert batch.failure is not None
    assert words in batch.failure.message
    assert batch.failure.fatal


def test_a_function_is_resumed_from_the_checkpoint_that_it_reported(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        checkpoint = get_checkpoint()
        first = int((checkpoint / "epoch").read_text()) if checkpoint else 0
        for epoch in range(first + 1, 7):
            (tmp_path / "epoch").write_text(str(epoch))
            report({"loss": 1 / epoch}, checkpoint=tmp_path if epoch % 2 == 0 else None)

    root = str(tmp_path.parent / "checkpoints")
    batch = run(train, until=5, checkpoints=root)
    assert [ref.step for ref in batch.saved] == [2, 4]
    again = launch(0, None, attempt=2, checkpoint=batch.saved[-1], start=4, committed=5)
    batch = run(train, begin=again, checkpoints=root)
    assert batch.state == "done"
    assert [(r.step, r.metrics["loss"]) for r in batch.reports] == [(6, 1 / 6)]


def test_a_damaged_checkpoint_is_lost(tmp_path: Path) -> None:
    batch = run(trainable_of(falling), begin=launch(0, 2, save=True), checkpoints=str(tmp_path))
    (ref,) = batch.saved
    next(Path(ref.uri).rglob("state.json")).write_text("{}")
    again = launch(0, 4, checkpoint=ref, start=2, committed=2)
    batch = run(trainable_of(falling), begin=again, checkpoints=str(tmp_path))
    assert batch.failure is not None
    assert batch.failure.cause == "lost_checkpoint"


def test_the_last_checkpoint_is_written_once(tmp_path: Path) -> None:
    batch = run(trainable_of(falling), checkpoints=str(tmp_path), checkpoint_every=5, checkpoint_at_end=True)
    assert [ref.step for ref in batch.saved] == [5, 10, 15, 20]


def test_a_failing_cleanup_is_logged_and_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    class Untidy(reporting({"loss": 1.0})):  # type: ignore[misc]
        def cleanup(self) -> None:
            raise OSError("still open")

    assert run(Untidy).state == "done"
    assert "still open" in caplog.text


def test_a_function_that_will_not_end_spoils_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune_platform.trainable._UNWIND_S", 0.05)
    free = threading.Event()

    def stubborn(config: dict[str, Any]) -> None:
        try:
            report({"loss": 1.0})
        finally:
            free.wait(20)

    executor = Executor(Job(experiment="e", trainable=stubborn, metrics=("loss",)))
    executor.begin(launch(0, 1))
    executor.run(1, False, lambda: False)
    before = executor.clean
    executor.end()
    assert (before, executor.clean) == (True, False)
    free.set()


def test_a_warm_trial_is_used_only_where_the_log_ends() -> None:
    class Built(trainable_of(falling)):  # type: ignore[misc]
        builds = 0

        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config)
            Built.builds += 1

    executor = Executor(Job(experiment="e", trainable=Built, metrics=("loss",), keep_warm=1))
    for attempt, committed, builds in ((1, 0, 1), (2, 2, 1), (3, 1, 2)):
        executor.begin(launch(0, None, attempt=attempt, committed=committed))
        executor.run(2 if attempt == 1 else 4, False, lambda: False)
        executor.end(warm=True)
        assert Built.builds == builds
    executor.close()


def test_a_batch_survives_pickling_and_is_small() -> None:
    batch = run(trainable_of(falling), until=20)
    assert pickle.loads(pickle.dumps(batch)) == batch
    assert len(pickle.dumps(batch)) < 1500


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPORTS", 3)
    batch = run(trainable_of(falling))
    assert (len(batch.reports), batch.state) == (3, "running")


def test_seeds_differ_between_trials_and_not_between_attempts() -> None:
    seeds: list[int] = []

    class Seed(Trainable):
        def step(self) -> Mapping[str, Any]:
            seeds.append(self.context.seed)
            return {"loss": 0.0}

    for trial, attempt in ((0, 1), (0, 2), (1, 1)):
        run(Seed, begin=launch(trial, 1, attempt=attempt), seed=7)
    assert seeds[0] == seeds[1] == derive(7, "trial", 0)
