"""Who drives: the lease, its heartbeat, and drivers that are told apart."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tune_platform.errors import ExperimentError
from tune_platform.store import lease
from tune_platform.store.database import Database, StoreAway
from tune_platform.store.lease import LEASE_SECONDS, alive, new_driver, shown
from tune_platform.store.records import LogRow
from tune_platform.store.sql import SqlExperiment, SqlStore

HERE = f"{socket.gethostname()}:{os.getpid()}"
DAY = 86400.0


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)


@pytest.fixture
def experiment(store: SqlStore) -> Iterator[SqlExperiment]:
    with store.create("first", {}, 1.0) as made:
        yield made


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that happens at all."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)


def set_row(experiment: SqlExperiment, **values: Any) -> None:
    """Change the stored row behind the back of everybody."""
    with experiment._db.transaction() as cursor:
        for name, value in values.items():
            text = f"'{value}'" if isinstance(value, str) else repr(value)
            cursor.execute(f"UPDATE experiments SET {name} = {text}")


def test_somebody_drives_it_from_its_making_to_its_end(experiment: SqlExperiment) -> None:
    assert not experiment.driven()
    experiment.acquire()
    assert experiment.driven(), "whoever holds it is about to"
    set_row(experiment, status="running", reason="")
    assert experiment.driven()
    set_row(experiment, status="finished")
    assert not experiment.driven()
    set_row(experiment, status="running", driver=f"{socket.gethostname()}:999999999")
    assert not experiment.driven(), "that process is no more"


def stored(experiment: SqlExperiment) -> str:
    return str(experiment._db.query("SELECT driver FROM experiments")[0][0])


def heartbeats() -> int:
    return sum(thread.name == "heartbeat" for thread in threading.enumerate())


@contextmanager
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that lives until it is told otherwise, and its name as a driver."""
    code = "from tune_platform.store.lease import new_driver; print(new_driver(), flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert child.stdout is not None
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.communicate()


# ------------------------------------------------------------------ names


def test_people_are_shown_the_host_and_the_pid() -> None:
    first, second = new_driver(), new_driver()
    assert first != second
    assert shown(first) == shown(second) == HERE
    assert shown("host:7") == "host:7"


def test_a_driver_of_this_host_lives_as_long_as_its_process() -> None:
    with process() as (child, driver):
        assert alive(driver) is True
        child.send_signal(signal.SIGKILL)
        until(lambda: alive(driver) is False, "a killed process is gone, though nobody has waited for it")
        child.wait()
        assert alive(driver) is False


def test_another_process_with_the_same_pid_is_another_driver() -> None:
    with process() as (_, driver):
        name, *details = driver.split(" ")
        earlier = [f"start={'1' if part != 'start=1' else '2'}" if part[:6] == "start=" else part for part in details]
        assert earlier != details
        assert alive(" ".join([name, *earlier])) is False


@pytest.mark.parametrize("key", ["boot", "pids"])
def test_the_pids_of_another_container_or_machine_say_nothing(key: str) -> None:
    with process() as (child, driver):
        details = dict(part.split("=") for part in driver.split(" ")[1:])
        if key not in details:
            pytest.skip("the system does not tell")
        other = driver.replace(f"{key}={details[key]}", f"{key}=123")
        assert other != driver
        assert alive(other) is None
        renamed = driver.replace(socket.gethostname(), "renamed")
        assert alive(renamed) is True, "a machine may get another name"
        child.kill()
        child.wait()
        assert (alive(other), alive(renamed)) == (None, False)


def test_names_of_older_releases() -> None:
    with process() as (child, driver):
        old = shown(driver)
        assert alive(old) is None, "the pid may be another's by now"
        child.kill()
        child.wait()
        assert alive(old) is False
    assert alive("elsewhere:1") is None
    assert alive("nonsense") is None
    assert alive("") is None


def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with process() as (child, named):
        monkeypatch.setattr(lease, "_PROC", tmp_path)
        assert "boot" not in new_driver()
        began = lease._began(child.pid)
        assert began is not None
        name = shown(named)
        assert alive(f"{name} start={began}") is (True if began else None)
        if began:
            assert alive(f"{name} start=Mon-Jan-1") is False
        monkeypatch.setenv("PATH", "")  # no `ps` either
        assert alive(f"{name} start=Mon-Jan-1") is None
        child.kill()
        child.wait()
        assert alive(f"{name} start={began}") is False


# ------------------------------------------------------------------ taking it


def test_the_lease_keeps_others_out(store: SqlStore, experiment: SqlExperiment) -> None:
    experiment.acquire()
    assert (experiment.row().status, experiment.row().driver) == ("running", HERE)
    set_row(experiment, heartbeat=time.time() - 33)  # before the next beat
    with store.open("first") as other:
        with pytest.raises(ExperimentError, match=rf"is being run by {HERE}, .*end its process\.$"):
            other.acquire()  # another thread of this process, for instance
        assert other.row().status == "running"
        experiment.append([LogRow(1, 1.0, "x", None, {})])
        experiment.set_status("finished", "all\0 done", 156.0)
        row = other.row()
        assert (row.status, row.reason, row.heartbeat, row.driver) == ("finished", "all\\x00 done", 156.0, HERE)
        other.acquire()
        other.acquire()  # again: it holds it already
        assert other.row().status == "running"


def test_a_living_process_keeps_its_lease_however_old_its_heartbeat_is(
    store: SqlStore, experiment: SqlExperiment
) -> None:
    with process() as (child, driver):
        experiment.acquire(driver)
        experiment._let_go()
        set_row(experiment, heartbeat=time.time() - DAY)
        with store.open("first") as other:
            assert other.row().status == "running"
            with pytest.raises(ExperimentError, match=f"is being run by {shown(driver)}"):
                other.acquire()
            child.kill()
            child.wait()
            assert (other.row().status, other.row().reason) == ("crashed", f"its driver {shown(driver)} is gone")
            other.acquire()
            assert (other.row().status, other.row().driver) == ("running", HERE)


def test_force_takes_it_and_the_other_must_end(store: SqlStore, experiment: SqlExperiment) -> None:
    experiment.acquire()
    with store.open("first") as other:
        other.acquire(force=True)
        with pytest.raises(ExperimentError, match="another driver works on"):
            experiment.append([LogRow(1, 1.0, "x", None, {})])
        with pytest.raises(ExperimentError, match="another driver works on"):
            experiment.set_status("finished", "", 160.0)
        until(lambda: heartbeats() == 1, "the thread of the lost lease ends by itself")
        other.append([LogRow(1, 1.0, "x", None, {})])
        assert other.row().status == "running"


def test_a_closed_experiment_is_not_being_run(store: SqlStore, experiment: SqlExperiment) -> None:
    with store.open("first") as driven:
        driven.acquire()
    assert experiment.row().status == "crashed"
    experiment.acquire()


def test_a_driver_elsewhere_is_judged_by_its_heartbeat(store: SqlStore, experiment: SqlExperiment) -> None:
    experiment.acquire("elsewhere:7")
    with store.open("first") as other:
        with pytest.raises(
            ExperimentError, match=r"is being run by elsewhere:7.*end its process there; its lease ends 30 s later\.$"
        ):
            other.acquire()
        experiment._let_go()
        assert other.row().status == "running"
        set_row(experiment, heartbeat=time.time() - LEASE_SECONDS)
        assert other.row().status == "crashed"
        other.acquire()
        assert other.row().driver == HERE


@pytest.mark.parametrize("shift", [DAY, -DAY])
def test_a_clock_that_was_set_breaks_no_lease(
    store: SqlStore, experiment: SqlExperiment, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    now = time.time
    experiment.acquire("elsewhere:7")
    with store.open("first") as other:
        monkeypatch.setattr(time, "time", lambda: now() + shift)
        # The driver's clock is right, and it beats; the observer's is not.
        beating = threading.Event()

        def beat() -> None:
            while not beating.wait(0.02):
                set_row(experiment, heartbeat=now())

        experiment._let_go()
        set_row(experiment, heartbeat=now())
        thread = threading.Thread(target=beat)
        thread.start()
        try:
            with pytest.raises(ExperimentError, match="is being run by elsewhere:7"):
                other.acquire()
        finally:
            beating.set()
            thread.join()
        other.acquire()  # it is dead now, whatever the clocks say
        assert other.row().driver == HERE


def test_a_lease_of_long_ago_is_not_watched(
    store: SqlStore, experiment: SqlExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment.acquire("elsewhere:7")
    experiment._let_go()
    set_row(experiment, heartbeat=0.0)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 1e6)
    experiment.acquire()
    assert experiment.row().driver == HERE


def test_two_that_wait_for_a_dead_one_do_not_both_get_it(
    store: SqlStore, experiment: SqlExperiment, location: str
) -> None:
    if location == "sqlite://":
        pytest.skip("in memory there is one process")
    experiment.acquire("elsewhere:7")
    experiment._let_go()
    set_row(experiment, heartbeat=time.time() - DAY)
    got: list[str] = []
    drivers = [store.open("first") for _ in range(3)]

    def take(driver: SqlExperiment) -> None:
        try:
            driver.acquire()
            got.append("lease")
        except ExperimentError as error:
            got.append(str(error))

    threads = [threading.Thread(target=take, args=(driver,)) for driver in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for driver in drivers:
        driver.close()
    assert got.count("lease") == 1, got
    assert sum("is being run by" in text for text in got) == 2


def test_a_lease_that_was_just_taken_is_held(
    store: SqlStore, experiment: SqlExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = SqlExperiment._take
    seen: list[str] = []

    def take(self: SqlExperiment, *arguments: Any) -> bool:
        done = taken(self, *arguments)
        with store.open("first") as other:  # before the one that took it can do anything
            seen.append(other.row().status)
        return done

    monkeypatch.setattr(SqlExperiment, "_take", take)
    experiment.acquire()
    assert seen == ["running"]


def test_what_was_refused_is_not_held(store: SqlStore, experiment: SqlExperiment) -> None:
    experiment.acquire()
    with store.open("first") as other, pytest.raises(ExperimentError, match="is being run by"):
        other.acquire()
    assert lease._held == {stored(experiment)}


# ------------------------------------------------------------------ the heartbeat


def test_it_beats_while_the_driver_is_in_a_long_step(experiment: SqlExperiment) -> None:
    experiment.acquire()
    for _ in range(2):
        set_row(experiment, heartbeat=5.0)
        until(lambda: experiment.row().heartbeat > 5.0, "a heartbeat")
    assert abs(experiment.row().heartbeat - time.time()) < 60


@pytest.mark.parametrize("end", ["set_status", "close"])
def test_it_ends_with_the_lease(store: SqlStore, experiment: SqlExperiment, end: str) -> None:
    with store.open("first") as driven:
        driven.acquire()
        assert heartbeats() == 1
        driven.set_status("finished", "", 7.0) if end == "set_status" else driven.close()
        assert heartbeats() == 0
    if end == "set_status":
        time.sleep(3 * lease.HEARTBEAT_SECONDS)
        assert experiment.row().heartbeat == 7.0


def test_it_goes_on_when_the_store_was_away(experiment: SqlExperiment, monkeypatch: pytest.MonkeyPatch) -> None:
    real, away = Database.transaction, threading.Event()
    failed: list[str] = []

    def transaction(self: Database, conflict: str = "") -> Any:
        if threading.current_thread().name == "heartbeat" and not away.is_set():
            failed.append("away")
            raise StoreAway("the server is being started again")
        return real(self, conflict)

    monkeypatch.setattr(Database, "transaction", transaction)
    experiment.acquire()
    set_row(experiment, heartbeat=5.0)
    until(lambda: len(failed) > 2, "heartbeats that fail")
    assert experiment.row().heartbeat == 5.0
    away.set()
    until(lambda: experiment.row().heartbeat > 5.0, "a heartbeat")


def test_it_ends_when_the_lease_is_lost(experiment: SqlExperiment) -> None:
    experiment.acquire()
    set_row(experiment, driver="elsewhere:7", heartbeat=5.0)
    until(lambda: heartbeats() == 0, "its end")
    assert experiment.row().heartbeat == 5.0


def test_one_that_comes_late_changes_nothing(experiment: SqlExperiment) -> None:
    experiment.acquire()
    beating = experiment._lease
    assert beating is not None
    experiment.set_status("finished", "", 7.0)
    assert not beating._beat(experiment._db)
    assert experiment.row().heartbeat == 7.0
