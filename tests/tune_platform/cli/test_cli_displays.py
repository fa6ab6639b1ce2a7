from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from tests.tune_platform.cli.conftest import TRACEBACK
from tune_platform.cli.format import Differences
from tune_platform.cli.live import Live
from tune_platform.cli.notes import LONG_GAP, Notes, where
from tune_platform.cli.plain import Plain
from tune_platform.engine.controller import Controller
from tune_platform.engine.settings import Settings
from tune_platform.engine.view import RunView
from tune_platform.protocol.effects import Effect
from tune_platform.protocol.events import CapacityChanged, Event, Failed, Reported, Requested, Started, Suggested
from tune_platform.protocol.reports import Report
from tune_platform.schedulers import FIFO


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Drive:
    """A controller whose turns are shown to a listener."""

    def __init__(self, listener: Any, trials: int = 3, started: int | None = None, **settings: Any) -> None:
        self.listener = listener
        values = {"metrics": ("loss",), "modes": ("min",), "num_samples": trials, **settings}
        self.controller = Controller(Settings(**values), FIFO())
        self.turn(CapacityChanged(time=0.0, nodes=({"cpu": float(trials)},)))
        configs = [{"lr": 0.1 * (n + 1), "epochs": 9, "name": str(n) + "x" * 60} for n in range(trials)]
        self.turn(*(Suggested(time=0.0, trial=n, config=config) for n, config in enumerate(configs)))
        self.turn(*(Started(time=0.0, trial=n, attempt=1) for n in range(started if started is not None else trials)))

    def turn(self, *events: Event) -> Any:
        effects: list[Effect] = []
        for event in events:
            assert self.controller.accepts(event)
            self.controller.handle(event)
            effects += self.controller.effects
        return self.listener(RunView(self.controller), events, effects)

    def report(self, trial: int, step: int, loss: float, done: bool = False) -> Any:
        report = Report(step, {"loss": loss}, 1.0)
        attempt = self.controller.state.trials[trial].attempt
        return self.turn(Reported(time=1.0, trial=trial, attempt=attempt, reports=(report,), done=done))

    def fail(self, trial: int, message: str = "boom", traceback: str = TRACEBACK) -> Any:
        attempt = self.controller.state.trials[trial].attempt
        return self.turn(Failed(time=1.0, trial=trial, attempt=attempt, cause="exception", message=message,
                                traceback=traceback))  # fmt: skip


def test_the_users_own_frame_is_named() -> None:
    assert where(TRACEBACK) == "train.py:31 in step"
    library = TRACEBACK.split("ValueError")[0] + '  File "/x/site-packages/torch/nn.py", line 7, in forward\n'
    assert where(library) == "train.py:31 in step"
    assert where("boom") == ""


def test_a_failure_is_told_once_then_counted() -> None:
    drive = Drive(Notes(Clock()).hear, trials=1, retries={"exception": 1000})
    told = [note.text for _ in range(100) for note in drive.fail(0)]
    assert told == [
        "trial 0 failed: ValueError: the loss exploded [train.py:31 in step]; tried again",
        "trial 0 failed: ValueError: the loss exploded [train.py:31 in step]; tried again (10 times so far)",
        "trial 0 failed: ValueError: the loss exploded [train.py:31 in step]; tried again (100 times so far)",
    ]
    assert [note.text for note in drive.fail(0, "other", "")] == ["trial 0 failed: other; tried again"]


def test_a_best_that_only_gets_better_is_not_told_each_time() -> None:
    clock = Clock()
    drive = Drive(Notes(clock).hear)
    (note,) = drive.report(0, 1, 1.0)
    assert note.text == "best so far: loss 1 by trial 0 at step 1"
    assert note.data["config"]["lr"] == 0.1
    clock.now += 2
    assert drive.report(0, 2, 0.9) == []
    assert [note.data["trial"] for note in drive.report(1, 1, 0.5)] == [1]
    clock.now += LONG_GAP
    assert [note.data["value"] for note in drive.report(1, 2, 0.25)] == [0.25]


def test_many_stops_are_one_line() -> None:
    clock = Clock()
    drive = Drive(Notes(clock).hear, trials=4, stop={"step": 1})
    told = [note.text for trial in range(3) for note in drive.report(trial, 1, 1.0) if note.kind == "stop"]
    clock.now += 10
    told += [note.text for note in drive.report(3, 1, 1.0) if note.kind == "stop"]
    assert told == [
        "trial 0 completed at step 1: step 1 reached the stop condition 1",
        "trial 3 completed at step 1: step 1 reached the stop condition 1 (and 2 more)",
    ]


def test_a_persons_request_is_told() -> None:
    drive = Drive(Notes(Clock()).hear)
    (note, *_) = drive.turn(Requested(time=1.0, request=1, action="stop", trial=2))
    assert note.text == "a person asked: stop trial 2"


def test_plain_lines_come_ever_more_rarely() -> None:
    clock, stream = Clock(), io.StringIO()
    with Plain(stream, clock=clock) as plain:
        drive = Drive(plain)
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
    with Plain(stream, clock=clock) as plain:
        drive = Drive(plain)
        clock.now += 5
        drive.report(0, 1, 0.123456)
    assert stream.getvalue() == (
        "22:13:20 resources: 3 CPU\n"
        f"22:13:25 best so far: loss 0.12346 by trial 0 at step 1 (lr 0.1, name 0{'x' * 60})\n"
        "22:13:25 5.0 s: 3 running; best loss 0.12346 (trial 0, step 1)\n"
    )


def test_constants_of_the_search_do_not_fill_the_line() -> None:
    seen = Differences()
    assert seen.text({"lr": 0.1, "net": {"depth": 2}}) == "lr 0.1, net/depth 2"  # nothing to tell it by yet
    seen.see({"lr": 0.2, "net": {"depth": 2}})
    assert seen.text({"lr": 0.1, "net": {"depth": 2}}) == "lr 0.1"
    assert seen.text({"lr": 0.1, "net": {"depth": 2, "width": 8}}) == "lr 0.1, net/width 8"  # conditional


def test_json_lines() -> None:
    clock, stream = Clock(), io.StringIO()
    with Plain(stream, as_json=True, clock=clock) as plain:
        drive = Drive(plain)
        clock.now += 5
        drive.report(0, 1, 0.5)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in found] == ["resources", "best", "progress"]
    assert found[2]["counts"] == {"RUNNING": 3}
    assert found[2]["best"] == {"trial": 0, "step": 1, "value": 0.5}


def console(width: int = 80, **options: Any) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, **options)


def drawn(live: Live, width: int = 80) -> list[str]:
    plain = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    plain.print(live)
    text: str = plain.file.getvalue()  # type: ignore[attr-defined]
    return text.splitlines()


def test_the_live_region() -> None:
    clock = Clock()
    live = Live("digits", console(), clock)
    drive = Drive(live, trials=8, started=5, time_budget=3600.0)
    clock.now += 65
    drive.report(0, 1, 0.5, done=True)
    drive.report(1, 1, 0.75)
    drive.fail(2)
    lines = drawn(live)
    assert [line.rstrip() for line in lines] == [
        "digits  1m 05s of 1h 00m  2 of 8 trials done",
        "[###xxx>>>>>>>>>>::::::::::]  # 1 completed  x 1 failed  > 3 running  : 3 starting"[:80],
        "best  loss 0.5  trial 0, step 1",
        f"      lr 0.1, name 0{'x' * 60}"[:80],
        f"  trial 1     step 1     loss 0.75                  1m 05s  lr 0.2, name 1{'x' * 6}",
        f"  trial 3     step 0     no report yet              1m 05s  lr 0.4, name 3{'x' * 6}",
        f"  trial 4     step 0     no report yet              1m 05s  lr 0.5, name 4{'x' * 6}",
        f"  trial 5     step 0     no report yet              1m 05s  lr 0.6, name 5{'x' * 6}",
        f"  trial 6     step 0     no report yet              1m 05s  lr 0.7, name 6{'x' * 6}",
        "  ... and 1 more running",
        "last  trial 2 failed: ValueError: the loss exploded [train.py:31 in step]",
    ]
    assert len(lines) <= 12
    assert max(map(len, drawn(live, 40))) <= 40


def test_the_terminal_is_restored_however_it_ends() -> None:
    screen, hook = console(), sys.breakpointhook
    with contextlib.suppress(KeyboardInterrupt), Live("digits", screen) as live:
        live.say("hello")
        raise KeyboardInterrupt
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "hello" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert sys.breakpointhook is hook
