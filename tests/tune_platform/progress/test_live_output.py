"""What trials print, live in the driver."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support import Scenario
from tune_platform.progress import output as module
from tune_platform.progress.live import Live
from tune_platform.progress.output import Output
from tune_platform.progress.plain import Plain
from tune_platform.progress.shown import show_output, shown
from tune_platform.progress.standing import Standing


class Sink:
    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def __call__(self, trial: int, lines: Sequence[str]) -> None:
        self.lines += [(trial, line) for line in lines]

    def take(self) -> list[tuple[int, str]]:
        taken, self.lines = self.lines, []
        return taken


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def following(tmp_path: Path, sink: Sink) -> tuple[Output, Any]:
    """Return an Output that follows two trials which run, and the run."""
    run = Scenario(trials=2, nodes=({"cpu": 2.0},)).build().runner
    output = Output(str(tmp_path), sink)
    run._listeners = [output]
    run.start()
    for _ in range(100):
        if len(output._logs) == 2:
            return output, run
        run.turn()
    raise AssertionError("two trials were to run")


def add(folder: Path, trial: int, data: bytes) -> None:
    path = folder / f"trial-{trial:05d}" / "log.txt"
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(data)


def test_new_whole_lines_are_shown_with_their_trial(following: tuple[Output, Any], sink: Sink, tmp_path: Path) -> None:
    output, _ = following
    output.look()
    assert sink.take() == []  # nobody has printed anything
    add(tmp_path, 1, b"one\ntw")
    output.look()
    assert sink.take() == [(1, "one")]
    add(tmp_path, 0, b"other\n")
    add(tmp_path, 1, b"o\n\x1b[31mred\x1b[0m\n10 %\r20 %\r30 %\n\xff\n")
    output.look()
    assert sorted(sink.take()) == [(0, "other"), (1, "30 %"), (1, "red"), (1, "two"), (1, "\ufffd")]
    output.look()
    assert sink.take() == []


def test_what_is_left_at_the_end_is_shown(following: tuple[Output, Any], sink: Sink, tmp_path: Path) -> None:
    output, run = following
    add(tmp_path, 0, b"without an end of line")
    for _ in range(5000):
        if run.controller.finished:
            break
        run.turn()
    add(tmp_path, 1, b"last words\n")  # its log is looked at once more
    with output:
        pass
    assert sorted(sink.take()) == [(0, "without an end of line"), (1, "last words")]
    assert output._logs == {}


def test_much_is_throttled_and_a_gigabyte_is_not_read(
    following: tuple[Output, Any], sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, _ = following
    lines = [b"line %d\n" % number for number in range(100)]
    add(tmp_path, 0, b"".join(lines))
    output.look()
    left_out = sum(map(len, lines[:-20]))
    assert sink.take() == [
        (0, f"... {left_out:,} bytes are left out here"),
        *((0, f"line {number}") for number in range(80, 100)),
    ]
    with (tmp_path / "trial-00000" / "log.txt").open("ab") as file:
        file.truncate(file.tell() + (1 << 40))  # a terabyte, of which the disk holds nothing
    add(tmp_path, 0, b"\nbehind it\n")
    output.look()
    taken = sink.take()
    assert taken[0][1].startswith("... 1,099,5")
    assert taken[-1] == (0, "behind it")
    assert sum(len(line) for _, line in taken) <= module.BYTES + 100
    monkeypatch.setattr(module, "ALL_LINES", 2)
    for trial in (0, 1):
        add(tmp_path, trial, b"a\nb\n")
    output.look()
    first = {trial for trial, _ in sink.take()}
    output.look()
    assert first | {trial for trial, _ in sink.take()} == {0, 1}  # each has its turn


def test_a_log_that_was_deleted_and_begun_anew(following: tuple[Output, Any], sink: Sink, tmp_path: Path) -> None:
    output, _ = following
    add(tmp_path, 0, b"a long first line\n")
    output.look()
    (tmp_path / "trial-00000" / "log.txt").unlink()
    add(tmp_path, 0, b"anew\n")
    output.look()
    assert sink.take() == [(0, "a long first line"), (0, "anew")]


def test_each_form_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    Plain(Standing("toy", lambda: 0.0), stream).output(3, ["hello"])
    assert stream.getvalue().endswith(" trial 3 | hello\n")
    stream = io.StringIO()
    Plain(Standing("toy", lambda: 0.0), stream, as_json=True).output(3, ["hello"])
    line = json.loads(stream.getvalue())
    assert line == {"time": 0.0, "event": "output", "text": "trial 3 | hello", "trial": 3, "line": "hello"}
    console = Console(file=io.StringIO(), width=80)
    Live(Standing("toy"), console).output(3, ["[red] hello"])
    assert console.file.getvalue() == "trial 3 | [red] hello\n"  # type: ignore[attr-defined]
    show_output(3, ["hello"])  # nothing is shown
    assert capsys.readouterr().err == "trial 3 | hello\n"
    with shown("toy", "json"):
        show_output(3, ["hello"])
    assert json.loads(capsys.readouterr().err)["event"] == "output"
