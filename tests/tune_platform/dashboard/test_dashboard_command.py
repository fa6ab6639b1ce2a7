"""`tune-platform dashboard`: what it says of bad input is one line, and its page answers."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sqlite3
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tune_platform.cli import main
from tune_platform.dashboard.server import serving
from tune_platform.errors import MissingLibraryError
from tune_platform.store.sql import FILE_NAME


def told(storage: Path, *args: str) -> Result:
    found = CliRunner().invoke(main, ["dashboard", *args, "--storage", str(storage)])
    assert found.exit_code == 2, found.output
    assert found.stdout == ""
    return found


def test_there_is_no_such_experiment(storage: Path) -> None:
    said = told(storage, "smalll").stderr
    assert said.count("\n") == 1
    assert "'smalll'" in said
    assert "did you mean 'small'" in said


def test_the_port_is_in_use(storage: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = told(storage, "small", "--port", str(port)).stderr
    assert said == f"error: port {port} is in use: give another with --port, or --port 0 for a free one\n"


def test_the_store_is_of_a_newer_version(storage: Path) -> None:
    (storage / "later").mkdir()
    with sqlite3.connect(storage / "later" / FILE_NAME) as database:
        database.execute("CREATE TABLE meta (schema_version INTEGER)")
        database.execute("INSERT INTO meta VALUES (1000)")
    database.close()
    said = told(storage, "later").stderr
    assert said.count("\n") == 1
    assert "newer tune_platform" in said


def test_the_extra_is_not_installed(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(what: str, *modules: str) -> None:
        raise MissingLibraryError(f"{what} needs {modules[0]!r}: pip install 'tune-platform[dashboard]'", modules[0])

    monkeypatch.setattr("tune_platform.cli.dashboard.require", missing)
    assert told(storage, "small").stderr.count("\n") == 1


def test_the_page_answers_on_this_machine_alone(storage: Path) -> None:
    with serving(str(storage), "small", control=True) as (server, address):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base, _, token = address.partition("#token=")
        assert base.startswith("http://127.0.0.1:")
        assert len(token) > 30
        try:
            with urllib.request.urlopen(base, timeout=30) as answer:
                assert b"dash" in answer.read()
        finally:
            server.shutdown()
            thread.join()


def search(folder: Path, trials: int = 1) -> list[str]:
    """Write a search whose trials go on until there is a file `enough`, in turn; return the command that runs it."""
    (folder / "beside.py").write_text(
        "import pathlib, time\n"
        "def train(config):\n"
        "    while not pathlib.Path(__file__).with_name('enough').exists():\n"
        "        time.sleep(0.05)\n"
        "    return {'loss': config['x']}\n"
    )
    spec = folder / "beside.yaml"
    spec.write_text(
        "version: 1\nname: beside\nentrypoint: beside:train\nobjective: {metric: loss, mode: min}\nbackend: inline\n"
        "space: {x: {type: float, low: 0.0, high: 1.0}}\nsearch: {name: random}\n"
        f"budget: {{trials: {trials}, concurrency: 1}}\n"
    )
    return [sys.executable, "-m", "tune_platform", "run", str(spec), "--dashboard", "--storage", str(folder / "s")]


@pytest.mark.slow
def test_a_run_has_a_page_beside_it_which_ends_with_it(tmp_path: Path) -> None:
    run = subprocess.Popen(search(tmp_path), cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert run.stderr is not None
    line = run.stderr.readline()
    assert line.startswith("dashboard: http://127.0.0.1:")
    address = line.removeprefix("dashboard: ").strip()
    try:
        assert until(lambda: answers(address))
    finally:
        (tmp_path / "enough").touch()
        _, said = run.communicate(timeout=60)
    assert run.returncode == 0, said
    assert until(lambda: not answers(address))


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_is_for_the_run_and_its_page_ends_with_it(tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of the terminal's foreground group, of which the page's server is none."""
    mine, theirs = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    run = subprocess.Popen(
        search(tmp_path, trials=2), cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(theirs)
    said: list[str] = []

    def read() -> None:
        with suppress(OSError):  # the terminal has gone
            while found := os.read(mine, 4096):
                said.append(found.decode(errors="replace"))

    reader = threading.Thread(target=read)
    reader.start()

    def address() -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+/e/beside", "".join(said))
        return found.group() if found else ""

    try:
        assert until(lambda: bool(address()))
        assert until(lambda: answers(address()))
        os.write(mine, b"\x03")
        (tmp_path / "enough").touch()  # the first Ctrl-C lets trials come to their report
        assert run.wait(60) == 130, "".join(said)
        assert "tune-platform resume beside" in "".join(said)
        assert until(lambda: not answers(address()))
    finally:
        run.kill()
        reader.join()
        os.close(mine)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def until(what: Callable[[], bool]) -> bool:
    """Wait for something that another process does."""
    end = time.monotonic() + 60
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
