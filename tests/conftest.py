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


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server: the given one, or a private one on a socket in a temporary directory."""
    pytest.importorskip("psycopg")
    if url := os.environ.get("TUNE_PLATFORM_TEST_POSTGRESQL"):
        yield url
        return
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL: set TUNE_PLATFORM_TEST_POSTGRESQL to a URL or install its server")
    prefix = _as_somebody()
    # Not below pytest's own directory: that one is closed to other users, and a socket's path must be short.
    home = Path(tempfile.gettempdir()) / f"tune-pg-{uuid.uuid4().hex[:8]}"
    subprocess.run([*prefix, "mkdir", "-m", "755", str(home)], check=True)

    def call(program: str, *arguments: str) -> None:
        command = [*prefix, str(programs / program), *arguments]
        done = subprocess.run(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        if done.returncode:
            pytest.skip(f"a private PostgreSQL server cannot be started: {program} failed")

    data = str(home / "data")
    try:
        call("initdb", "-D", data, "-U", "tune", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
        options = f"-c listen_addresses='' -c unix_socket_directories='{home}' -c fsync=off"
        call("pg_ctl", "-D", data, "-w", "-l", str(home / "server.log"), "-o", options, "start")
        try:
            yield f"postgresql://tune@/postgres?host={home}"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        subprocess.run([*prefix, "rm", "-rf", str(home)], check=False)


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
