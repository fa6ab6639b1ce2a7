"""The page in Chromium over a search that runs on Ray: looked at, filtered, brushed, steered, shared, taken away."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tune_platform.dashboard.server import serving
from tune_platform.errors import TunePlatformError
from tune_platform.results import Results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
LIMIT = 60.0  # seconds; a machine may be busy
JOB = """
import itertools, pathlib, time
from tune_platform import report

def train(config):
    for step in itertools.count(1):
        report({"loss": config["x"] + 1 / step})
        if pathlib.Path(__file__).with_name("enough").exists():
            return
        time.sleep(0.1)
"""
SPEC = """
version: 1
name: live
entrypoint: job:train
objective: {metric: loss, mode: min}
space: {x: {type: float, low: 0.0, high: 1.0}}
search: {name: random, seed: 1}
budget: {trials: 4, concurrency: 2}
resources: {cpu: 0.5}
"""


def test_a_search_on_ray_is_watched_and_steered_from_the_page(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    storage = tmp_path / "s"
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "live.yaml").write_text(SPEC)
    program = [sys.executable, "-m", "tune_platform"]
    command = [*program, "run", "live.yaml", "--storage", str(storage)]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: states(storage)[:2] == ["RUNNING"] * 2)
        with serving(str(storage), "live", control=True) as (server, address), sync_playwright() as play:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            try:
                use(browser, address, storage)
            finally:
                browser.close()
                server.shutdown()
                thread.join()
            (tmp_path / "enough").touch()
            said, _ = run.communicate(timeout=2 * LIMIT)
            assert run.returncode == 0, said
            file = tmp_path / "live.html"
            subprocess.run(
                [*program, "export", "live", "--format", "html", "-o", file, "--storage", storage], check=True
            )
            read_offline(play, file)
    finally:
        run.terminate()
        run.wait(LIMIT)
    assert states(storage) == ["COMPLETED", "STOPPED", "COMPLETED", "COMPLETED"]


def use(browser: Any, address: str, storage: Path) -> None:
    """Do with the page what a person would."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(LIMIT * 1000)
    odd: list[str] = []
    page.on("pageerror", lambda each: odd.append(str(each)))
    page.goto(address)
    page.wait_for_selector("#curves .js-plotly-plot .lines path")
    page.wait_for_function("() => document.querySelectorAll('#table .ag-center-cols-container .ag-row').length == 4")
    page.get_by_label("Filter").first.fill('trial == 1 and state == "running"')
    page.get_by_text("1 of 4 trials pass").wait_for()
    page.goto(page.url)  # the address has the filter
    page.get_by_text("1 of 4 trials pass").wait_for()
    seen = page.locator("#table .ag-center-cols-container .ag-row [col-id='step']").inner_text()
    page.locator("#table").scroll_into_view_if_needed()  # it follows where it is seen
    page.wait_for_function(  # the reports of a worker come by themselves
        "(seen) => document.querySelector(\"#table .ag-center-cols-container .ag-row [col-id='step']\")"
        ".innerText !== seen",
        arg=seen,
    )
    page.goto(f"{address.partition('#')[0]}/t/1")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("stop at once, trial 1").wait_for()
    until(lambda: states(storage)[1] == "STOPPED")
    page.get_by_text("■ stopped").first.wait_for()
    until(lambda: states(storage)[2] == "RUNNING")
    page.goto(address.partition("#")[0])
    page.wait_for_function("() => document.querySelectorAll('#table .ag-center-cols-container .ag-row').length == 4")
    assert odd == []


def read_offline(play: Any, file: Path) -> None:
    """Open the exported page with no network."""
    browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = browser.new_context(offline=True).new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("#history .js-plotly-plot")
    assert "a person" in page.inner_text("body")
    browser.close()


def states(storage: Path) -> list[str]:
    """Return the state of each trial, in the store's words."""
    try:
        return [trial.status for trial in Results("live", storage=storage).trials()]
    except TunePlatformError:
        return []  # it is being made


def until(what: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)
