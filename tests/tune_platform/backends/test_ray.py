from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import ray
from ray.exceptions import RayActorError

from tests.tune_platform.backends import spoiling
from tune_platform.backends._ray_losses import Losses
from tune_platform.backends._ray_nodes import Nodes
from tune_platform.backends._ray_placement import Shape
from tune_platform.backends._ray_worker import RayWorker
from tune_platform.backends.ray import RayBackend
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.protocol.backend import Backend, Job
from tune_platform.protocol.commands import Advance, Release, Save
from tune_platform.protocol.events import Reported, Saved, Started
from tune_platform.resources import Resources
from tune_platform.testing.backends import BackendContract, Curve, Watch, launch
from tune_platform.trainable import Trainable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def own_ray() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=4, num_gpus=8, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", resources={"licence": 1},
    )  # fmt: skip
    # As in a script: this module's things travel by value, so that a worker does not import it, and pytest with it.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert ray.is_initialized(), "a backend has shut down a Ray that it did not start"
    ray.shutdown()


class Pid(Trainable):
    """Reports its process; `sleep` seconds a step."""

    def step(self) -> Mapping[str, Any]:
        time.sleep(self.config.get("sleep", 0.0))
        return {"loss": 0.0, "pid": os.getpid()}


class Reset(Pid):
    resets = 0

    def reset_config(self, config: dict[str, Any]) -> bool:
        self.resets += 1
        return True

    def step(self) -> Mapping[str, Any]:
        return {**super().step(), "resets": self.resets, "trial": self.context.trial}


@pytest.fixture
def watch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watch]:
    changes: dict[str, Any] = getattr(request, "param", {})
    backend = RayBackend(grace_s=changes.pop("grace_s", 10.0), idle_s=changes.pop("idle_s", 5.0), refresh_s=0.5)
    job: dict[str, Any] = {"experiment": "e", "trainable": Pid, "metrics": ("loss",), "flush_s": 0.1}
    job |= {"directory": str(tmp_path), "checkpoints": str(tmp_path / "checkpoints"), **changes}
    capacity = backend.start(Job(**job))
    assert {name: capacity.nodes[0][name] for name in ("cpu", "gpu", "licence")} == {"cpu": 4, "gpu": 8, "licence": 1}
    yield Watch(backend)
    backend.close()


def pid_of(watch: Watch, trial: int) -> int:
    watch.until(lambda: watch.reports(trial))
    return int(watch.reports(trial)[-1].metrics["pid"])


def gone(pid: int) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


class TestRay(BackendContract):
    slots = 4

    def make_backend(self, curve: Curve) -> Backend:
        return RayBackend()


class Kept(Pid):
    """Its state says in which process, and at which step, it was taken."""

    def setup(self, config: dict[str, Any]) -> None:
        self.state = [0, 0]

    def step(self) -> Mapping[str, Any]:
        self.state = [self.state[0] or os.getpid(), self.state[1] + 1]
        return {**super().step(), "from": self.state[0], "at": self.state[1]}

    def get_state(self) -> Any:
        return self.state

    def set_state(self, state: Any) -> None:
        self.state = state
        if self.config.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("watch", [{"trainable": Kept, "memory": 2**20}], indirect=True)
def test_a_clone_survives_the_death_of_its_target_and_of_its_source(watch: Watch) -> None:
    """What was in memory is in storage as well; the driver hears of a death only later."""
    watch.backend.submit([launch(0, 4, save=True), launch(1, 2)])
    watch.until(lambda: watch.saved(0) and watch.steps(1) == [1, 2])
    source = watch.reports(0)[-1].metrics["pid"]
    clone = launch(1, 3, attempt=2, checkpoint=watch.saved(0)[0], start=2, committed=2)
    watch.backend.submit([replace(clone, config={"die": True})])
    watch.until(lambda: watch.failure(1))
    watch.backend.submit([replace(clone, attempt=3)])
    watch.until(lambda: 3 in watch.steps(1))
    os.kill(source, signal.SIGKILL)
    watch.backend.submit([replace(clone, attempt=4, until=4, committed=3)])
    watch.until(lambda: 4 in watch.steps(1))
    seen = [(report.metrics["from"], report.metrics["at"]) for report in watch.reports(1)[-2:]]
    assert seen == [(source, 5), (source, 6)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_fails_its_trial_alone(watch: Watch, number: signal.Signals) -> None:
    """SIGTERM too ends the process at once: Ray's own handler ended another trial in it, some time later."""
    watch.backend.submit([launch(0, None, config={"sleep": 0.05}), launch(1, None, config={"sleep": 0.05})])
    first, second = pid_of(watch, 0), pid_of(watch, 1)
    assert first != second
    os.kill(first, number)
    watch.until(lambda: watch.failure(0))
    failure = watch.failure(0)
    assert failure is not None
    assert failure.cause == "worker_died"
    assert str(first) in failure.message
    assert number.name in failure.message
    before = len(watch.reports(1))
    watch.until(lambda: len(watch.reports(1)) > before + 5)
    watch.backend.submit([Release(trial=0, kill=True), launch(2, 1)])
    assert pid_of(watch, 2) not in (first, second)
    assert watch.failure(1) is None


@pytest.fixture
def by_value() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(spoiling)
    yield
    cloudpickle.unregister_pickle_by_value(spoiling)


def alone(watch: Watch, trial: int, x: float = 1.0) -> dict[str, Any]:
    """Run a trial to its first report, and give its process free."""
    watch.backend.submit([launch(trial, 1, config={"x": x})])
    watch.until(lambda: watch.reports(trial))
    watch.backend.submit([Release(trial=trial)])
    return dict(watch.reports(trial)[0].metrics)


@pytest.mark.usefixtures("by_value")
@pytest.mark.parametrize("watch", [{"trainable": spoiling.Spoiling, "idle_s": 120.0}], indirect=True)
def test_a_trial_finds_what_the_first_one_in_its_process_found(watch: Watch) -> None:
    first, second = alone(watch, 0), alone(watch, 1)
    assert first["pid"] == second["pid"]
    assert first.pop("draws") != second["draws"]
    assert first == {name: value for name, value in second.items() if name != "draws"}
    # In a new process it is the same, draws and all.
    watch.backend.submit([launch(2, 1)])
    watch.backend.submit([Release(trial=2, kill=True)])
    third = alone(Watch(watch.backend), 1)
    assert third.pop("pid") != second.pop("pid")
    assert third == second


@pytest.mark.usefixtures("by_value")
@pytest.mark.parametrize("watch", [{"trainable": spoiling.leave_a_process, "idle_s": 120.0}], indirect=True)
def test_processes_that_a_trial_leaves_end_with_it(watch: Watch, tmp_path: Path) -> None:
    first, second = alone(watch, 0), alone(watch, 1)
    assert first["pid"] == second["pid"]
    assert gone(int(first["child"]))
    assert "trial 0 left processes behind, which were ended" in (tmp_path / "trial-00000" / "log.txt").read_text()


@pytest.mark.usefixtures("by_value")
@pytest.mark.parametrize("watch", [{"trainable": spoiling.leave_a_thread, "idle_s": 120.0}], indirect=True)
def test_a_process_with_a_thread_of_a_trial_is_replaced_and_that_is_told_once(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    pids = [alone(watch, trial, x)["pid"] for trial, x in enumerate([1.0, 0.0, 0.0, 1.0, 1.0])]
    assert pids[0] == pids[1]
    assert len(set(pids)) == 3
    assert pids[3] == pids[4]
    assert caplog.text.count("reuse_workers: false") == 1
    assert "the thread(s) forever" in caplog.text


def test_processes_serve_one_trial_after_the_other(watch: Watch) -> None:
    pids = set()
    for trial in range(4):
        watch.backend.submit([launch(trial, 1)])
        pids.add(pid_of(watch, trial))
        watch.backend.submit([Release(trial=trial)])
    assert len(pids) == 1
    watch.backend.close()
    assert gone(pids.pop())


@pytest.mark.parametrize("watch", [{"reuse_workers": False}], indirect=True)
def test_each_trial_has_a_fresh_process_where_that_is_asked_for(watch: Watch) -> None:
    pids = []
    for trial in range(2):
        watch.backend.submit([launch(trial, 1)])
        pids.append(pid_of(watch, trial))
        watch.backend.submit([Release(trial=trial)])
    assert pids[0] != pids[1]
    watch.settle(0.3)
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("watch", [{"trainable": Reset}], indirect=True)
def test_reset_config_keeps_the_object(watch: Watch) -> None:
    for trial in range(3):
        watch.backend.submit([launch(trial, 1)])
        watch.until(partial(watch.reports, trial))
        assert watch.reports(trial)[0].metrics["resets"] == trial
        assert watch.reports(trial)[0].metrics["trial"] == trial
        watch.backend.submit([Release(trial=trial)])


def test_a_trial_that_hangs_is_killed_at_once(watch: Watch) -> None:
    resources = Resources(cpu=4)
    watch.backend.submit([launch(0, None, resources=resources)])
    hung = pid_of(watch, 0)
    watch.backend.submit([Release(trial=0), launch(1, None, config={"sleep": 3600.0}, resources=resources)])
    watch.settle(0.5)
    watch.backend.submit([Release(trial=1, kill=True), launch(2, 1, resources=resources)])
    assert pid_of(watch, 2) != hung
    assert gone(hung)


@pytest.mark.parametrize("watch", [{"grace_s": 1.0}], indirect=True)
def test_a_trial_that_does_not_come_back_in_time_is_killed_and_the_next_launched_elsewhere(
    watch: Watch,
) -> None:
    resources = Resources(cpu=4)
    watch.backend.submit([launch(0, None, config={"sleep": 3600.0}, resources=resources)])
    watch.settle(2.0)
    watch.backend.submit([Release(trial=0), launch(1, 1, resources=resources)])
    pid_of(watch, 1)
    assert watch.failure(1) is None


def test_idle_workers_make_room_for_another_shape(watch: Watch) -> None:
    watch.backend.submit([launch(0, 1, resources=Resources(cpu=3))])
    first = pid_of(watch, 0)
    watch.backend.submit([Release(trial=0), launch(1, 1, resources=Resources(cpu=4))])
    assert pid_of(watch, 1) != first
    assert gone(first)


def devices(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"loss": 0.0, "devices": os.environ.get("CUDA_VISIBLE_DEVICES", "")}


@pytest.mark.parametrize("watch", [{"trainable": devices}], indirect=True)
def test_fractions_of_a_gpu_share_it(watch: Watch) -> None:
    half = Resources(cpu=0.5, gpu=0.5)
    watch.backend.submit([launch(0, None, resources=half), launch(1, None, resources=Resources(cpu=0, gpu=2))])
    watch.until(lambda: watch.done(0) and watch.done(1))
    assert len(watch.reports(0)[0].metrics["devices"].split(",")) == 1
    assert len(watch.reports(1)[0].metrics["devices"].split(",")) == 2
    for trial in (0, 1):  # so that the timeline can show who held which
        names = {e.worker for e in watch.events if isinstance(e, (Started, Reported)) and e.trial == trial}
        assert any(name.endswith(f" gpu {watch.reports(trial)[0].metrics['devices']}") for name in names), names


def test_what_ray_cannot_place_fails_with_a_reason(watch: Watch) -> None:
    resources = Resources(gpu=1)
    object.__setattr__(resources, "gpu", 1.5)  # as Resources refuses it, and an older log may have it
    watch.backend.submit([launch(0, 1, resources=resources)])
    watch.until(lambda: watch.failure(0))
    failure = watch.failure(0)
    assert failure is not None
    assert failure.fatal
    assert "1.5" in failure.message


def modules(config: Mapping[str, Any]) -> dict[str, Any]:
    loaded = [name for name in ("ray.tune", "sqlalchemy", "optuna", "pandas", "torch") if name in sys.modules]
    return {"loss": 0.0, "loaded": loaded}


@pytest.mark.parametrize("watch", [{"trainable": modules}], indirect=True)
def test_a_worker_loads_nothing_heavy(watch: Watch) -> None:
    watch.backend.submit([launch(0, None)])
    watch.until(lambda: watch.done(0))
    assert watch.reports(0)[0].metrics["loaded"] == []


def chatty(config: Mapping[str, Any]) -> dict[str, Any]:
    sys.stdout.write("hello from the trial\n")
    return {"loss": 0.0}


@pytest.mark.parametrize("watch", [{"trainable": chatty}], indirect=True)
def test_what_a_trial_prints_is_in_its_log(watch: Watch, tmp_path: Path) -> None:
    watch.backend.submit([launch(7, None)])
    watch.until(lambda: watch.done(7))
    assert (tmp_path / "trial-00007" / "log.txt").read_text() == "hello from the trial\n"


def raising(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"loss": 1.0}
    raise {"interrupt": KeyboardInterrupt(), "exit": GeneratorExit(), "text": ValueError("a \ud800 b")}[config["x"]]


class Raising(Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.reports = raising(config)

    def step(self) -> Mapping[str, Any]:
        return next(self.reports)


@pytest.mark.parametrize("watch", [{"trainable": Raising}], indirect=True)
def test_what_was_reported_before_an_odd_exception_is_kept(watch: Watch, tmp_path: Path) -> None:
    """And the trial's log holds the whole traceback, in an encoding that every program reads."""
    kinds = {"interrupt": "KeyboardInterrupt (", "exit": "GeneratorExit (", "text": "ValueError: a \\ud800 b ("}
    for trial, (kind, words) in enumerate(kinds.items()):
        watch.backend.submit([launch(trial, None, config={"x": kind})])
        watch.until(partial(watch.failure, trial))
        failure = watch.failure(trial)
        assert failure is not None
        assert failure.cause == "exception"
        assert failure.message.startswith(words)
        assert watch.has_steps(trial, 1)
        assert words.removesuffix(" (") in (tmp_path / f"trial-{trial:05d}" / "log.txt").read_text(encoding="utf-8")
        watch.backend.submit([Release(trial=trial, kill=False)])


def any_end(watch: Watch) -> bool:
    return watch.done(0) or watch.failure(0) is not None


def test_a_module_of_the_user_is_imported_in_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_own.py").write_text("def train(config):\n    return {'loss': 2.0}\n")
    (tmp_path / "users_broken.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, cause in (("users_own:train", None), ("users_broken:train", "exception"), ("users_own:tran", "x")):
        backend = RayBackend()
        backend.start(Job(experiment="e", trainable=name, metrics=("loss",)))
        watch = Watch(backend)
        backend.submit([launch(0, None)])
        watch.until(partial(any_end, watch))
        failure = watch.failure(0)
        if cause is None:
            assert watch.reports(0)[0].metrics == {"loss": 2.0}
        else:
            assert failure is not None
            assert "not_there_at_all" in failure.message or "did you mean 'train'" in failure.message
        backend.close()


def reads_its_data(config: dict[str, Any]) -> dict[str, Any]:
    path = Path("data.txt")
    return {"loss": float(path.read_text()) if path.exists() else -1.0}


def test_relative_paths_lead_where_they_lead_for_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though Ray was started in another folder; where there is no such folder, that is told once."""
    for name, value in (("here", 2.5), ("gone", 3.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.txt").write_text(str(value))
        monkeypatch.chdir(tmp_path / name)
        backend = RayBackend()
        backend.start(Job(experiment="e", trainable=reads_its_data, metrics=("loss",)))
        monkeypatch.chdir(tmp_path)
        if name == "gone":
            shutil.rmtree(tmp_path / name)
        watch = Watch(backend)
        for trial in range(2):
            backend.submit([launch(trial, None)])
            watch.until(partial(watch.done, trial))
        backend.close()
        losses = [watch.reports(trial)[0].metrics["loss"] for trial in range(2)]
        assert losses == ([value] * 2 if name == "here" else [-1.0] * 2)
        told = caplog.text.count("relative paths of the training code lead elsewhere there")
        assert told == (0 if name == "here" else 1)
    assert f"working folder {tmp_path / 'gone'} (No such file or directory)" in caplog.text


def test_a_cluster_that_is_gone_ends_the_driver_and_not_every_trial() -> None:
    losses = Losses(Job(experiment="e", trainable=reads_its_data, metrics=("loss",)), Nodes(5.0))
    losses.mourn("the actor never ran")
    losses.mourn("killed for lack of memory")  # one that ran: the cluster is there
    losses.mourn("the actor never ran")
    losses.mourn("the actor never ran")
    with pytest.raises(ExperimentError, match="is the Ray cluster gone"):
        losses.mourn("the actor never ran")


def test_many_workers_that_were_to_start_on_a_lost_node_are_no_sign_of_a_lost_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = Nodes(5.0)
    monkeypatch.setattr(nodes, "lose", lambda places: 1 in places)
    losses = Losses(Job(experiment="e", trainable=reads_its_data, metrics=("loss",)), nodes)
    never = RayActorError(error_msg="The actor never ran - it was cancelled before it started running.")

    def fail(node: int) -> str:
        return losses.failure(RayWorker(None, Shape((node,), ())), 0, never).cause

    assert [fail(1) for _ in range(5)] == ["node_lost"] * 5
    assert [fail(0), fail(1), fail(0)] == ["worker_died", "node_lost", "worker_died"]
    with pytest.raises(ExperimentError, match="is the Ray cluster gone"):
        fail(0)


def test_a_trainable_that_cannot_be_sent_is_refused_at_the_start() -> None:
    lock = sys._getframe()
    with pytest.raises(SpecError, match="setup"):
        RayBackend().start(Job(experiment="e", trainable=lambda config: lock, metrics=("loss",)))


def test_reports_arrive_on_the_way_and_in_order(watch: Watch) -> None:
    watch.backend.submit([launch(0, 1000, config={"sleep": 0.001})])
    watch.until(lambda: len(watch.steps(0)) == 1000)
    assert watch.steps(0) == list(range(1, 1001))
    watch.backend.submit([Advance(trial=0, until=1010, save=False)])
    watch.until(lambda: len(watch.steps(0)) == 1010)
    times = [report.time for report in watch.reports(0)]
    assert max(late - early for early, late in pairwise(times[200:1000])) < 0.5


@pytest.mark.parametrize("watch", [{"flush_s": 1.0}], indirect=True)
def test_a_driver_that_is_busy_for_12_seconds_costs_no_training(watch: Watch) -> None:
    watch.backend.submit([launch(0, None, config={"sleep": 0.02})])
    pid_of(watch, 0)
    left = time.time()
    while time.time() < left + 12.0:  # busy in Python, as with a slow store or listener
        sum(range(100_000))
    back = time.time()
    watch.until(lambda: watch.reports(0)[-1].time > back)
    assert watch.steps(0) == list(range(1, len(watch.steps(0)) + 1))
    times = [report.time for report in watch.reports(0)]
    seconds = {int(at - left) for at in times if left < at < back}
    assert seconds >= set(range(12)), "there are seconds in which nothing was trained"


def test_a_save_during_a_long_step_is_answered_at_its_end_and_nothing_more_is_trained(watch: Watch) -> None:
    watch.backend.submit([launch(0, None, config={"sleep": 3.0})])
    pid_of(watch, 0)
    asked = time.time()
    watch.backend.submit([Save(trial=0, halt=True)])
    watch.until(lambda: any(isinstance(event, Saved) for event in watch.events))
    assert 2 <= watch.steps(0)[-1] <= 3
    assert watch.reports(0)[-1].time >= asked
    before = watch.steps(0)
    watch.settle(4.0)
    assert watch.steps(0) == before


def test_the_start_is_told_where_the_first_step_is_long(watch: Watch) -> None:
    watch.backend.submit([launch(0, 1, config={"sleep": 2.0})])
    watch.until(lambda: watch.steps(0))
    assert [type(event) for event in watch.events] == [Started, Reported]
    started, reported = watch.events
    assert isinstance(started, Started)
    assert isinstance(reported, Reported)
    assert (started.trial, started.attempt, started.worker) == (0, 1, reported.worker)
    assert reported.time - started.time > 1.0, "it was not told when the process was up"


@pytest.mark.parametrize("watch", [{"idle_s": 1.0}], indirect=True)
def test_idle_workers_give_their_place_back(watch: Watch) -> None:
    pids = set()
    for trial in range(2):
        watch.backend.submit([launch(trial, 1)])
        pids.add(pid_of(watch, trial))
        watch.backend.submit([Release(trial=trial)])
        watch.settle(0.3)
    assert len(pids) == 1, "it is kept for a while"
    watch.settle(2.0)
    assert gone(pids.pop())
    watch.backend.submit([launch(2, 1)])
    pid_of(watch, 2)


class Slowly(Pid):
    """Writes its checkpoint behind the training: the file is large enough to take a while."""

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "state").write_bytes(bytes(64 << 20))


@pytest.mark.parametrize("watch", [{"trainable": Slowly}], indirect=True)
def test_a_checkpoint_that_is_finished_after_the_milestone_arrives(watch: Watch) -> None:
    watch.backend.submit([launch(0, 1, save=True)])
    watch.until(lambda: watch.steps(0))
    watch.until(lambda: watch.saved(0))
    watch.backend.submit([Advance(trial=0, until=2, save=True)])
    watch.until(lambda: watch.steps(0) == [1, 2])
    watch.backend.submit([Release(trial=0), launch(1, 1)])  # it still writes
    watch.until(lambda: watch.steps(1) and len(watch.saved(0)) == 2)
    assert [ref.step for ref in watch.saved(0)] == [1, 2]


def test_the_first_report_is_quick_on_a_prepared_backend(watch: Watch) -> None:
    assert isinstance(watch.backend, RayBackend)
    watch.backend.prepare(Resources(cpu=1), 2)
    pids = []
    for trial in range(2):
        watch.backend.submit([launch(trial, 1)])
        pids.append(pid_of(watch, trial))
    assert pids[0] != pids[1]


SCRIPT = """
import ray
from tests.tune_platform.backends import spoiling
from tune_platform.backends._ray_losses import Losses
from tune_platform.backends._ray_nodes import Nodes
from tune_platform.backends.ray import RayBackend
from tune_platform.protocol.backend import Job
from tune_platform.testing.backends import Watch, falling, launch, trainable_of

backend = RayBackend(num_cpus=1)
backend.start(Job(experiment="e", trainable=trainable_of(falling), metrics=("loss",)))
watch = Watch(backend)
backend.submit([launch(0, 2)])
watch.until(lambda: watch.steps(0) == [1, 2])
backend.close()
assert not ray.is_initialized()
backend.close()
print("well")
"""


def test_a_ray_of_its_own_is_started_quietly_and_ended(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "well\n"
