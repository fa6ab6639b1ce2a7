"""A store that is away for a while: what is asked again, what is written once, and when it is given up."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tune_platform import SearchSpec, Trainable, resume, run, uniform
from tune_platform.errors import ExperimentError
from tune_platform.store import database
from tune_platform.store.database import StoreAway
from tune_platform.store.patience import Patience
from tune_platform.store.records import LogRow, ReportRow, TrialRow
from tune_platform.store.sql import SqlExperiment, SqlStore, open_store

if TYPE_CHECKING:
    from tests.conftest import Server


@pytest.fixture
def experiment(store: SqlStore) -> Iterator[SqlExperiment]:
    with store.create("first", {}, 1.0) as made:
        yield made


def row(seq: int, **data: Any) -> LogRow:
    return LogRow(seq, float(seq), "reported", 0, data, None, 0.5)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# ------------------------------------------------------------------ two at the same moment


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_opening_waits_for_another_process_that_makes_the_same_file(lock: str, tmp_path: Path) -> None:
    path = tmp_path / "experiment.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (x)")
    other.execute(f"BEGIN {lock}")
    soon = threading.Timer(0.2, other.execute, ["COMMIT"])
    soon.start()
    opened = database.Database(sa.URL.create("sqlite", database=str(path)))
    assert opened.query("PRAGMA journal_mode") == [("wal",)]
    opened.close()
    soon.join()
    other.close()


def test_opening_gives_up_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "experiment.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with pytest.raises(StoreAway, match="database is locked"):
        database.Database(sa.URL.create("sqlite", database=str(path)))
    other.close()


# ------------------------------------------------------------------ asking again


def test_it_asks_again_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[bool] = []

    def attempt(again: bool) -> str:
        tries.append(again)
        if len(tries) < 4:
            raise StoreAway("pg: gone") from OSError("connection refused\nIs the server running?")
        return "here"

    assert Patience("pg", 30.0)(attempt) == "here"
    assert tries == [False, True, True, True]
    first, last = warnings(caplog)
    assert first == "the store at pg does not answer (connection refused); trials go on, retrying for up to 30 s"
    assert last.startswith("the store is back after ")


def test_it_gives_up_once(caplog: pytest.LogCaptureFixture) -> None:
    patience, tries = Patience("pg", 0.2), 0

    def attempt(again: bool) -> None:
        nonlocal tries
        tries += 1
        raise StoreAway("pg: gone")

    with pytest.raises(ExperimentError, match=r"the store at pg did not answer for 0 s \(pg: gone\)") as caught:
        patience(attempt)
    assert not isinstance(caught.value, StoreAway)
    assert tries > 2
    for _ in range(2):  # what follows, as the status that is written in the end, waits no second time
        before = tries
        with pytest.raises(StoreAway):
            patience(attempt)
        assert tries == before + 1
    assert len(warnings(caplog)) == 1


def test_who_is_interrupted_waits_no_more() -> None:
    patience, tries = Patience("pg", 30.0), 0

    def attempt(again: bool) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            raise KeyboardInterrupt
        raise StoreAway("pg: gone")

    with pytest.raises(KeyboardInterrupt):
        patience(attempt)
    with pytest.raises(StoreAway):
        patience(attempt)
    assert tries == 4


def test_other_errors_are_raised_at_once() -> None:
    tries: list[bool] = []

    def attempt(again: bool) -> None:
        tries.append(again)
        raise ExperimentError("another driver works on it")

    with pytest.raises(ExperimentError, match="another driver"):
        Patience("pg", 30.0)(attempt)
    assert tries == [False]


# ------------------------------------------------------------------ writing once


class Flaky:
    """A connection that is lost once, before or after a statement that begins so."""

    def __init__(self, real: Any, error: Exception, when: str, statement: str, then: Any = None) -> None:
        self._real, self._error, self._when, self._statement, self._then = real, error, when, statement, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def cursor(self) -> Any:
        return FlakyCursor(self._real.cursor(), self)

    def strike(self, text: str, when: str) -> None:
        if self._when == when and text.startswith(self._statement):
            self._when = ""
            if self._then is not None:
                self._then()
            raise self._error


class FlakyCursor:
    def __init__(self, real: Any, connection: Flaky) -> None:
        self._real, self._connection = real, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, text: str, values: Any = ()) -> None:
        self._connection.strike(text, "before")
        self._real.execute(text, values)
        self._connection.strike(text, "after")

    def executemany(self, text: str, values: Any) -> None:
        self._connection.strike(text, "before")
        self._real.executemany(text, values)


def lose(experiment: SqlExperiment, when: str, statement: str, then: Any = None) -> None:
    """Have the experiment's connection be lost once."""
    if experiment._db.dialect == "postgresql":
        import psycopg

        error: Exception = psycopg.OperationalError("server closed the connection unexpectedly")
    else:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    experiment._db._connection = Flaky(experiment._db._connection, error, when, statement, then)


@pytest.mark.parametrize(
    ("when", "statement"),
    [("before", "BEGIN"), ("before", "INSERT INTO reports"), ("before", "COMMIT"), ("after", "COMMIT")],
)
def test_a_lost_connection_writes_nothing_twice(
    experiment: SqlExperiment, when: str, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    experiment.acquire()
    experiment.append([row(1)])
    lose(experiment, when, statement)
    rows, reports = [row(2, x=0.1), row(3)], [ReportRow(0, 1, 2, 1.0, {"a": 1}), ReportRow(0, 2, 3, 1.0, {"a": 2})]
    experiment.append(rows, reports, [TrialRow(trial=0, status="RUNNING", config={})], snapshot=(3, "{}"))
    assert list(experiment.read_log(after=1)) == [(rows[0], (reports[0],)), (rows[1], (reports[1],))]
    assert experiment.counts() == {"RUNNING": 1}
    assert list(experiment.snapshots()) == [(3, "{}")]
    assert ["does not answer" in text for text in warnings(caplog)] == [True, False]
    experiment.append([row(4)])
    assert experiment.last_seq() == 4


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_log_is_converted_once(experiment: SqlExperiment, when: str) -> None:
    experiment.append([row(1), row(2)], [ReportRow(0, 1, 1, 1.0, {"a": 1}), ReportRow(0, 2, 2, 1.0, {"a": 2})])
    with experiment._db.transaction() as cursor:
        cursor.execute("UPDATE experiments SET log_format = 1")
    experiment.acquire()
    lose(experiment, when, "COMMIT")
    experiment.convert_log([row(1), row(2), row(3), row(4)], {1: 2, 2: 3})
    assert [[r.step for r in batch] for _, batch in experiment.read_log()] == [[], [1], [2], []]
    assert experiment.log_format == 2


@pytest.mark.parametrize("same", [True, False])
def test_another_drivers_row_is_a_conflict(store: SqlStore, experiment: SqlExperiment, same: bool) -> None:
    experiment.acquire()

    def steal() -> None:
        with store.open("first") as other:
            other.acquire(force=True)
            other.append([row(1, x=1 if same else 2)])

    # Before any statement of ours: in memory both share the one connection.
    lose(experiment, "before", "BEGIN", steal)
    with pytest.raises(ExperimentError, match="another driver works on"):
        experiment.append([row(1, x=1)])


def test_the_end_is_written_though_the_answer_was_lost(experiment: SqlExperiment) -> None:
    experiment.acquire()
    lose(experiment, "after", "COMMIT")
    experiment.set_status("finished", "all done", 9.0)
    assert (experiment.row().status, experiment.row().heartbeat) == ("finished", 9.0)
    experiment.acquire()
    lose(experiment, "before", "UPDATE experiments")
    experiment.set_status("stopped", "enough", 10.0)
    assert experiment.row().status == "stopped"


def test_who_holds_no_lease_is_told_at_once(experiment: SqlExperiment) -> None:
    lose(experiment, "before", "INSERT")
    with pytest.raises(StoreAway):
        experiment.append([row(1)])
    experiment.acquire()
    experiment.set_status("stopped", "", 1.0)
    lose(experiment, "before", "INSERT")
    with pytest.raises(StoreAway):
        experiment.request("stop")


@pytest.mark.slow
def test_a_server_that_takes_no_writes_any_more_is_left(empty_postgresql: str) -> None:
    with open_store(empty_postgresql) as store, store.create("e", {}, 1.0) as experiment:
        experiment.acquire()
        # As after a fail-over: this connection is still to the old primary, a new one is to the new.
        experiment._db._connection.execute("SET default_transaction_read_only = on")
        experiment.append([row(1)])
        assert experiment.last_seq() == 1


@pytest.mark.slow
def test_postgresql_ends_a_transaction_that_was_cut_off(empty_postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 1.0)
    with open_store(empty_postgresql) as store, store.create("e", {}, 1.0) as experiment:
        experiment.acquire()
        with store.open("e") as half:  # as its connection would be if nothing came through any more after the lock
            half._db._connection.execute("BEGIN")
            half._db._connection.execute("UPDATE experiments SET reason = 'x'")
            experiment.append([row(1)])
        assert experiment.last_seq() == 1
        assert experiment.row().reason == ""


# ------------------------------------------------------------------ a file that is locked


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold the write lock of a SQLite file, until the end or a COMMIT."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
    finally:
        connection.close()


@pytest.mark.usefixtures("_hasty")
def test_a_locked_file_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(tmp_path) as store, store.create("e", {}, 1.0) as experiment:
        experiment.acquire()
        with locked(tmp_path / "e" / "experiment.db") as connection:
            timer = threading.Timer(0.5, connection.execute, ["COMMIT"])
            timer.start()
            experiment.append([row(1)])
            timer.join()
        assert experiment.last_seq() == 1
        first, last = warnings(caplog)
        assert "does not answer (database is locked); trials go on" in first
        assert "back after" in last


@pytest.mark.usefixtures("_hasty")
def test_a_file_that_stays_locked_is_given_up(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, store.create("e", {}, 1.0) as experiment:
        experiment.acquire(patience=0.3)
        with locked(tmp_path / "e" / "experiment.db"):
            with pytest.raises(ExperimentError, match=r"did not answer for \d s \(database is locked\)"):
                experiment.append([row(1)])
            assert experiment.requests(0) == []  # reading goes on
            with pytest.raises(StoreAway):
                experiment.set_status("failed", "", 1.0)
        experiment.append([row(1)])


# ------------------------------------------------------------------ searches


class Slow(Trainable):
    """Counts, and takes its time."""

    def setup(self, config: dict[str, Any]) -> None:
        self.now = 0

    def step(self) -> Mapping[str, Any] | None:
        if self.now == 4:
            return None
        self.now += 1
        time.sleep(self.config.get("pause", 0.0))
        return {"loss": self.config["x"] / self.now}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "now").write_text(str(self.now))

    def load_checkpoint(self, directory: Path) -> None:
        self.now = int((directory / "now").read_text())


def spec_of(storage: str, **options: Any) -> SearchSpec:
    values: dict[str, Any] = {
        "name": "slow", "trainable": Slow, "metric": "loss", "mode": "min", "param_space": {"x": uniform(0, 1)},
        "num_samples": 6, "seed": 3, "backend": "inline", "storage": storage,
    }  # fmt: skip
    return SearchSpec(**values | options)


def curves(storage: str) -> list[list[Any]]:
    """What the search came to, and that its log is whole."""
    with open_store(storage) as store, store.open("slow", readonly=True) as experiment:
        assert [r.seq for r, _ in experiment.read_log()] == list(range(1, experiment.last_seq() + 1))
        assert sum(len(batch) for _, batch in experiment.read_log()) == len(list(experiment.reports()))
        return [
            [trial.status, trial.config, [report.metrics for report in experiment.reports(trial.trial)]]
            for trial in experiment.trials()
        ]


@pytest.mark.usefixtures("_hasty")
def test_a_search_ends_with_the_store_that_gave_up(tmp_path: Path) -> None:
    held: list[Any] = []

    def listener(run: Any, events: Any, effects: Any) -> None:
        if not held:
            held.append(locked(tmp_path / "slow" / "experiment.db"))
            held[0].__enter__()

    spec = spec_of(str(tmp_path), store_patience=0.3)
    with pytest.raises(ExperimentError, match=r"did not answer for \d s .*resume the experiment once"):
        run(spec, listeners=[listener])
    held[0].__exit__(None, None, None)
    with open_store(tmp_path) as store:
        assert store.experiments()[0].status == "crashed"
    assert resume("slow", storage=tmp_path, spec=spec).counts == {"COMPLETED": 6}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_search_outlives_restarts_of_postgresql(
    own_postgresql: Server, mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(spec_of(str(tmp_path)))
    calm = curves(str(tmp_path))
    turns = 0
    threads: list[threading.Thread] = []

    def restart(seconds: float) -> None:
        if mode == "kill":
            own_postgresql.kill()
        else:
            own_postgresql.stop(mode)
        time.sleep(seconds)
        own_postgresql.start()

    def listener(run: Any, events: Any, effects: Any) -> None:
        nonlocal turns
        turns += 1
        if turns in (3, 12, 20, 28):  # away before this turn's effects; and while it goes on
            for before in threads:
                before.join()
            threads.append(threading.Thread(target=restart, args=(0.5,)))
            threads[-1].start()
            if turns == 3:
                time.sleep(0.5)

    spec = spec_of(own_postgresql.url, param_space={"x": uniform(0, 1), "pause": 0.02}, store_patience=60.0)
    results = run(spec, listeners=[listener])
    for thread in threads:
        thread.join()
    assert len(threads) == 4
    assert results.counts == {"COMPLETED": 6}
    assert results.row().status == "finished"
    found = curves(own_postgresql.url)
    assert [[status, config["x"], reports] for status, config, reports in found] == [
        [status, config["x"], reports] for status, config, reports in calm
    ]
    texts = warnings(caplog)
    assert texts
    assert all("does not answer" in text or "is back after" in text for text in texts), texts
    assert sum("does not answer" in text for text in texts) == sum("is back after" in text for text in texts)
