"""Searches that the former releases left behind go on with this one; see `tests/assets/make_version_*.py`."""

from __future__ import annotations

import shutil
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.support import MemoryLog, Scenario, TinyPBT, resources_of
from tune_platform import SearchSpec, load, resume
from tune_platform.backends.inline import InlineBackend
from tune_platform.engine import runner as runner_module
from tune_platform.engine.recovery import recover
from tune_platform.engine.upgrade import Upgrade, converted
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.protocol.effects import EFFECTS, Effect, Launched
from tune_platform.protocol.events import EVENTS
from tune_platform.resources import Resources
from tune_platform.store.records import LogRow
from tune_platform.store.sql import open_store

ASSETS = Path(__file__).parents[2] / "assets"
NAMES = ("epochs", "fifo", "persons", "population", "promotion", "stopping")
FINAL = ("COMPLETED", "STOPPED", "FAILED")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "INBOX_PERIOD", 0.01)


def copied(name: str, folder: Path, version: int = 3) -> Path:
    shutil.copytree(ASSETS / f"version_{version}" / name, folder / name)
    return folder


def read(folder: Path, name: str) -> tuple[dict[int, Any], dict[tuple[int, int], str]]:
    """The tables of trials and reports, without any of our code."""
    connection = sqlite3.connect(folder / name / "experiment.db")
    connection.row_factory = sqlite3.Row
    try:
        trials = {row["trial"]: dict(row) for row in connection.execute("SELECT * FROM trials")}
        reports = {(r["trial"], r["step"]): r["metrics"] for r in connection.execute("SELECT * FROM reports")}
    finally:
        connection.close()
    return trials, reports


CPUS = {"epochs": 2, "fifo": 2, "persons": 2, "population": 6, "promotion": 3, "stopping": 2}


def spec_of(name: str, folder: Path) -> SearchSpec:
    """The spec, with the live objects that it had."""
    with open_store(folder) as store, store.open(name, readonly=True) as experiment:
        data = {**experiment.spec, "storage": {"path": str(folder)}, "backend": {"name": "inline"}}
    given: dict[str, Any] = {"backend": InlineBackend(num_cpus=CPUS[name])}
    if name == "population":
        data["schedule"] = {"name": "fifo"}
        given["scheduler"] = TinyPBT(interval=2)
    return SearchSpec.from_dict(data).model_copy(update=given)


def go_on(name: str, folder: Path) -> Any:
    if name == "persons":  # trial 4 waits for the person
        with open_store(folder) as store, store.open(name) as experiment:
            experiment.request("unpause", 4, {}, 0.0)
    return resume(name, storage=folder, spec=spec_of(name, folder))


@pytest.mark.parametrize("name", NAMES)
def test_a_search_of_schema_3_goes_on_to_its_end(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = copied(name, tmp_path)
    before, reports_before = read(folder, name)
    results = go_on(name, folder)
    assert "has changed" not in caplog.text  # that log does not say who chose what
    assert results.status == "finished", results.finish
    after, reports = read(folder, name)

    ended = {number: row for number, row in before.items() if row["status"] in FINAL}
    for number, row in ended.items():
        kept = ("status", "config", "reason", "origin", "attempt", "step", "best", "best_step", "created", "ended")
        assert {key: after[number][key] for key in kept} == {key: row[key] for key in kept}
    # What was reported stays, nothing is reported twice, and numbers go on.
    assert {key: reports[key] for key in reports_before} == reports_before
    steps = defaultdict(list)
    for number, step in sorted(reports):
        steps[number].append(step)
    for number, row in after.items():
        assert row["status"] in FINAL
        assert steps[number] == list(range(1, row["step"] + 1))
        if name != "population":
            assert row["config"] == before[number]["config"] if number in before else True
    planned = {"fifo": 20, "stopping": 30, "promotion": 25, "epochs": 25, "population": 6, "persons": 12 + 1 + 2}
    assert sorted(after) == list(range(planned[name]))
    running = [number for number, row in before.items() if row["status"] in ("RUNNING", "PAUSED")]
    assert all(after[number]["step"] >= before[number]["step"] for number in running)


@pytest.mark.parametrize("name", NAMES)
def test_its_log_is_of_the_present_format_then(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path)
    with open_store(folder) as store, store.open(name, readonly=True) as experiment:
        old = [row for row, _ in experiment.read_log()]
    go_on(name, folder)
    with open_store(folder) as store, store.open(name, readonly=True) as experiment:
        assert experiment.log_format == 2
        rows = [row for row, _ in experiment.read_log()]
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert {row.kind for row in rows} <= set(EFFECTS) | set(EVENTS)
    fact = 0
    for row in rows:
        fact = fact if row.kind in EFFECTS else row.seq
        assert row.stimulus == (fact if row.kind in EFFECTS else None)
    # The facts are those of the former log, in order, and so are the verdicts.
    facts = [(row.time, row.kind, row.trial) for row in rows if row.kind in EVENTS]
    assert facts[: len([row for row in old if row.kind in EVENTS])] == [
        (row.time, row.kind, row.trial) for row in old if row.kind in EVENTS
    ]
    verdicts = [row for row in rows if row.kind == "verdict" and row.data.get("by", "scheduler") == "scheduler"]
    former = [(row.trial, row.data["step"], row.data["reason"]) for row in old if row.kind == "verdict"]
    assert [(row.trial, row.data["step"], row.data["reason"]) for row in verdicts[: len(former)]] == former
    elapsed = [row.elapsed for row in rows]
    assert elapsed == sorted(elapsed)
    launches = [entry.reason for entry in load(name, storage=folder).why(0) if entry.verdict == "launched"]
    assert not [reason for reason in launches if reason.endswith("on node ")]
    # The year that nobody drove does not count.
    assert elapsed[-1] < 60.0


@pytest.mark.parametrize("name", NAMES)
def test_a_second_resume_finds_it_whole(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path)
    go_on(name, folder)
    once = read(folder, name)
    assert resume(name, storage=folder, spec=spec_of(name, folder)).status == "finished"
    assert read(folder, name) == once


def test_persons_are_remembered(tmp_path: Path) -> None:
    """What they had asked for is not carried out twice; what they paused stays paused until they say so."""
    folder = copied("persons", tmp_path)
    with open_store(folder) as store, store.open("persons") as experiment:
        paused = experiment.trial(4)
        assert (paused.status, paused.reason) == ("PAUSED", "a person paused it")
        experiment.request("cancel", None, {}, 0.0)
    resume("persons", storage=folder, spec=spec_of("persons", folder))
    after, _ = read(folder, "persons")
    assert (after[4]["status"], after[4]["step"]) == ("PAUSED", paused.step)
    assert sum(row["origin"] == "user" for row in after.values()) == 1
    assert after[3]["reason"] == "a person stopped it"


@pytest.mark.parametrize("version", [1, 2])
def test_a_finished_search_of_an_older_schema_can_be_read(version: int, tmp_path: Path) -> None:
    folder = copied("old", tmp_path, version)
    results = load("old", storage=folder)
    assert results.status == "finished"
    assert [(trial.number, trial.status, trial.step, trial.best) for trial in results] == [(0, "COMPLETED", 2, 0.5)]
    # Its spec was never a whole one: a resume says so, and changes nothing.
    with pytest.raises((SpecError, ExperimentError)):
        resume("old", storage=folder)
    assert load("old", storage=folder).status == "finished"


# ------------------------------------------------------------------------------- rows of other backends


def former(log: MemoryLog) -> list[tuple[LogRow, Any]]:
    """A log as the former release had it: facts without counts, the verdicts of schedulers, and nothing else."""
    rows: list[tuple[LogRow, Any]] = []
    for row, reports in log.cut().read_log():
        data = {key: value for key, value in row.data.items() if key not in ("effects", "resources")}
        verdict = row.kind == "verdict" and data.get("by", "scheduler") == "scheduler"
        if row.kind in EVENTS or verdict:
            rows.append((row._replace(data=data, stimulus=None), reports))
    return rows


@pytest.mark.parametrize("scheduler", ["fifo", "stopping", "promotion"])
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_a_former_log_of_trials_of_several_sizes(
    scheduler: str, real: bool, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Each holds what its config asks for, in places that were never written, also on a virtual clock."""
    nodes = ({"cpu": 4.0},)
    choices, settings = {"cpu": [1.0, 2.0, 3.0]}, {"keep_last": None}
    scenario = Scenario(scheduler, 14, nodes, seed=3, choices=choices, settings=settings, real=real)
    whole = scenario.run().log
    log = whole.cut(whole.commits[int(share * (len(whole.commits) - 1))])
    status = "finished" if share == 1.0 else "running"
    ends: Any = log.trials
    upgrade = Upgrade(ends, resources_of, (status, "why"))
    moved: dict[int, int] = {}
    rows = list(converted(upgrade.groups(former(log)), moved))
    reports = {key: row._replace(seq=moved[row.seq]) for key, row in log.reports.items()}
    for _ in range(2):  # the first driver is lost at once
        again = scenario.build(MemoryLog((), list(rows), dict(reports), dict(log.trials)))
        recover(again.runner)
        for number, trial in again.controller.state.trials.items():
            assert trial.resources == resources_of(trial.config), number
        again.runner.turn()
        rows, reports = again.log.cut().rows, again.log.cut().reports
    last = scenario.build(MemoryLog((), list(rows), dict(reports), dict(again.log.trials)))
    recover(last.runner)
    assert last.drive().status == "finished"
    assert {row.status for row in last.log.trials.values()} <= set(FINAL)
    assert len(last.log.trials) == 14
    assert "has changed" not in caplog.text


# ------------------------------------------------------------------------------- rows by hand


class End:
    def __init__(self, status: str, attempt: int, reason: str = "") -> None:
        self.status, self.attempt, self.reason, self.trial = status, attempt, reason, 0


def effects_of(rows: list[LogRow], end: End | None = None, status: str = "running") -> list[list[Effect]]:
    """The effects on each of some rows of the former format, of one trial."""
    ends: Any = {0: end} if end is not None else {}
    upgrade = Upgrade(ends, lambda config: Resources(cpu=2.0), (status, "why"))
    return [list(group.effects) for group in upgrade.groups((row, ()) for row in rows)]


def upgraded(rows: list[LogRow], end: End | None = None, status: str = "running") -> list[Any]:
    """The kinds of these effects."""
    return [[effect.kind for effect in effects] for effects in effects_of(rows, end, status)]


SUGGESTED = LogRow(1, 0.0, "suggested", 0, {"config": {}})


def reported(seq: int, attempt: int, *, done: bool = False, saved: Any = ()) -> LogRow:
    data = {"attempt": attempt, "saved": list(saved), "done": done, "worker": "", "first": 1, "last": 0}
    return LogRow(seq, float(seq), "reported", 0, data)


def test_a_report_says_that_its_attempt_was_launched() -> None:
    assert upgraded([SUGGESTED, reported(2, 1), reported(3, 1, done=True)]) == [["launched"], [], ["moved"]]
    assert upgraded([SUGGESTED], End("RUNNING", 1)) == [["launched"]]
    assert upgraded([SUGGESTED], End("PENDING", 0)) == [[]]


def test_who_is_paused_after_a_resume_waited_for_a_place() -> None:
    rows = [SUGGESTED, reported(2, 1), LogRow(3, 3.0, "resumed", None, {"retry_failed": False})]
    rows.append(LogRow(4, 4.0, "requested", 0, {"request": 1, "action": "pause", "data": {}}))
    assert upgraded(rows, End("PAUSED", 1)) == [["launched"], [], [], ["moved"]]


def test_a_failure_is_what_the_table_says() -> None:
    failed = LogRow(3, 3.0, "failed", 0, {"attempt": 1, "cause": "exception", "message": "bang"})
    rows = [SUGGESTED, reported(2, 1), failed]
    assert upgraded(rows, End("FAILED", 1, "bang")) == [["launched"], [], ["moved"]]
    assert upgraded([*rows, reported(4, 2)]) == [["launched"], [], ["moved", "launched"], []]


def test_a_clone_holds_a_checkpoint_of_its_present_step() -> None:
    """So a pause right after it needs no other."""
    clone = {"step": 0, "verdict": "clone", "reason": "r", "source": 1, "config": {}, "until": None}
    pause = {"step": 0, "verdict": "pause", "reason": "r"}
    rows = [SUGGESTED, reported(2, 1), LogRow(3, 2.0, "verdict", 0, clone), LogRow(4, 2.0, "verdict", 0, pause)]
    rows.append(LogRow(5, 5.0, "verdict", 0, {"step": 0, "verdict": "continue", "reason": "r", "until": 4}))
    assert upgraded(rows) == [["launched"], ["verdict", "launched", "verdict", "verdict", "launched"]]
    launched = [effect for effects in effects_of(rows) for effect in effects if isinstance(effect, Launched)]
    assert [effect.attempt for effect in launched] == [1, 2, 3]
    assert upgraded([*rows[:2], *rows[3:]])[1] == ["verdict", "verdict"]  # it is still saving


def test_the_end_of_the_experiment_is_taken_from_its_table() -> None:
    assert upgraded([SUGGESTED, reported(2, 1, done=True)], status="finished")[-1] == ["moved", "finished"]
    assert upgraded([SUGGESTED, reported(2, 1, done=True)], status="interrupted")[-1] == ["moved"]


def test_time_between_drivers_is_not_elapsed() -> None:
    rows = [SUGGESTED, reported(5, 1), LogRow(6, 1005.0, "resumed", None, {"retry_failed": False})]
    rows.append(LogRow(7, 1007.0, "capacity", None, {"nodes": []}))
    groups = Upgrade({}, lambda config: Resources()).groups((row, ()) for row in rows)
    assert [group.elapsed for group in groups] == [0.0, 5.0, 5.0, 7.0]
