"""The same cases for hypothesis in every run, and a PostgreSQL server for the tests that need one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Ray starts many processes. Without compiled modules each of them compiles all that it imports, which takes longer than
# most of the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Commands that are told to people begin with `uv run` where that is how they began.
os.environ.pop("UV_RUN_RECURSION_DEPTH", None)

# What fails here fails everywhere. Set TUNE_PLATFORM_EXPLORE=1 to look for new cases.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("explore" if os.environ.get("TUNE_PLATFORM_EXPLORE") else "repeatable")


def _programs() -> Path | None:
    found = shutil.which("pg_ctl")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((path for path in candidates if (path / "initdb").exists() and (path / "pg_ctl").exists()), None)


def _as_somebody() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    import pwd

    for user in ("postgres", "nobody"):
        try:
            pwd.getpwnam(user)
        except KeyError:
            continue
        return ["runuser", "-u", user, "--"]
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


class Server:
    """A private PostgreSQL server on a socket in a temporary directory, which can be stopped and started again."""

    def __init__(self) -> None:
        programs = _programs()
        if programs is None:
            pytest.skip("no PostgreSQL: set TUNE_PLATFORM_TEST_POSTGRESQL to a URL or install its server")
        self._programs, self._prefix = programs, _as_somebody()
        # Not below pytest's own directory: that one is closed to other users, and a socket's path must be short.
        self._home = Path(tempfile.gettempdir()) / f"tune-pg-{uuid.uuid4().hex[:8]}"
        self._data = str(self._home / "data")
        self.url = f"postgresql://tune@/postgres?host={self._home}"
        subprocess.run([*self._prefix, "mkdir", "-m", "755", str(self._home)], check=True)
        try:
            self._call("initdb", "-U", "tune", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
            self.start()
        except BaseException:
            self.remove()
            raise

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._home}' -c fsync=off"
        self._call("pg_ctl", "-w", "-l", str(self._home / "server.log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is as good as a crash; `fast` ends the sessions with a word of farewell."""
        self._call("pg_ctl", "-m", mode, "stop")

    def remove(self) -> None:
        subprocess.run([*self._prefix, "rm", "-rf", str(self._home)], check=False)

    def _call(self, program: str, *arguments: str) -> None:
        command = [*self._prefix, str(self._programs / program), "-D", self._data, *arguments]
        done = subprocess.run(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        if done.returncode:
            pytest.skip(f"a private PostgreSQL server cannot be started: {program} failed")


@pytest.fixture
def own_postgresql() -> Iterator[Server]:
    """A server of the test's own, to stop and to start."""
    pytest.importorskip("psycopg")
    server = Server()
    try:
        yield server
        server.stop()
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server that all tests share: the given one, or a private one."""
    pytest.importorskip("psycopg")
    if url := os.environ.get("TUNE_PLATFORM_TEST_POSTGRESQL"):
        yield url
        return
    server = Server()
    try:
        yield server.url
        server.stop()
    finally:
        server.remove()


@pytest.fixture
def empty_postgresql(postgresql: str) -> Iterator[str]:
    """URL of a fresh schema, so that each test sees an empty database."""
    import psycopg

    schema = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        try:
            yield f"{postgresql}{'&' if '?' in postgresql else '?'}options=-csearch_path%3D{schema}"
        finally:
            connection.execute(f"DROP SCHEMA {schema} CASCADE")
