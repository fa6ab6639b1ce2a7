from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

from rich.console import Console

from tests.tune_platform.progress.drive import Clock, Drive
from tune_platform.progress.live import Live
from tune_platform.progress.standing import Standing


def console(width: int = 80, **options: Any) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, **options)


def drawn(live: Live, width: int = 80) -> list[str]:
    plain = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    plain.print(live)
    text: str = plain.file.getvalue()  # type: ignore[attr-defined]
    return text.splitlines()


def test_the_live_region() -> None:
    clock = Clock()
    live = Live(Standing("digits", clock), console())
    drive = Drive(live, trials=8, started=5, clock=clock, time_budget=3600.0)
    clock.now += 65
    drive.report(0, 1, 0.5, done=True)
    drive.report(1, 1, 0.75)
    drive.fail(2)
    lines = drawn(live)
    assert [line.rstrip() for line in lines] == [
        "digits  2 of 8 trials done  1m 05s of 1h 00m, at most 58m 55s left",
        "[###xxx>>>>>>>>>>::::::::::]  # 1 completed  x 1 failed  > 3 running  : 3 starting"[:80],
        "best  loss 0.5 (trial 0, step 1)",
        f"      lr 0.1, name 0{'x' * 60}"[:80],
        f"  trial 1  step 1  loss 0.75  1m 05s  lr 0.2, name 1{'x' * 60}"[:80],
        f"  trial 3  starts             1m 05s  lr 0.4, name 3{'x' * 60}"[:80],
        f"  trial 4  starts             1m 05s  lr 0.5, name 4{'x' * 60}"[:80],
        f"  trial 5  starts             1m 05s  lr 0.6, name 5{'x' * 60}"[:80],
        f"  trial 6  starts             1m 05s  lr 0.7, name 6{'x' * 60}"[:80],
        "  ... and 1 more running",
        "last  trial 2 failed: ValueError: the loss exploded [train.py:31 in step]",
    ]
    assert len(lines) <= 12
    assert max(map(len, drawn(live, 40))) <= 40


def test_the_terminal_is_restored_however_it_ends() -> None:
    screen, hook = console(), sys.breakpointhook
    with contextlib.suppress(KeyboardInterrupt), Live(Standing("digits"), screen) as live:
        live.say("hello")
        raise KeyboardInterrupt
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "hello" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert sys.breakpointhook is hook
