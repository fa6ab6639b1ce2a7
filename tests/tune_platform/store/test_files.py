"""What holds for the SQLite files: crashes, read-only use, damaged files, other versions."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from tune_platform.errors import ExperimentError
from tune_platform.protocol.effects import EFFECTS
from tune_platform.protocol.events import EVENTS
from tune_platform.store import migrations, schema
from tune_platform.store.database import Database
from tune_platform.store.records import LogRow, ReportRow, TrialRow
from tune_platform.store.rows import encode
from tune_platform.store.sql import SqlExperiment, open_store

ASSETS = Path(__file__).parents[2] / "assets"

WRITER = """
import os, sys
from tune_platform.store.records import *
from tune_platform.store.sql import open_store
store = open_store(sys.argv[1])
experiment = store.open("e")
experiment.acquire()
seq = experiment.last_seq()
steps = [experiment.trial(t).step if seq else 0 for t in range(3)]
print("ready", flush=True)
while True:
    rows, reports, trials = [], [], []
    for trial in range(3):
        seq += 1
        rows.append(LogRow(seq, 1.0, "reported", trial, {"x": "y" * 50}))
        for _ in range(2):
            steps[trial] += 1
            reports.append(ReportRow(trial, steps[trial], seq, 1.0, {"loss": 0.5}))
        trials.append(TrialRow(trial=trial, status="RUNNING", config={}, step=steps[trial]))
    experiment.append(rows, reports, trials)
"""


def check_whole(experiment: SqlExperiment) -> int:
    """Check that the log has no gaps and that reports and trials match it; return its length."""
    steps = dict.fromkeys(range(3), 0)
    expected = 0
    for row, batch in experiment.read_log():
        expected += 1
        assert row.seq == expected
        assert row.trial is not None
        assert [report.step for report in batch] == [steps[row.trial] + 1, steps[row.trial] + 2]
        steps[row.trial] += 2
    assert expected % 3 == 0
    assert {trial.trial: trial.step for trial in experiment.trials()} == {t: s for t, s in steps.items() if s}
    assert len(list(experiment.reports())) == 2 * expected
    return expected


def run_writer(location: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, location], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_writers_leave_a_whole_log(location: str) -> None:
    if location == "sqlite://":
        pytest.skip("memory has one process")
    with open_store(location) as store:
        store.create("e", {}, 1.0).close()
        length = 0
        for pause in (0.15, 0.01, 0.2):
            process = run_writer(location)
            time.sleep(pause)
            kill(process)
            with store.open("e", readonly=True) as reader:
                assert reader.row().status == "crashed"
                found = check_whole(reader)
            assert found >= length
            length = found
        assert length > 0


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_reading_after_a_kill_changes_nothing_on_disk(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.create("e", {}, 1.0).close()
        process = run_writer(str(tmp_path))
        time.sleep(0.1)
        kill(process)
        before = contents(tmp_path)
        with store.open("e", readonly=True) as reader:
            check_whole(reader)
            store.experiments()
        after = contents(tmp_path)
    assert set(after) == set(before)
    assert all(after[name] == before[name] for name in before if not name.endswith("-shm"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    with open_store(tmp_path) as store, store.create("e", {"a": 1}, 1.0) as experiment:
        experiment.append([LogRow(1, 1.0, "x", 0, {})])
    return tmp_path


def test_reading_makes_no_files_and_no_locks(place: Path) -> None:
    assert [path.name for path in (place / "e").iterdir()] == ["experiment.db"]
    with open_store(place) as store, store.open("e", readonly=True) as reader:
        assert reader.last_seq() == 1
        assert store.experiments()[0].spec == {"a": 1}
        assert [path.name for path in (place / "e").iterdir()] == ["experiment.db"]
        with pytest.raises(ExperimentError, match="readonly"):
            reader.append([LogRow(2, 1.0, "x", 0, {})])
        # A writer may come, write and go: the open reader follows.
        with store.open("e") as writer:
            writer.append([LogRow(2, 1.0, "x", 0, {})])
            assert reader.last_seq() == 2
            writer.append([LogRow(3, 1.0, "x", 0, {})])
            assert reader.last_seq() == 3
    with open_store(place) as store, store.open("e", readonly=True) as reader:
        store.open("e").close()
        for seq in range(4, 8):
            with store.open("e") as writer:
                writer.append([LogRow(seq, 1.0, "x", 0, {})])
            assert [row.seq for row, _ in reader.read_log(after=seq - 2)] == [seq - 1, seq]


def test_a_writer_that_came_and_went_is_noticed(place: Path) -> None:
    with open_store(place) as store, store.open("e", readonly=True) as reader:
        assert reader.last_seq() == 1
        for seq in range(2, 5):
            with store.open("e") as writer:  # closed before the reader looks: the write-ahead log is gone again
                writer.append([LogRow(seq, 1.0, "x", 0, {})], trials=[TrialRow(trial=seq, status="P", config={})])
            assert reader.last_seq() == seq
            assert len(reader.trials()) == seq - 1


def test_a_waiting_reader_does_not_hold_up_the_writer(place: Path) -> None:
    with open_store(place) as store, store.open("e") as writer, store.open("e", readonly=True) as reader:
        reading = reader.read_log()
        next(reading)
        writer.append([LogRow(2, 1.0, "x", 0, {})])  # would raise: the reader lets go of nothing before it is done
        assert [row.seq for row, _ in reading] == [2]


def test_damaged_and_foreign_files_are_listed_not_raised(place: Path) -> None:
    for name, content in (("garbage", b"not a database" * 100), ("empty", b"")):
        (place / name).mkdir()
        (place / name / "experiment.db").write_bytes(content)
    (place / "foreign").mkdir()
    connection = sqlite3.connect(place / "foreign" / "experiment.db")
    connection.execute("CREATE TABLE trials (number INTEGER)")
    connection.close()
    (place / "torn").mkdir()
    whole = (place / "e" / "experiment.db").read_bytes()
    (place / "torn" / "experiment.db").write_bytes(whole[: len(whole) // 2])
    (place / "no-experiment").mkdir()
    (place / "a-file").touch()
    with open_store(place) as store:
        rows = {row.name: row for row in store.experiments()}
        assert set(rows) == {"e", "garbage", "empty", "foreign", "torn"}
        assert rows.pop("e").status == "interrupted"
        assert {row.status for row in rows.values()} == {"unreadable"}
        assert "not a database" in rows["garbage"].reason
        assert "another program" in rows["foreign"].reason
        for name in rows:
            with pytest.raises(ExperimentError):
                store.open(name, readonly=True)


def test_a_making_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    database = Database(URL.create("sqlite", database=str(tmp_path / "e" / "experiment.db")))
    migrations.prepare(database)
    database.close()
    with open_store(tmp_path) as store:
        assert store.experiments()[0].status == "unreadable"
        with pytest.raises(ExperimentError, match="cut short"):
            store.open("e")
        with store.create("e", {}, 1.0) as experiment:
            assert experiment.last_seq() == 0


def test_a_copied_folder_is_an_experiment_of_the_new_name(place: Path) -> None:
    shutil.copytree(place / "e", place / "copy")
    with open_store(place) as store, store.open("copy") as experiment:
        assert experiment.row().name == "copy"
        assert experiment.last_seq() == 1


# ------------------------------------------------------------------ versions


@pytest.fixture(params=[1, 2])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copytree(ASSETS / f"version_{request.param}", tmp_path / "results")
    return tmp_path / "results"


def check_old(experiment: SqlExperiment) -> None:
    (first, none), (second, batch) = experiment.read_log()
    assert (first.kind, none, second.seq) == ("suggested", (), 2)
    assert [report.step for report in batch] == [1, 2]
    assert [row.seq for row in experiment.history(0)] == [1, 2]
    assert experiment.trial(0).worker == ""
    assert experiment.trial(0).config == {"lr": 0.1}
    assert experiment.row().status == "finished"
    assert len(experiment.checkpoints()) == len(experiment.requests(0)) == 1


def test_an_older_version_is_migrated_when_opened(old: Path) -> None:
    with open_store(old) as store:
        with store.open("old") as experiment:
            check_old(experiment)
            experiment.append([LogRow(3, 1.0, "x", 0, {})], [ReportRow(0, 3, 3, 1.0, {})])
            experiment.append([], trials=[TrialRow(trial=1, status="RUNNING", config={}, worker="w")])
            assert experiment.trial(1).worker == "w"
        with store.open("old", readonly=True) as experiment:
            assert experiment.last_seq() == 3
    assert objects(old / "old" / "experiment.db") == objects_of_a_new_one(old)


KILLED = [path.name for path in sorted((ASSETS / "version_3").iterdir())]


@pytest.mark.parametrize("name", KILLED)
def test_searches_of_version_3_are_migrated(name: str, tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "version_3" / name, tmp_path / name)
    connection = sqlite3.connect(tmp_path / name / "experiment.db")
    try:
        written = connection.execute("SELECT seq, time, kind, trial, data FROM log ORDER BY seq").fetchall()
        batches = connection.execute("SELECT seq, count(*) FROM reports GROUP BY seq ORDER BY seq").fetchall()
        trials = connection.execute("SELECT trial, status FROM trials ORDER BY trial").fetchall()
    finally:
        connection.close()
    with open_store(tmp_path) as store, store.open(name) as experiment:
        rows = list(experiment.read_log())
        assert [(r.seq, r.time, r.kind, r.trial, encode(r.data)) for r, _ in rows] == written
        assert {(r.stimulus, r.elapsed) for r, _ in rows} == {(None, 0.0)}
        assert [(r.seq, len(batch)) for r, batch in rows if batch] == batches
        assert [(t.trial, t.status) for t in experiment.trials()] == trials
        assert experiment.log_format == 1
        assert list(experiment.snapshots()) == []
        assert experiment.row().status == "crashed"
        end = experiment.last_seq()
        experiment.acquire()
        row = LogRow(end + 1, 1.0, "launched", 0, {}, None, 3.5)
        experiment.append([row], snapshot=(end + 1, "{}"))
        experiment.set_status("interrupted", "", 1.0)
    with open_store(tmp_path) as store, store.open(name, readonly=True) as experiment:
        assert (experiment.log_format, list(experiment.snapshots())) == (1, [(end + 1, "{}")])
        assert list(experiment.read_log(after=end)) == [(row, ())]
    assert objects(tmp_path / name / "experiment.db") == objects_of_a_new_one(tmp_path)


def objects(path: Path) -> tuple[set[tuple[str, str]], set[tuple[Any, ...]]]:
    """The tables and indices, and every column with whether it may be null, its default and its place in the key."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("SELECT schema_version FROM meta").fetchall() == [(schema.VERSION,)]
        found = set(connection.execute("SELECT type, name FROM sqlite_master"))
        info = 'SELECT name, "notnull", dflt_value, pk FROM pragma_table_info(?)'
        columns = {(name, *row) for kind, name in found if kind == "table" for row in connection.execute(info, (name,))}
        return found, columns
    finally:
        connection.close()


def objects_of_a_new_one(place: Path) -> tuple[set[tuple[str, str]], set[tuple[Any, ...]]]:
    with open_store(place) as store:
        store.create("new", {}, 1.0).close()
    return objects(place / "new" / "experiment.db")


def test_an_older_version_is_read_without_being_changed(old: Path) -> None:
    before = contents(old)
    with open_store(old) as store:
        assert [(row.name, row.status, row.counts) for row in store.experiments()] == [
            ("old", "finished", {"COMPLETED": 1})
        ]
        with store.open("old", readonly=True) as experiment:
            check_old(experiment)
    assert contents(old) == before


def test_a_failed_migration_leaves_the_old_version(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = schema.VERSION - 1
    monkeypatch.setitem(migrations.STEPS, last, (*migrations.STEPS[last], "CREATE TABLE oops ("))
    with open_store(old) as store:
        with pytest.raises(ExperimentError, match="incomplete input"):
            store.open("old")
        monkeypatch.undo()
        with store.open("old") as experiment:
            check_old(experiment)


def test_a_newer_version_is_refused(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(location) as store:
        store.create("e", {}, 1.0).close()
        monkeypatch.setattr(migrations, "VERSION", 1)
        for readonly in (False, True):
            with pytest.raises(ExperimentError, match=r"newer tune_platform \(schema version 4, this one knows 1\)"):
                store.open("e", readonly=readonly)
        if "://" not in location:
            assert "upgrade" in store.experiments()[0].reason


@pytest.mark.slow
def test_postgresql_is_migrated(empty_postgresql: str) -> None:
    import psycopg

    with open_store(empty_postgresql) as store:
        store.create("e", {}, 1.0).close()
        with psycopg.connect(empty_postgresql) as connection:  # back to version 1
            connection.execute("ALTER TABLE trials DROP COLUMN worker")
            connection.execute("DROP INDEX reports_by_seq")
            connection.execute("DROP INDEX log_by_trial")
            connection.execute("ALTER TABLE log DROP COLUMN stimulus, DROP COLUMN elapsed")
            connection.execute("ALTER TABLE experiments DROP COLUMN log_format")
            connection.execute("DROP TABLE snapshots")
            connection.execute("UPDATE meta SET schema_version = 1")
        with pytest.raises(ExperimentError, match="open it once for writing"):
            store.open("e", readonly=True)
        with store.open("e") as experiment:
            experiment.append([], trials=[TrialRow(trial=1, status="RUNNING", config={}, worker="w")])
            assert experiment.trial(1).worker == "w"
        with store.open("e", readonly=True) as reader, pytest.raises(ExperimentError, match="read-only"):
            reader.append([LogRow(1, 1.0, "x", 0, {})])


@pytest.mark.slow
def test_a_lost_connection_is_made_again_for_reading(empty_postgresql: str) -> None:
    import psycopg

    with open_store(empty_postgresql) as store, store.create("e", {}, 1.0) as experiment:
        (backend,) = experiment._db.query("SELECT pg_backend_pid()")[0]
        with psycopg.connect(empty_postgresql, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", (backend,))
        assert experiment.last_seq() == 0
        experiment.append([LogRow(1, 1.0, "x", 0, {})])
        assert experiment.last_seq() == 1


# ------------------------------------------------------------------ the page for people


def test_the_page_names_every_table_and_every_kind() -> None:
    text = (Path(__file__).parents[3] / "docs" / "files.md").read_text()
    for name, table in schema.metadata.tables.items():
        assert f"**{name}**" in text
        section = text.split(f"**{name}**")[1].split("\n**")[0].split("\n## ")[0]
        missing = [column.name for column in schema.columns(table) if f"`{column.name}`" not in section]
        assert not missing, (name, missing)
    facts, effects = (text.split(f"| {which} | trial | data |")[1].split("\n\n")[0] for which in ("fact", "effect"))
    for kinds, section in ((EVENTS, facts), (EFFECTS, effects)):
        assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == list(kinds)
    versions = text.split("## Versions")[1].split("## ")[0]
    assert [int(number) for number in re.findall(r"^\| (\d+) ", versions, re.MULTILINE)] == [
        *range(1, schema.VERSION + 1)
    ]
