from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import tune_platform as tp
from tests.tune_platform.cli.conftest import Call, Make, lines
from tune_platform.isolation.output import mark
from tune_platform.results import logs

FIRST, SECOND = "first, line 1\nfirst, line 2\n", "second, line 1\nsecond, line 2\n"
MARK = mark(2, "node1:77").decode()


def write(storage: Path, trial: int, text: str) -> Path:
    folder = storage / "digits" / "trials" / f"trial-{trial:05d}"
    folder.mkdir(parents=True)
    path = folder / "log.txt"
    path.write_text(text)
    return path


def test_the_last_attempt_or_all_of_them(call: Call, make: Make, storage: Path) -> None:
    make()
    path = write(storage, 0, FIRST + MARK + SECOND)
    result = call("logs", "digits", "0")
    assert result.stdout == SECOND
    assert result.stderr == "the last attempt; --all shows those before as well\n"
    assert call("logs", "digits", "0", "--all").stdout == FIRST + MARK + SECOND
    assert call("logs", "digits", "0", "-n", "1").stdout == "second, line 2\n"
    assert call("logs", "digits", "0", "-n", "9").stdout == SECOND
    assert call("logs", "digits", "0", "--all", "-n", "4").stdout == "first, line 2\n" + MARK + SECOND
    assert call("logs", "digits", "0", "-n", "0").stdout == ""
    assert call("logs", "digits", "0", "-f").stdout == SECOND  # it has ended: nothing more comes
    assert f"log         {path}" in lines(call("show", "digits", "0"))
    trial = tp.load("digits")[0]
    assert (trial.log_file, trial.logs(), trial.logs(all_attempts=True)) == (path, SECOND, FIRST + MARK + SECOND)
    assert trial.logs(limit=len("second, line 2\n") + 3) == "second, line 2\n"
    assert trial.logs(limit=len(SECOND)) == SECOND


def test_a_trial_that_printed_nothing(
    call: Call, make: Make, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # in which no Ray has noted its address
    make()
    result = call("logs", "digits", "0")
    assert result.stdout == ""
    assert result.stderr == (
        "trial 0 of digits has printed nothing, or that lies where it ran, on node1:77 "
        "(--address HOST:PORT names the cluster): "
        f"there is no {storage}/digits/trials/trial-00000/log.txt\n"
    )
    trial = tp.load("digits")[0]
    assert (trial.log_file, trial.logs()) == (None, "")
    assert "has no trial 9" in call("logs", "digits", "9", code=2).stderr
    said = call("logs", "digits", "0", "--address", "127.0.0.1:9", code=2).stderr
    assert said.count("\n") == 1
    assert "no Ray can be joined at 127.0.0.1:9" in said


@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 1 << 16])
@pytest.mark.parametrize("last", ["", "z", "z\n", "\n", "\n\n", "y\nz\n"])
def test_places_in_a_log_are_found_whatever_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, last: str
) -> None:
    monkeypatch.setattr(logs, "CHUNK", chunk)
    path = tmp_path / "log.txt"
    for before in ("", FIRST, FIRST + MARK + SECOND):
        text = before + MARK + last if before else last
        path.write_text(text)
        with path.open("rb") as file:
            start = logs.last_attempt(file)
            assert text[start:] == last
            for count in range(4):
                whole = text.splitlines(keepends=True)
                assert text[logs.last_lines(file, count, 0) :] == "".join(whole[max(0, len(whole) - count) :])
                own = last.splitlines(keepends=True)
                shown = "".join(own[max(0, len(own) - count) :])
                assert text[logs.last_lines(file, count, start) :] == shown


def test_the_tail_of_a_large_log_is_all_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with path.open("wb") as file:
        file.write(FIRST.encode())
        file.seek(1 << 40)  # a terabyte, of which the disk holds nothing
        file.write(b"\n" + MARK.encode() + SECOND.encode())
    assert logs.tail(path, every_attempt=False, limit=1000) == SECOND
    assert logs.tail(path, every_attempt=True, limit=len(SECOND)) == SECOND


def stubborn(config: Mapping[str, Any]) -> dict[str, float]:
    sys.stdout.write(f"attempt {tp.get_context().attempt}\n")
    if tp.get_context().attempt == 1:
        go = Path(config["go"])
        end = time.monotonic() + 60
        while not go.exists() and time.monotonic() < end:
            time.sleep(0.02)
        raise ValueError("try again")
    return {"loss": 0.0}


def test_follow_goes_on_through_a_retry_until_the_trial_has_ended(storage: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    spec = tp.SearchSpec(
        trainable=stubborn, param_space={"go": str(go)}, metric="loss", mode="min", num_samples=1,
        retries={"exception": 1}, backend="inline", name="digits", storage=str(storage),
    )  # fmt: skip
    search = threading.Thread(target=tp.run, args=[spec], kwargs={"progress": "off"})
    search.start()
    path = storage / "digits" / "trials" / "trial-00000" / "log.txt"
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    command = [sys.executable, "-m", "tune_platform", "logs", "digits", "0", "-f", "--storage", str(storage)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follow:
        assert follow.stdout is not None
        assert follow.stdout.readline() == "attempt 1\n"
        go.touch()
        rest = follow.stdout.read()  # until it ends by itself
    search.join()
    assert follow.returncode == 0
    first, _, second = rest.partition("---- attempt 2, ")
    assert first.startswith("Traceback")
    assert first.endswith("ValueError: try again\n")
    assert second.endswith(" ----\nattempt 2\n")
    verdicts = [(line.verdict, line.reason) for line in tp.load("digits", storage=storage).why(0)]
    started = [reason for verdict, reason in verdicts if verdict == "started"]
    assert started == ["attempt 2 in inline"]  # the first reported nothing
