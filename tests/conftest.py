"""The same cases for hypothesis in every run; a PostgreSQL server and an S3 endpoint for the tests that need one."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Ray starts many processes. Without compiled modules each of them compiles all that it imports, which takes longer than
# most of the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Before Ray is imported: under `uv run` it would otherwise build an environment anew for every worker.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# In this folder a Ray notes its address, and searches on the same machine join it: each process that runs tests has its
# own. Its path is short, as Ray's sockets lie in it.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["RAY_TMPDIR"] += f"/{worker}"
elif "RAY_TMPDIR" not in os.environ:
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="tp", dir="/tmp")
    atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)
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
        except BaseException as error:
            self.remove()
            if isinstance(error, subprocess.CalledProcessError):
                pytest.skip(f"a private PostgreSQL server cannot be started: {error}")
            raise

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._home}' -c fsync=off"
        self._call("pg_ctl", "-w", "-l", str(self._home / "server.log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is as good as a crash; `fast` ends the sessions with a word of farewell."""
        self._call("pg_ctl", "-m", mode, "stop")

    def kill(self) -> None:
        """SIGKILL of the postmaster: it leaves its pid file and shared memory, and its sessions end by themselves."""
        pid = int(Path(self._data, "postmaster.pid").read_text().split()[0])
        all_of_it = [pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        os.kill(pid, signal.SIGKILL)
        while any(Path(f"/proc/{each}").exists() for each in all_of_it):  # as long as one is there no server starts
            time.sleep(0.01)

    def remove(self) -> None:
        subprocess.run([*self._prefix, "rm", "-rf", str(self._home)], check=False)

    def _call(self, program: str, *arguments: str) -> None:
        command = [*self._prefix, str(self._programs / program), "-D", self._data, *arguments]
        subprocess.run(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


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


class Endpoint:
    """An S3 endpoint on the loopback, in a process of its own: moto's. What it holds goes with it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        #: What a process needs to find it by `s3://`.
        self.environment = {
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        said = ""
        while "Running on" not in said:  # werkzeug says so once it listens
            line = self.process.stderr.readline()
            said += line
            assert line, f"moto's server ended: {said}"
        self._reader = threading.Thread(target=self.process.stderr.read, daemon=True)  # a full pipe would stop it
        self._reader.start()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[Endpoint]:
    """An S3 endpoint that all tests share."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def bucket(s3: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a fresh bucket, which processes that are started from here find too."""
    import s3fs

    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    name = f"s3://test-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)  # one client for all tests: to make one takes a second
    return name
