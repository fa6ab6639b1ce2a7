"""Real processes, really killed: whatever dies and whenever, the experiment goes on exactly."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tune_platform.killing import ETA, LEVELS, PARTS, STEPS, curve, drive, spec_of
from tune_platform import SearchSpec, load, run
from tune_platform.engine.controller import Controller
from tune_platform.engine.log import groups
from tune_platform.engine_settings import settings_of
from tune_platform.errors import ExperimentError
from tune_platform.protocol.commands import Ask, Tell
from tune_platform.protocol.events import Suggested
from tune_platform.store.checkpoints import CheckpointStorage
from tune_platform.store.sql import SqlExperiment, open_store

pytestmark = pytest.mark.slow

KILLS = 5  # of each experiment's drivers
PATIENCE = 60.0  # seconds


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray that outlives its drivers: the actors of a killed one end with its job."""
    from ray.cluster_utils import Cluster

    # Without a dashboard, and without a process per CPU that is started ahead for each new driver.
    one = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "_system_config": {"enable_worker_prestart": False}},
    )
    yield one.address
    one.shutdown()


#: Drivers are forked from a process that has imported all of this, which takes longer than what they do.
FORKS = multiprocessing.get_context("forkserver")
NEEDED = ("tune_platform.api", "tune_platform.results", "tune_platform.backends.ray", "tune_platform.searchers.optuna")
FORKS.set_forkserver_preload(["tests.tune_platform.killing", *NEEDED])


class Driver:
    """One experiment and, one after the other, the processes that drive it."""

    def __init__(self, kind: str, address: str, home: Path, options: dict[str, Any]) -> None:
        self.kind, self.address = kind, address
        self.storage, self.log = home / "results", home / "driver.log"
        self.options = options
        self.process: Any = None

    def start(self) -> None:
        self.process = FORKS.Process(
            target=drive, args=(self.kind, str(self.storage), self.address, str(self.log), self.options)
        )
        self.process.start()

    def until(self, happened: Callable[[SqlExperiment], Any]) -> Any:
        """Wait until it has happened, or the driver has ended; return what `happened` does."""
        end = time.monotonic() + PATIENCE
        while True:
            ended = not self.process.is_alive()
            found = None
            try:
                with open_store(self.storage) as store, store.open(self.kind, readonly=True) as experiment:
                    found = happened(experiment)
            except ExperimentError:  # not made yet
                assert not ended, self.said()
            if found or ended:
                return found
            assert time.monotonic() < end, f"the driver does not come on: {self.said()}"
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def finish(self) -> None:
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0, self.said()

    def said(self) -> str:
        return self.log.read_text()[-3000:]


@pytest.fixture
def drivers(cluster: str, tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    made: list[Driver] = []

    def make(kind: str, **options: Any) -> Driver:
        made.append(Driver(kind, cluster, tmp_path, options))
        return made[-1]

    yield make
    for driver in made:
        if driver.process is not None and driver.process.is_alive():
            driver.kill()


def check_facts(experiment: SqlExperiment) -> None:
    """The log has no gap; each trial's reports are 1, 2, 3, ... and follow its curve."""
    seqs = [row.seq for row, _ in experiment.read_log()]
    assert seqs == list(range(1, len(seqs) + 1))
    reports = defaultdict(list)
    for report in experiment.reports():
        reports[report.trial].append(report)
    for trial in experiment.trials():
        mine = reports[trial.trial]
        assert [report.step for report in mine] == list(range(1, trial.step + 1))
        assert [report.metrics["loss"] for report in mine] == curve(trial.config["x"], trial.step)


def check_answers(experiment: SqlExperiment, spec: SearchSpec) -> None:
    """Each config is what the searcher answers when it hears the log's asks and tells without a break."""
    searcher = spec.make_searcher()
    settings = settings_of(spec, searcher.lookahead, spec.make_backend())
    controller = Controller(settings, spec.make_scheduler())
    searcher.setup(spec.space, mode=spec.modes, seed=spec.seed)
    answers: dict[int, Any] = {}
    suggested = 0
    for group in groups(experiment.read_log()):
        if isinstance(group.event, Suggested):
            suggested += 1
            assert group.event.config == answers[group.event.trial]
        for command in controller.replay(group.event, group.elapsed, group.effects):
            if isinstance(command, Ask):
                suggestion = searcher.ask(command.trial)
                assert suggestion is not None
                answers[command.trial] = suggestion.config
            elif isinstance(command, Tell):
                searcher.tell(command.trial, command.outcome)
    assert suggested == spec.num_samples
    assert not controller.comparison.difference


def check_asha(experiment: SqlExperiment, *, promotion: bool) -> None:
    """Every verdict of the log follows ASHA's rule, counted again from the reports before it."""
    rungs: dict[int, list[tuple[float, int, int]]] = {level: [] for level in LEVELS}
    reached: dict[int, int] = {}
    verdicts = 0

    def rank(level: int, trial: int) -> int:
        return 1 + [number for _, _, number in sorted(rungs[level])].index(trial)

    for row, reports in experiment.read_log():
        for report in reports:
            if report.step in rungs:
                rungs[report.step].append((report.metrics["loss"], len(rungs[report.step]), report.trial))
                reached[report.trial] = report.step
        if row.kind != "verdict" or "it was not sent on" in row.data["reason"]:
            continue
        assert row.trial is not None
        verdicts += 1
        level = reached[row.trial]
        keep = math.floor(len(rungs[level]) / ETA)
        if promotion and row.data["verdict"] == "continue":
            assert rank(level, row.trial) <= keep, row
        elif level == LEVELS[-1]:
            assert row.data["verdict"] == "stop"
        elif promotion:
            assert row.data["verdict"] == "pause"
        else:
            stopped = rank(level, row.trial) > max(1, keep)
            assert row.data["verdict"] == ("stop" if stopped else "continue"), row
    assert verdicts >= sum(map(len, rungs.values()))
    assert all(rungs.values())


def check_files(experiment: SqlExperiment, storage: Path) -> None:
    """The checkpoints on disk are those that the table has."""
    root = storage / experiment.name / "checkpoints"
    assert {ref.uri for ref in CheckpointStorage(str(root), folder=str(root.parent)).list()} == {
        row.uri for row in experiment.checkpoints()
    }
    assert not list(root.glob("trial-*/.tmp-*")), "remains of a checkpoint that was never finished"


def table(storage: Path, kind: str) -> list[tuple[Any, ...]]:
    rows = load(kind, storage=storage).trials()
    return [(t.number, t.status, t.config["x"], t.step, t.best, t.best_step, t.metrics["loss"]) for t in rows]


@pytest.mark.parametrize("kind", PARTS)
def test_a_driver_that_is_killed_again_and_again(kind: str, drivers: Callable[..., Driver], tmp_path: Path) -> None:
    draw = random.Random(kind)
    # FIFO trials are so long that they commit a part of their reports while they run; ASHA's have rungs.
    options: dict[str, Any] = {"pause": 0.08, "trials": 14} if kind.startswith("fifo") else {}
    driver = drivers(kind, **options)
    rows = kills = 0
    while kills < KILLS:
        driver.start()
        # A third of the kills come at once, so that the start of a resume is hit as well.
        target = rows + draw.choice((1, draw.randint(3, 6), draw.randint(4, 8)))
        driver.until(lambda experiment: experiment.last_seq() >= target)  # noqa: B023 (called at once)
        time.sleep(draw.uniform(0.0, 0.2))
        assert driver.process.is_alive(), f"it ended before kill {kills + 1}: {driver.said()}"
        driver.kill()
        kills += 1
        with open_store(tmp_path / "results") as store, store.open(kind, readonly=True) as experiment:
            check_facts(experiment)
            assert experiment.row().status == "crashed"
            rows = experiment.last_seq()
    driver.start()
    driver.finish()

    with open_store(tmp_path / "results") as store, store.open(kind, readonly=True) as experiment:
        assert experiment.row().status == "finished"
        check_facts(experiment)
        check_answers(experiment, spec_of(kind, str(tmp_path), **options))
        assert set(experiment.counts()) <= {"COMPLETED", "STOPPED"}
        resumed = sum(row.kind == "resumed" for row, _ in experiment.read_log())
        assert 1 <= resumed <= KILLS
        if kind.startswith("fifo"):
            assert all(trial.step == STEPS for trial in experiment.trials())
        else:
            check_asha(experiment, promotion=kind.startswith("promotion"))
        check_files(experiment, tmp_path / "results")
    if kind == "fifo-random":  # nothing depends on who ends first, so the whole table is known
        run(spec_of(kind, str(tmp_path / "calm"), pause=0.0, trials=14))
        assert table(tmp_path / "results", kind) == table(tmp_path / "calm", kind)


@pytest.mark.parametrize("kind", ["fifo-tpe", "stopping-random", "promotion-tpe"])
def test_with_one_place_a_killed_search_is_the_same_search(
    kind: str, drivers: Callable[..., Driver], tmp_path: Path
) -> None:
    """The order of events is fixed there: the same configs, the same verdicts in the same order, the same ends."""
    draw = random.Random(kind)
    options: dict[str, Any] = {"places": 1, "trials": 6 if kind.startswith("fifo") else 12}
    driver = drivers(kind, **options)
    rows = 0
    for _ in range(3):
        driver.start()
        target = rows + draw.randint(1, 12)
        driver.until(lambda experiment: experiment.last_seq() >= target)  # noqa: B023 (called at once)
        time.sleep(draw.uniform(0.0, 0.1))
        assert driver.process.is_alive(), driver.said()
        driver.kill()
        with open_store(tmp_path / "results") as store, store.open(kind, readonly=True) as experiment:
            rows = experiment.last_seq()
    driver.start()
    driver.finish()
    run(spec_of(kind, str(tmp_path / "calm"), pause=0.0, **options))
    assert table(tmp_path / "results", kind) == table(tmp_path / "calm", kind)
    assert verdicts(tmp_path / "results", kind) == verdicts(tmp_path / "calm", kind)


def verdicts(storage: Path, kind: str) -> list[tuple[Any, ...]]:
    with open_store(storage) as store, store.open(kind, readonly=True) as experiment:
        rows = [row for row, _ in experiment.read_log() if row.kind == "verdict"]
    return [(row.trial, row.data["step"], row.data["verdict"], row.data["reason"]) for row in rows]


@pytest.mark.parametrize("write", [0.0, 0.5])
def test_a_driver_that_is_killed_while_trials_are_cloned_goes_on_with_the_same_family(
    write: float, drivers: Callable[..., Driver], tmp_path: Path
) -> None:
    """Killed as soon as the log says that one is cloned: its weights are on their way from memory to memory.

    Where it takes long to write a checkpoint, those of the milestone are lost with the memory, and written again.
    """
    options: dict[str, Any] = {"pause": 0.1, "trials": 4, "places": 4, "write": write}
    driver = drivers("family", **options)
    seen = 0
    for _ in range(3):
        driver.start()
        driver.until(lambda experiment: len(clones(experiment)) > seen)  # noqa: B023 (called at once)
        assert driver.process.is_alive(), driver.said()
        driver.kill()
        with open_store(tmp_path / "results") as store, store.open("family", readonly=True) as experiment:
            seen = len(clones(experiment))
    driver.start()
    driver.finish()
    run(spec_of("family", str(tmp_path / "calm"), **{**options, "pause": 0.0}))

    found, calm = (load("family", storage=tmp_path / folder).family() for folder in ("results", "calm"))
    made, wanted = (sorted((c.step, c.trial, c.source, c.config["x"]) for c in f.clones) for f in (found, calm))
    assert made == wanted
    trials = load("family", storage=tmp_path / "results").trials()
    assert [trial.status for trial in trials] == ["COMPLETED"] * 4
    for trial in trials:  # the family tree explains the weights, whatever had to be done again
        now, state = 0, 1.0
        for segment in found.schedule(trial.number):
            for _ in range((trial.step if segment.last is None else segment.last) - segment.first):
                now += 1
                state = 0.8 * state + (segment.config["x"] - 0.3) ** 2 / now
        assert trial.last["loss"] == pytest.approx(state)


def clones(experiment: SqlExperiment) -> list[Any]:
    return [row for row, _ in experiment.read_log() if row.kind == "verdict" and row.data["verdict"] == "clone"]


def test_a_worker_that_is_killed(drivers: Callable[..., Driver], tmp_path: Path) -> None:
    """Only its trial is tried again, from its checkpoint."""
    driver = drivers("fifo-random", pause=0.15, trials=4)
    driver.start()

    def saved(experiment: SqlExperiment) -> Any:
        kept = {row.trial: row.step for row in experiment.checkpoints()}
        running = [row for row in experiment.trials(status="RUNNING") if kept.get(row.trial) and row.worker]
        return (running[0], kept[running[0].trial]) if running else None

    victim, step = driver.until(saved)
    os.kill(int(victim.worker.rpartition(":")[2]), signal.SIGKILL)
    driver.finish()
    with open_store(tmp_path / "results") as store, store.open("fifo-random", readonly=True) as experiment:
        check_facts(experiment)
        failures = [(row.trial, row.data["cause"]) for row, _ in experiment.read_log() if row.kind == "failed"]
        assert failures == [(victim.trial, "worker_died")]
        assert {row.trial: row.attempt for row in experiment.trials() if row.attempt != 1} == {victim.trial: 2}
        starts = {report.metrics["start"] for report in experiment.reports(victim.trial)}
        assert starts in ({0, start} for start in range(step, STEPS, 2))
        assert set(experiment.counts()) == {"COMPLETED"}
        check_files(experiment, tmp_path / "results")
