"""Pandas is loaded when it is needed, while no request is answered."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tune_platform.dashboard.loading import Loading

LOOK = """
import sys
from tune_platform.dashboard.guard import Guard
from tune_platform.dashboard.server import make_app
from tune_platform.dashboard.source import Source

page = make_app(Source(sys.argv[1]), Guard(8050, control=False)).test_client()

def asks(path, **more):
    answer = page.open(path, headers={"Host": "127.0.0.1:8050", "Origin": "http://127.0.0.1:8050"}, **more)
    assert answer.status_code == 200, (path, answer.status_code)

asks("/")
figures = {"history": {}, "curves": {}, "slice": {}}
asks("/live", method="POST", json={"name": "small", "revision": 0, "figures": figures})
asks("/files/small/figure/history.csv")
before = "pandas" in sys.modules
asks("/files/small/trials.csv")
print(before, "pandas" in sys.modules)
"""


def test_most_pages_never_load_it(storage: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK, str(storage)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Loading:
    made = Loading()
    monkeypatch.setattr(made, "_whole", False)
    return made


def test_it_waits_for_other_requests_and_not_for_its_own(alone: Loading) -> None:
    entered, may_leave, loaded = threading.Event(), threading.Event(), threading.Event()
    waiting = threading.Semaphore(0)

    class Told(threading.Condition):
        def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
            waiting.release()
            return super().wait_for(predicate, timeout)

    alone._changed = Told()

    def other() -> None:
        alone.enter()
        entered.set()
        may_leave.wait(60)
        alone.leave()

    def loads() -> None:
        alone.enter()
        alone.pandas()
        loaded.set()
        alone.leave()

    threads = [threading.Thread(target=each) for each in (other, loads, loads)]
    threads[0].start()
    entered.wait(60)
    for each in threads[1:]:
        each.start()
    assert waiting.acquire(timeout=60)
    assert waiting.acquire(timeout=60)
    assert not loaded.is_set()
    may_leave.set()
    for each in threads:
        each.join(60)
    assert loaded.is_set()
    assert alone._inside == set()


def test_who_has_it_waits_for_nobody(alone: Loading) -> None:
    alone.pandas()
    alone._inside.add(-1)
    again = threading.Thread(target=alone.pandas, daemon=True)
    again.start()
    again.join(60)
    assert not again.is_alive()
