"""The view of a notebook, without one; `tests/test_notebook.py` executes a real one."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest

from tests.tune_platform.progress.drive import Clock, Drive
from tune_platform.progress.notebook import Notebook, in_notebook
from tune_platform.progress.standing import Standing
from tune_platform.protocol.commands import Finish


class Handle:
    """What `display` of IPython returns: it takes updates."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """Stand in for the notebook's own display."""
    display = Handle()

    def first(data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert display_id
        display.update(data, raw=raw)
        return display

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=first))
    return display


def words(html: str) -> list[str]:
    """Return the text of each line."""
    lines = re.sub(r"</(div|tr)>", "\n", html)
    lines = re.sub(r"<[^>]+>", "|", lines).replace("&nbsp;", " ").replace("&#9632;", "#")
    return [text for line in lines.splitlines() if (text := re.sub(r"[| ]+", " ", line).strip())]


def test_what_is_shown(handle: Handle) -> None:
    clock = Clock()
    with Notebook(Standing("digits", clock), opening="digits: results go to here") as notebook:
        drive = Drive(notebook, trials=4, started=3, clock=clock, max_concurrent=3, time_budget=600.0)
        clock.now += 10
        for trial in (0, 1):
            drive.report(trial, 1, 0.5 - trial / 10, done=True)
        drive.fail(2)
        notebook.draw()
        assert words(handle.shown[-1]["text/html"]) == [
            "digits 3 of 4 trials done 10 s of 10m 00s, about 10 s left",
            "# 2 completed # 1 failed # 1 starting",
            f"best loss 0.4 (trial 1, step 1) lr 0.2, name 1{'x' * 60}",
            "trial step loss for config",
            f"3 0 0.0 s lr 0.4, name 3{'x' * 60}",
            "resources: 4 CPU",
            "trial 2 failed: ValueError: the loss exploded [train.py:31 in step]",
            "digits: results go to here",
        ]
        notebook.end(Finish(status="stopped", reason="a person asked"))
    final = words(handle.shown[-1]["text/html"])
    assert final[0] == "digits 3 of 4 trials done 10 s of 10m 00s"
    assert final[2] == "stopped: a person asked"
    assert "stopped: a person asked" in handle.shown[-1]["text/plain"]


def test_it_ends_with_what_happened(handle: Handle) -> None:
    for error, told in ((KeyboardInterrupt(), "interrupted"), (OSError("disk full"), "failed: OSError: disk full")):
        with pytest.raises(type(error)), Notebook(Standing("digits")):
            raise error
        assert words(handle.shown[-1]["text/html"])[-1] == told


def test_what_comes_from_the_user_is_no_markup(handle: Handle) -> None:
    with Notebook(Standing("digits")) as notebook:
        Drive(notebook).fail(0, "<script>alert(1)</script>", "")
    html = handle.shown[-1]["text/html"]
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_notebook_that_is_gone_harms_nothing(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: dict[str, str], *, raw: bool) -> None:
        raise OSError("closed")

    with Notebook(Standing("digits")) as notebook:
        monkeypatch.setattr(handle, "update", broken)
        Drive(notebook).report(0, 1, 0.5)


def test_only_a_kernel_is_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not in_notebook()  # IPython on a terminal
    shell.kernel = object()
    assert in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()
