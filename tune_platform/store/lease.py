"""Who drives an experiment: names of drivers, whether one lives, and the thread that says so while it does.

A driver's name is "host:pid", which people are shown, and what tells its process from any other that has the same:
the boot of the machine, the namespace of its pids (two containers may have one host name), when the process began, and
a token of this one lease. Names of older releases are "host:pid" alone.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
import time
from pathlib import Path

from tune_platform.errors import ExperimentError
from tune_platform.store import schema
from tune_platform.store.database import Database, sql

LEASE_SECONDS = 30.0
"""A driver on another machine whose last heartbeat is older than this has lost its lease."""

HEARTBEAT_SECONDS = 5.0
"""Time between two heartbeats."""

# The clocks of two machines may differ by a day, because somebody set one of them, but hardly by more than this.
_DOUBT_SECONDS = 366 * 86400.0

_held: set[str] = set()  # by this process, or just being taken
_FAREWELL_SECONDS = 5.0
_PROC = Path("/proc")


def new_driver() -> str:
    """Return a name for a lease of this process; no two are the same."""
    pid = os.getpid()
    details = {**_here(), "start": _began(pid), "token": secrets.token_hex(4)}
    return " ".join([f"{socket.gethostname()}:{pid}", *(f"{key}={value}" for key, value in details.items() if value)])


def shown(driver: str) -> str:
    """Return what people are shown of a driver's name: "host:pid"."""
    return driver.partition(" ")[0]


def alive(driver: str) -> bool | None:
    """Say whether the driver still holds its lease; None where only its heartbeat can tell.

    That is so for a driver of another machine or container, and where it is not known when its process began: the pid
    may be another's by now.
    """
    name, _, rest = driver.partition(" ")
    details = dict(part.split("=", 1) for part in rest.split(" ") if "=" in part)
    host, _, number = name.rpartition(":")
    if os.name != "posix" or not number.isdecimal() or not _is_here(host, details):
        return None
    began = _began(int(number))
    known = details.get("start")
    if began is None or (began and known and began != known):
        return False
    if not began or not known:
        return None
    return driver in _held or int(number) != os.getpid()


def is_held(driver: str, heartbeat: float) -> bool:
    """Say whether a driver last heard of at `heartbeat` (epoch seconds) holds its lease, as far as one knows."""
    lives = alive(driver)
    return time.time() - heartbeat < LEASE_SECONDS if lives is None else lives


def is_doubtful(driver: str, heartbeat: float) -> bool:
    """Say whether the age of the heartbeat decides, and a clock that was set may be why it is that old, or young."""
    age = time.time() - heartbeat
    return alive(driver) is None and not 0.0 <= age < LEASE_SECONDS and age < _DOUBT_SECONDS


class Heartbeat:
    """Renews a lease from a thread and a connection of its own, from `start` until `stop`.

    So a driver that is in a long step, or waits for the store, keeps its lease. Ends by itself when another driver has
    taken it. It is to be made before the lease is taken: from then on the driver counts as one that lives.
    """

    def __init__(self, database: Database, experiment: int, driver: str) -> None:
        self.driver = driver
        self._source, self._experiment = database, experiment
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        _held.add(driver)

    def start(self) -> None:
        """Begin: the lease has been taken."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, waiting a little for what it is writing; stopping twice does no harm."""
        _held.discard(self.driver)
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_FAREWELL_SECONDS)

    def _run(self) -> None:
        database: Database | None = None
        try:
            while not self._ended.wait(HEARTBEAT_SECONDS):
                try:
                    database = database or self._source.another()
                    if not self._beat(database):
                        return
                except ExperimentError:  # the store is away: whoever writes says so, and the next beat may get through
                    continue
        finally:
            if database is not None and database is not self._source:
                database.close()

    def _beat(self, database: Database) -> bool:
        with database.transaction() as cursor:
            cursor.execute(sql(schema.BEAT, database.dialect), (time.time(), self._experiment, self.driver))
            return bool(cursor.rowcount == 1)


# ------------------------------------------------------------------------------------------ processes


def _here() -> dict[str, str]:
    """Return what tells where this process runs: empty texts where the system does not say."""
    boot = pids = ""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        pids = str((_PROC / "self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        pass
    return {"boot": boot.replace("-", "")[:12], "pids": pids}


def _is_here(host: str, details: dict[str, str]) -> bool:
    """Say whether a driver's pid is one that is seen from here."""
    here = _here()
    if here["boot"] and details.get("boot"):
        return here == {name: details.get(name, "") for name in here}
    return host == socket.gethostname()


def _began(pid: int) -> str | None:
    """Return when a process began, in whatever form; "" if that is not known, None if there is no such process."""
    try:
        # The name of the program, in parentheses, may have any character.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # a zombie does nothing any more
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)  # signal 0 asks whether the process is there
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False)
    except OSError:
        return ""
    return "-".join(done.stdout.split())
