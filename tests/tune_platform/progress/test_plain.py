from __future__ import annotations

import io
import json
import time

import pytest

from tests.tune_platform.progress.drive import Clock, Drive
from tune_platform.progress.plain import Plain
from tune_platform.progress.standing import Standing
from tune_platform.protocol.commands import Finish
from tune_platform.protocol.events import Requested

END = Finish(status="finished", reason="all 3 trials are done")


def test_plain_lines_come_ever_more_rarely() -> None:
    clock, stream = Clock(), io.StringIO()
    with Plain(Standing("toy", clock), stream) as plain:
        drive = Drive(plain, clock=clock)
        shown = []
        for _ in range(200):
            clock.now += 1
            before = len(stream.getvalue())
            drive.turn(Requested(time=1.0, request=_ + 1, action="nothing"))
            if "running" in stream.getvalue()[before:]:
                shown.append(clock.now - Clock.now)
    assert shown == [1, 3, 7, 15, 31, 63, 123, 183]


def test_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    clock, stream = Clock(), io.StringIO()
    with Plain(Standing("toy", clock), stream) as plain:
        drive = Drive(plain, clock=clock)
        clock.now += 5
        drive.report(0, 1, 0.123456)
    assert stream.getvalue() == (
        "22:13:20 resources: 3 CPU\n"
        f"22:13:25 best so far: loss 0.12346 by trial 0 at step 1 (lr 0.1, name 0{'x' * 60})\n"
        "22:13:25 5.0 s: 3 running; best loss 0.12346 (trial 0, step 1)\n"
    )


def test_json_lines() -> None:
    clock, stream = Clock(), io.StringIO()
    with Plain(Standing("toy", clock), stream, as_json=True) as plain:
        drive = Drive(plain, clock=clock)
        clock.now += 5
        drive.report(0, 1, 0.5)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in found] == ["resources", "best", "progress"]
    assert found[2]["counts"] == {"RUNNING": 3}
    assert found[2]["best"] == {"trial": 0, "step": 1, "value": 0.5}


def test_a_short_search_from_python_leaves_no_lines() -> None:
    clock, stream = Clock(), io.StringIO()
    with Plain(Standing("toy", clock), stream, opening="toy: results go to here", quiet=5.0) as plain:
        drive = Drive(plain, clock=clock)
        clock.now += 4
        drive.report(0, 1, 0.5)
        plain.end(END)
        assert stream.getvalue() == ""
        clock.now += 1
        drive.report(0, 2, 0.25)
        plain.end(END)
    assert [line[9:] for line in stream.getvalue().splitlines()] == [
        "toy: results go to here",
        "5.0 s: 3 running; best loss 0.25 (trial 0, step 2)",
        "finished: all 3 trials are done; 5.0 s: 3 was running; best loss 0.25 (trial 0, step 2)",
    ]


def test_a_failure_is_told_at_once_even_then() -> None:
    clock, stream = Clock(), io.StringIO()
    with Plain(Standing("toy", clock), stream, opening="toy: results go to here", quiet=5.0) as plain:
        drive = Drive(plain, clock=clock)
        drive.fail(0)
        drive.report(1, 1, 0.5)
        plain.end(END)
    lines = [line[9:] for line in stream.getvalue().splitlines()]
    assert lines[:2] == [
        "toy: results go to here",
        "trial 0 failed: ValueError: the loss exploded [train.py:31 in step]",
    ]
    assert lines[2].startswith("finished: all 3 trials are done; ")
    assert len(lines) == 3


def test_a_line_comes_while_nothing_happens() -> None:
    """Every trial may be in the middle of a step that takes an hour."""
    clock, stream = Clock(), io.StringIO()
    plain = Plain(Standing("toy", clock), stream)
    Drive(plain, clock=clock)
    clock.now += 3600
    plain.tick()
    assert stream.getvalue().endswith(" 1h 00m: 3 running\n")


def test_a_reader_who_went_away_harms_nothing() -> None:
    stream = io.StringIO()
    with Plain(Standing("toy", Clock()), stream) as plain:
        stream.close()
        Drive(plain).fail(0)
        plain.end(END)
