"""Which form progress takes, in the processes and on the terminals of people."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from tune_platform import SearchSpec, report, resume, run, uniform
from tune_platform.errors import SpecError
from tune_platform.progress import FORMS
from tune_platform.progress.shown import shown
from tune_platform.spec.options import Progress

SCRIPT = """\
import time
from tune_platform import SearchSpec, report, run, uniform

def train(config):
    for step in range(3):
        time.sleep(0.2)
        report({"loss": config["x"] / (1 + step)})
    print("a line of the trial's own")

spec = SearchSpec(trainable=train, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=4,
                  backend="inline", name="toy")
results = run(spec, progress=%r)
print("best", results.best().number)
"""


def quick(config: dict[str, float]) -> None:
    report({"loss": config["x"]})


def spec_of(folder: Path, **changes: object) -> SearchSpec:
    return SearchSpec(trainable=quick, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", name="toy",
                      num_samples=3, storage=str(folder), backend="inline", **changes)  # type: ignore[arg-type]  # fmt: skip


def test_the_forms_are_those_of_the_spec() -> None:
    assert get_args(Progress) == FORMS


def test_what_check_warns_of_is_said_in_python_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(spec_of(tmp_path, start_points=[{"x": 0.1}] * 4))
    assert "warning: start_points: 4 are given, only 3 trials will run" in capsys.readouterr().err
    run(spec_of(tmp_path, start_points=[{"x": 0.1}] * 4, if_exists="new"), progress="off")
    assert capsys.readouterr() == ("", "")


def test_a_short_search_is_silent_where_nothing_can_be_redrawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(spec_of(tmp_path))
    assert capsys.readouterr() == ("", "")


def test_plain_in_python_is_what_the_command_line_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(spec_of(tmp_path), progress="plain")
    out, err = capsys.readouterr()
    lines = [line[9:] for line in err.splitlines()]
    assert out == ""
    few = "(3 trials are too few to learn from)"
    assert lines[0] == f"toy: results go to {tmp_path}; schedule: fifo {few}; search: random {few}"
    assert any(line.startswith("best so far: loss ") for line in lines)
    assert lines[-1].startswith("finished: all 3 trials are done; ")
    assert "3 completed; best loss " in lines[-1]


def test_json_in_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(spec_of(tmp_path), progress="json")
    end = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (end["event"], end["status"], end["counts"]) == ("end", "finished", {"COMPLETED": 3})


def test_the_spec_says_it_and_the_call_goes_over_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(spec_of(tmp_path, progress="plain"))
    assert "results go to" in capsys.readouterr().err
    resume("toy", storage=tmp_path, spec=spec_of(tmp_path, progress="plain"), extend={"trials": 1})
    assert "toy: going on" in capsys.readouterr().err
    resume("toy", storage=tmp_path, spec=spec_of(tmp_path), extend={"trials": 1}, progress="off")
    assert capsys.readouterr().err == ""


def test_an_unknown_form_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"got 'liev'; allowed: auto, live, plain, json, off.*did you mean 'live'"):
        run(spec_of(tmp_path / "none"), progress="liev")
    with pytest.raises(SpecError, match="progress"):
        spec_of(tmp_path, progress="liev")
    assert not (tmp_path / "none").exists()


def test_what_the_platform_logs_is_a_line_of_the_display(capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("plain", "json"):
        with shown("toy", form):
            logging.getLogger("tune_platform.engine").warning("waiting for trials %s", "0, 1")
        line = capsys.readouterr().err
        if form == "json":
            assert {**json.loads(line), "time": 0} == {"time": 0, "event": "message", "text": "waiting for trials 0, 1"}
        else:
            assert line[8:] == " waiting for trials 0, 1\n"
        assert not logging.getLogger("tune_platform").handlers


def test_what_the_programs_own_logging_writes_comes_once(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        with shown("toy", "plain"):
            logging.getLogger("tune_platform.engine").warning("waiting")
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().err == "waiting\n"


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_only_one_search_of_a_process_has_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with shown("outer", "auto") as outer, shown("inner", "auto") as inner:
        kinds = [type(one.listeners[1]).__name__ for one in (outer, inner)]
    with shown("after", "auto") as after:
        kinds.append(type(after.listeners[1]).__name__)
    assert kinds == ["Live", "Plain", "Live"]


@pytest.mark.parametrize(("variable", "value"), [("TERM", "dumb"), ("FORCE_COLOR", "1")])
def test_only_a_terminal_is_redrawn(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """FORCE_COLOR asks for colours, as CI systems do for their logs; there nothing can be redrawn."""
    monkeypatch.setattr(sys, "stderr", Terminal() if variable == "TERM" else io.StringIO())
    monkeypatch.setenv(variable, value)
    with shown("toy", "live") as display:
        assert type(display.listeners[1]).__name__ == "Plain"


def test_a_display_that_breaks_does_not_stop_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    assert run(spec_of(tmp_path), progress="plain").counts == {"COMPLETED": 3}


def in_terminal(command: list[str], folder: Path, columns: int = 80, **streams: int) -> tuple[int, str]:
    """Run a command whose stderr (and stdout, unless told otherwise) is a terminal; return its code and its screen."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "PYTHONPATH": str(Path(__file__).parents[3])}
    for name in ("NO_COLOR", "FORCE_COLOR"):
        env.pop(name, None)
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, **streams}
    with subprocess.Popen(command, cwd=folder, env=env, **streams) as process:  # type: ignore[call-overload]
        os.close(theirs)
        screen = b""
        with contextlib.suppress(OSError):  # so ends a terminal whose last writer is gone
            while chunk := os.read(ours, 65536):
                screen += chunk
        os.close(ours)
    return process.returncode, screen.decode()


def plain_text(screen: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r", "")


@pytest.mark.slow
def test_a_script_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT % "auto")
    code, screen = in_terminal([sys.executable, "script.py"], tmp_path)
    text = plain_text(screen)
    assert code == 0, text
    assert "toy: results go to tune_results" in text
    assert re.search(r"toy  [123] of 4 trials done  \d\.\d s, about \d\.\d s left", text)
    assert text.count("a line of the trial's own") == 4
    # The region is taken away, and this stays.
    last = text[text.rindex("toy finished") :]
    assert last.startswith("toy finished: all 4 trials are done\n")
    assert "4 completed; best loss" in last
    assert last.rstrip().splitlines()[-1].startswith("best ")
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")


@pytest.mark.slow
def test_what_goes_to_a_file_goes_there(tmp_path: Path) -> None:
    """A live region takes what is printed, to draw it above itself: not what is meant for a file."""
    (tmp_path / "script.py").write_text(SCRIPT % "auto")
    with (tmp_path / "out.txt").open("w") as out:
        code, screen = in_terminal([sys.executable, "script.py"], tmp_path, stdout=out.fileno())
    assert code == 0
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert lines[:4] == ["a line of the trial's own"] * 4
    assert lines[4].startswith("best ")
    assert "a line of the trial's own" not in screen


def test_off_listens_to_nothing() -> None:
    with shown("toy", "off") as display:
        assert display.listeners == []
        display.say("nothing")
