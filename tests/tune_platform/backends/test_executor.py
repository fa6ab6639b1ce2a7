from __future__ import annotations

import bdb
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tune_platform.backends._batch import Batch
from tune_platform.backends._writer import MAX_PENDING
from tune_platform.backends.executor import Executor
from tune_platform.errors import Interrupted
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Launch
from tune_platform.protocol.events import Failed, Reported
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.protocol.seeds import derive
from tune_platform.store import checkpoints
from tune_platform.store.checkpoints import CheckpointStorage, Draft
from tune_platform.testing.backends import falling, launch, trainable_of
from tune_platform.trainable import Trainable, get_checkpoint, report


def go(executor: Executor, until: float | None, save: bool, once: bool = False) -> Batch:
    assert executor._run is not None
    begun = executor._run.launch
    items: list[Any] = []
    state, failure = executor.run(until, save, items.append, lambda: once)
    return Batch.of(begun.trial, begun.attempt, [*items, *executor.late()], state, failure)


def run(trainable: Any, until: float | None = None, *, begin: Launch | None = None, **job: Any) -> Batch:
    fields: dict[str, Any] = {"experiment": "e", "metrics": ("loss",)}
    executor = Executor(Job(trainable=trainable, **(fields | job)))
    begin = begin or launch(0, until)
    failure = executor.begin(begin)
    if failure is None:
        batch = go(executor, begin.until, begin.save)
    else:
        batch = Batch.of(begin.trial, begin.attempt, (), "failed", failure)
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
        (
            [{"_metric": 1.0}],
            {},
            "bad_report",
            ["'loss' is never reported; a number was returned, without a name: return {'loss': value}"],
        ),
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


def test_a_metric_that_comes_after_the_first_milestone_is_told_of_otherwise() -> None:
    failure = run(reporting({"other": 1}, {"other": 2}, {"loss": 1.0}), until=2).failure
    assert failure is not None
    assert failure.message == (
        "metric 'loss' is not reported up to step 2, where the scheduler judges it first; reported: other. "
        "Where it first comes at 5, say `min: 5`"
    )


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


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


RAISED = [
    (SystemExit(3), "SystemExit: 3 ("),
    (MemoryError(), "MemoryError ("),
    (NotImplementedError(), "NotImplementedError ("),
    (KeyboardInterrupt(), "KeyboardInterrupt ("),
    (GeneratorExit(), "GeneratorExit ("),
    (UnprintableError(), "UnprintableError: (its text cannot be had: __str__ raises KeyboardInterrupt)"),
    (ValueError("a \ud800 b"), "ValueError: a \\ud800 b ("),
]


@pytest.mark.parametrize("where", ["setup", "step", "save_checkpoint", "cleanup", "function"])
@pytest.mark.parametrize(("error", "words"), RAISED, ids=[type(error).__name__ for error, _ in RAISED])
def test_whatever_training_code_raises_is_its_failure(
    error: BaseException, words: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a run has it: then a KeyboardInterrupt of this kind is no Ctrl-C.
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)

    def maybe(place: str) -> None:
        if place == where:
            raise error

    class Raises(Trainable):
        reported = 0

        def setup(self, config: dict[str, Any]) -> None:
            maybe("setup")

        def step(self) -> dict[str, Any] | None:
            self.reported += 1
            if self.reported == 2:
                maybe("step")
            return {"loss": 1.0}

        def save_checkpoint(self, directory: Path) -> None:
            maybe("save_checkpoint")

        def cleanup(self) -> None:
            maybe("cleanup")

    def train(config: dict[str, Any]) -> None:
        report({"loss": 1.0})
        raise error

    trainable = train if where == "function" else Raises
    batch = run(trainable, begin=launch(0, 2.0, save=True), checkpoints=str(tmp_path))
    if where == "cleanup":  # only told in the log: the trial had all it was to do
        assert (batch.state, len(batch.reports)) == ("waiting", 2)
        return
    assert batch.failure is not None
    assert batch.failure.cause == "exception"
    assert batch.failure.message.startswith(words)
    assert len(batch.reports) == {"setup": 0, "save_checkpoint": 2}.get(where, 1)
    for text in (batch.failure.message, batch.failure.traceback):
        text.encode()


@pytest.mark.parametrize("error", [Interrupted, bdb.BdbQuit])
def test_who_ends_the_run_or_the_debugger_is_no_failure(error: type[BaseException]) -> None:
    class Raises(Trainable):
        def step(self) -> dict[str, Any]:
            raise error

    with pytest.raises(error):
        run(Raises)


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
    go(executor, 1, False)
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
        go(executor, 2 if attempt == 1 else 4, False)
        executor.end(warm=True)
        assert Built.builds == builds
    executor.close()


def test_a_batch_survives_pickling_and_is_small() -> None:
    batch = run(trainable_of(falling), until=20)
    assert pickle.loads(pickle.dumps(batch)) == batch
    assert len(pickle.dumps(batch)) < 1500


def test_seeds_differ_between_trials_and_not_between_attempts() -> None:
    seeds: list[int] = []

    class Seed(Trainable):
        def step(self) -> Mapping[str, Any]:
            seeds.append(self.context.seed)
            return {"loss": 0.0}

    for trial, attempt in ((0, 1), (0, 2), (1, 1)):
        run(Seed, begin=launch(trial, 1, attempt=attempt), seed=7)
    assert seeds[0] == seeds[1] == derive(7, "trial", 0)


# Checkpoints behind the training.


class Keeping:
    """Stands in for `Draft.keep`: waits where it is told to, and fails where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.failing: set[int] = set()
        self.kept: list[int] = []
        self.written = threading.Semaphore(0)
        keep = Draft.keep

        def kept(draft: Draft, step: int, attempt: int) -> CheckpointRef:
            assert self.open.wait(60)
            if step in self.failing:
                draft.discard()
                raise OSError(28, "No space left on device")
            self.kept.append(step)
            return keep(draft, step, attempt)

        monkeypatch.setattr(Draft, "keep", kept)

    def executor(self, trainable: Any, **job: Any) -> Executor:
        job = {"experiment": "e", "metrics": ("loss",), **job}
        return Executor(Job(trainable=trainable, **job), on_written=self.written.release)


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeping]:
    keeping = Keeping(monkeypatch)
    yield keeping
    keeping.open.set()


def hidden(root: Path) -> list[Path]:
    return list(root.glob("*/.tmp-*"))


def test_a_milestone_does_not_wait_for_storage_and_a_save_does(keeping: Keeping, tmp_path: Path) -> None:
    executor = keeping.executor(trainable_of(falling), checkpoints=str(tmp_path))
    executor.begin(launch(0, 3, save=True))
    batch = go(executor, 3, True)
    assert (batch.state, len(batch.reports), batch.saved) == ("waiting", 3, ())
    assert executor.writing
    assert executor.late() == []
    threading.Timer(0.1, keeping.open.set).start()
    ref = executor.save()
    assert ref is not None
    assert (ref.step, CheckpointStorage(str(tmp_path)).list()) == (3, [ref])
    assert (executor.save(), executor.writing) == (None, False)
    assert go(executor, 4, False).saved == ()
    executor.close()


def test_a_checkpoint_comes_with_a_later_batch(keeping: Keeping, tmp_path: Path) -> None:
    executor = keeping.executor(trainable_of(falling), checkpoints=str(tmp_path), checkpoint_every=2)
    executor.begin(launch(0, None))
    assert go(executor, 3, False).saved == ()
    keeping.open.set()
    assert keeping.written.acquire(timeout=60)
    batch = go(executor, 5, False, once=True)
    assert ([report.step for report in batch.reports], [ref.step for ref in batch.saved]) == ([4], [2])
    executor.close()
    assert [(one.ref.step, one.attempt) for one in executor.late()] == [(4, 1)]


def test_the_end_of_a_trial_brings_all_its_checkpoints(keeping: Keeping, tmp_path: Path) -> None:
    executor = keeping.executor(
        trainable_of(falling), checkpoints=str(tmp_path), checkpoint_every=15, checkpoint_at_end=True
    )
    executor.begin(launch(0, None))
    threading.Timer(0.1, keeping.open.set).start()
    batch = go(executor, None, False)
    assert (batch.state, [ref.step for ref in batch.saved]) == ("done", [15, 20])
    executor.close()


def test_a_failed_trial_brings_what_it_can_go_on_from(keeping: Keeping, tmp_path: Path) -> None:
    def curve(config: Mapping[str, Any], step: int) -> Mapping[str, Any]:
        if step == 3:
            raise ArithmeticError
        return {"loss": 1.0}

    executor = keeping.executor(trainable_of(curve), checkpoints=str(tmp_path), checkpoint_every=2)
    executor.begin(launch(0, None))
    threading.Timer(0.1, keeping.open.set).start()
    batch = go(executor, None, False)
    assert (batch.state, [ref.step for ref in batch.saved]) == ("failed", [2])
    executor.close()


def test_what_cannot_be_written_fails_the_trial_at_its_next_step(keeping: Keeping, tmp_path: Path) -> None:
    class Waiting(trainable_of(falling)):  # type: ignore[misc]
        def step(self) -> Any:
            if self.now == 2:
                keeping.open.set()
                assert keeping.written.acquire(timeout=60)
            return super().step()

    keeping.failing.add(2)
    executor = keeping.executor(Waiting, checkpoints=str(tmp_path), checkpoint_every=2)
    executor.begin(launch(0, None))
    batch = go(executor, None, False)
    assert [report.step for report in batch.reports] == [1, 2, 3]
    at_once = run(trainable_of(falling), checkpoints=str(tmp_path), checkpoint_every=2)
    assert [report.step for report in at_once.reports] == [1, 2]
    assert batch.failure is not None
    assert at_once.failure is not None
    assert batch.failure.message.startswith("OSError: [Errno 28] No space left on device")
    assert (batch.failure.cause, batch.failure.message) == (at_once.failure.cause, at_once.failure.message)
    assert batch.saved == at_once.saved == ()
    executor.close()


def test_what_cannot_be_written_at_the_end_fails_the_trial(keeping: Keeping, tmp_path: Path) -> None:
    keeping.open.set()
    keeping.failing.add(20)
    executor = keeping.executor(
        trainable_of(falling), checkpoints=str(tmp_path), checkpoint_every=15, checkpoint_at_end=True
    )
    executor.begin(launch(0, None))
    batch = go(executor, None, False)
    assert (batch.state, [ref.step for ref in batch.saved]) == ("failed", [15])
    assert batch.failure is not None
    executor.begin(launch(1, 3))  # the failure is not this trial's
    assert go(executor, 3, False).state == "waiting"
    executor.close()


def test_a_checkpoint_that_fails_after_its_trial_harms_no_other(keeping: Keeping, tmp_path: Path) -> None:
    keeping.failing.add(2)
    executor = keeping.executor(trainable_of(falling), checkpoints=str(tmp_path))
    executor.begin(launch(0, 2, save=True))
    go(executor, 2, True)
    executor.begin(launch(1, 3))
    keeping.open.set()
    assert keeping.written.acquire(timeout=60)
    assert go(executor, 3, False).state == "waiting"
    assert executor.late() == []
    executor.close()


def test_a_save_is_answered_with_the_newest(keeping: Keeping, tmp_path: Path) -> None:
    executor = keeping.executor(trainable_of(falling), checkpoints=str(tmp_path), checkpoint_every=2)
    executor.begin(launch(0, 3))
    go(executor, 3, False)
    keeping.open.set()
    ref = executor.save()
    assert ref is not None
    assert (ref.step, [one.ref.step for one in executor.late()]) == (3, [2])
    executor.close()


def test_a_save_that_fails_raises(keeping: Keeping, tmp_path: Path) -> None:
    keeping.open.set()
    keeping.failing.add(2)
    executor = keeping.executor(trainable_of(falling), checkpoints=str(tmp_path))
    executor.begin(launch(0, 2))
    go(executor, 2, False)
    with pytest.raises(OSError, match="No space left"):
        executor.save()
    executor.close()


def test_a_released_trial_still_has_its_checkpoint_written(keeping: Keeping, tmp_path: Path) -> None:
    executor = keeping.executor(trainable_of(falling), checkpoints=str(tmp_path))
    for trial, attempt in ((0, 1), (1, 3)):
        executor.begin(launch(trial, 2, attempt=attempt, save=True))
        assert go(executor, 2, True).state == "waiting"
    executor.end()
    assert executor.late() == []
    keeping.open.set()
    executor.close()
    late = executor.late()
    assert [(one.ref.trial, one.ref.step, one.attempt) for one in late] == [(0, 2, 1), (1, 2, 3)]
    assert CheckpointStorage(str(tmp_path)).list() == [one.ref for one in late]
    assert executor.late() == []


def test_a_launch_reads_what_was_still_being_written(keeping: Keeping, tmp_path: Path) -> None:
    executor = keeping.executor(trainable_of(falling), checkpoints=str(tmp_path))
    executor.begin(launch(0, 2, save=True))
    go(executor, 2, True)
    threading.Timer(0.1, keeping.open.set).start()
    ref = CheckpointRef(0, 2, f"{tmp_path}/trial-00000/step-00000002-a1")
    assert executor.begin(launch(1, 4, checkpoint=ref, start=2, committed=2)) is None
    assert [report.metrics["loss"] for report in go(executor, 3, False).reports] == [1 + 1 / 3]
    executor.close()


@pytest.mark.parametrize("function", [False, True])
def test_the_training_waits_where_too_many_are_not_written(keeping: Keeping, tmp_path: Path, function: bool) -> None:
    root, source = tmp_path / "root", tmp_path / "source"
    source.mkdir()
    (source / "state").write_text("x")
    most: list[int] = []
    begin = CheckpointStorage.draft

    def counted(storage: CheckpointStorage, trial: int) -> Draft:
        if len(most) == MAX_PENDING - 1:  # the writing may begin once no more fit
            threading.Timer(0.1, keeping.open.set).start()
        draft = begin(storage, trial)
        most.append(len(hidden(root)))
        return draft

    def train(config: dict[str, Any]) -> None:
        for step in range(1, 21):
            report({"loss": 1 / step}, checkpoint=source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStorage, "draft", counted)
        executor = keeping.executor(
            train if function else trainable_of(falling), checkpoints=str(root), checkpoint_every=1
        )
        executor.begin(launch(0, None))
        batch = go(executor, None, False)
    assert batch.state == "done"
    assert [ref.step for ref in batch.saved] == keeping.kept == list(range(1, 21))
    assert max(most) == MAX_PENDING
    executor.close()


def test_a_function_may_change_its_directory_at_once_and_no_file_is_read_again(
    keeping: Keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"

    def train(config: dict[str, Any]) -> None:
        for step in (1, 2):
            source.mkdir()
            (source / "state").write_text(str(step))
            report({"loss": 1 / step}, checkpoint=source)
            shutil.rmtree(source)

    monkeypatch.setattr(checkpoints, "measure", None)
    executor = keeping.executor(train, checkpoints=str(tmp_path / "root"))
    executor.begin(launch(0, None))
    threading.Timer(0.1, keeping.open.set).start()
    batch = go(executor, None, False)
    assert (batch.failure, len(batch.saved)) == (None, 2)
    for ref in batch.saved:
        with CheckpointStorage(str(tmp_path / "root")).restore(ref) as path:
            assert (path / "state").read_text() == str(ref.step)
    executor.close()


def test_without_storage_nothing_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: dict[str, Any]) -> None:
        report({"loss": 1.0}, checkpoint=tmp_path)

    monkeypatch.setattr(shutil, "copytree", None)
    batch = run(train)
    assert (batch.state, batch.saved) == ("done", ())


def test_a_checkpoint_of_a_report_that_fails_is_discarded(tmp_path: Path) -> None:
    root, source = tmp_path / "root", tmp_path / "source"
    source.mkdir()

    def train(config: dict[str, Any]) -> None:
        report({"loss": float("nan")}, checkpoint=source)

    assert run(train, checkpoints=str(root)).state == "failed"
    assert hidden(root) == []


@pytest.mark.parametrize("answer", ["nothing", "raises"])
def test_a_class_that_saves_nothing_leaves_nothing(tmp_path: Path, answer: str) -> None:
    class Saving(trainable_of(falling)):  # type: ignore[misc]
        def save_checkpoint(self, directory: Path) -> bool:
            (directory / "half").touch()
            if answer == "raises":
                raise ArithmeticError("cannot")
            return False

    batch = run(Saving, 2, checkpoints=str(tmp_path), checkpoint_every=1)
    assert (batch.state, batch.saved) == ("waiting" if answer == "nothing" else "failed", ())
    assert hidden(tmp_path) == []


def test_the_executor_is_light() -> None:
    code = (
        "import sys, tune_platform.backends.executor\n"
        "print([m for m in ('sqlalchemy', 'ray', 'torch', 'fsspec', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
