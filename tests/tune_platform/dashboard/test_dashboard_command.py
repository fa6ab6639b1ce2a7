"""`tune-platform dashboard`: what it says of bad input is one line, and its page answers."""

from __future__ import annotations

import socket
import sqlite3
import threading
import urllib.request
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
