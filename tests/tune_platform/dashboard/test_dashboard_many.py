"""The page of an experiment of 100,000 trials, in Chromium; `benchmarks/dashboard.py --alone` says how fast it is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.dashboard import CHROMIUM, OURS, first_view, free_port, memory_mb, page_mb, served, write_ours

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="no Chromium: apt-get install chromium"),
]
TRIALS = 100_000


def test_a_hundred_thousand_trials_are_shown_filtered_and_sorted(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    write_ours(tmp_path, TRIALS, 2)
    port = free_port()
    command = [sys.executable, "-m", "tune_platform", "dashboard", "many", "--port", str(port)]
    with served([*command, "--storage", str(tmp_path)], port) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, _ = first_view(browser, f"http://127.0.0.1:{port}/e/many", OURS)
        page.set_default_timeout(60_000)
        page.get_by_text("100000 completed").wait_for()
        page.get_by_label("Filter").first.fill("a < 0.5 and b < 0.02")
        page.wait_for_function("() => / of 100,000 trials pass/.test(document.querySelector('#filter-said').innerText)")
        shown = int(page.locator("#filter-said").inner_text().split(" of ")[0].replace(",", ""))
        assert 800 < shown < 1200
        page.wait_for_function(
            "(many) => window.dash_ag_grid.getApi('table').getDisplayedRowCount() === many", arg=shown
        )
        page.get_by_label("Filter").first.fill("")
        page.wait_for_function(
            "(many) => window.dash_ag_grid.getApi('table').getDisplayedRowCount() === many", arg=TRIALS
        )
        page.keyboard.press("Escape")  # the names that the filter may begin with
        page.locator("#table .ag-header-cell[col-id='best'] .ag-header-cell-label").click()
        page.wait_for_selector("#table .ag-header-cell[col-id='best'][aria-sort='ascending']")
        best = "() => window.dash_ag_grid.getApi('table').getDisplayedRowAtIndex(0).data.trial"
        first = page.evaluate(best)
        page.get_by_role(
            "link", name=f"trial {first}", exact=True
        ).first.wait_for()  # what the overview has as the best
        assert page_mb(page) < 400
        assert memory_mb(server.pid) < 600
        page.get_by_role("tab", name="Parameters").click()
        page.wait_for_selector("#slice .js-plotly-plot .gl-canvas, #slice .js-plotly-plot .points path")
        browser.close()
