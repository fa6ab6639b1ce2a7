"""Figures of a large experiment that runs follow the store in Chromium, also while they are not drawn anew."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from benchmarks.dashboard import CHROMIUM, OURS, first_view, free_port, served, write_ours
from tests.tune_platform.dashboard.conftest import trial_row
from tune_platform.dashboard.source import HELD
from tune_platform.store.records import LogRow, ReportRow
from tune_platform.store.sql import SqlExperiment, open_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="no Chromium: apt-get install chromium"),
]
TRIALS, REPORTS = 2_500, 90
#: The last trial whose point is drawn, and the last one over the drawing.
DRAWN = """() => Math.max(...document.querySelector('#history .js-plotly-plot')._fullData
    .filter((each) => each.mode === 'markers').flatMap((each) => [...each.x]))"""
OVER = "() => Math.max(-1, ...[...document.querySelectorAll('#history svg.ahead circle')].map((x) => x.dataset.trial))"
#: How many points the curve of a trial has; -1 where it is not drawn.
CURVE = """(trial) => {
    const trace = document.querySelector('#curves .js-plotly-plot')._fullData.find((each) => each.meta === trial);
    return trace ? trace.x.length : -1;
}"""


class Live(NamedTuple):
    """A page of the browser, and the experiment that it shows, which runs."""

    page: Any
    experiment: SqlExperiment


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    from playwright.sync_api import sync_playwright

    storage = tmp_path_factory.mktemp("following")
    assert TRIALS * REPORTS > HELD  # so that not all steps are held
    write_ours(storage, TRIALS, REPORTS)
    port = free_port()
    command = [sys.executable, "-m", "tune_platform", "dashboard", "many", "--port", str(port)]
    with open_store(storage) as store, store.open("many") as experiment:
        experiment.acquire()
        with served([*command, "--storage", str(storage)], port), sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page, _ = first_view(browser, f"http://127.0.0.1:{port}/e/many", OURS)
            page.set_default_timeout(60_000)
            yield Live(page, experiment)
            browser.close()


def write(experiment: SqlExperiment, number: int, best: float, *, first: int = 1, last: int = 3) -> None:
    """Write the reports `first` to `last` of a trial, which is running."""
    seq = experiment.last_seq() + 1
    told = [ReportRow(number, step, seq, time.time(), {"loss": best}) for step in range(first, last + 1)]
    config = dict.fromkeys("abcdef", 0.5)
    row = trial_row(number, "RUNNING", config=config, step=last, best=best, metrics={"loss": best}, ended=None)
    log = [LogRow(seq, time.time(), "reported", number, {"attempt": 1, "first": first, "last": last})]
    experiment.append(log, told, [row])


def rest(page: Any, **rests: float) -> None:
    """Let the figures rest otherwise."""
    page.evaluate("(rests) => Object.assign(window.tuneLive.rests, rests)", {"WHOLE": rests["LARGE"], **rests})


def test_points_come_over_a_figure_that_rests_while_a_search_writes(live: Live) -> None:
    page, experiment = live
    rest(page, LARGE=1e9, LACKING=1e9, LONGEST=1e9)
    write(experiment, TRIALS, 0.7)
    page.wait_for_function(f"() => ({DRAWN})() >= {TRIALS} || ({OVER})() >= {TRIALS}")
    page.wait_for_timeout(3_000)  # the figures have been drawn, and rest
    drawn = page.evaluate(DRAWN)

    def go_on() -> None:
        for number in range(TRIALS + 1, TRIALS + 41):
            write(experiment, number, 0.8)
            time.sleep(0.1)

    writer = threading.Thread(target=go_on)
    writer.start()
    page.wait_for_function(f"() => ({OVER})() > {TRIALS}")
    writer.join()
    page.wait_for_function(f"() => ({OVER})() === {TRIALS + 40}")
    assert page.evaluate(DRAWN) == drawn, "it has rested"
    assert page.evaluate("() => document.querySelectorAll('#history svg.ahead polyline').length") == 1
    # The next drawing has them all, and nothing stays over it.
    rest(page, LARGE=1, LACKING=1, LONGEST=60_000)
    page.evaluate(
        "(revision) => window.tuneLive.watch({name: 'many', trial: null, metrics: 1}, revision)", experiment.last_seq()
    )
    write(experiment, TRIALS + 41, 0.8)
    page.wait_for_function(f"() => ({DRAWN})() === {TRIALS + 41} && ({OVER})() === -1")


def test_what_cannot_be_put_over_a_figure_has_it_drawn(live: Live) -> None:
    page, experiment = live
    rest(page, LARGE=1e9, LACKING=1, LONGEST=60_000)
    new = TRIALS + 50
    assert page.evaluate(CURVE, new) == -1
    write(experiment, new, 0.0001, last=30)  # better than all, below the axis
    # Its curve is a new line. The point of the history may still lie within the axis, and is then put over it.
    page.wait_for_function(f"() => ({CURVE})({new}) === 30 && (({DRAWN})() === {new} || ({OVER})() === {new})")
    assert f"trial {new} has the best loss" in page.locator("#curves").locator("xpath=..").inner_text()


def test_the_end_of_a_curve_that_is_shown_follows(live: Live) -> None:
    page, experiment = live
    rest(page, LARGE=1e9, LACKING=1e9, LONGEST=1e9)
    new = TRIALS + 50
    ends = "() => [...document.querySelectorAll('#curves svg.ahead polyline')].length"
    write(experiment, new, 0.0001, first=31, last=31)
    page.wait_for_function(f"() => ({CURVE})({new}) >= 31 || ({ends})() === 1")
    page.wait_for_timeout(2_000)
    line = "() => (document.querySelector('#curves svg.ahead polyline')?.getAttribute('points') ?? '')"
    before = page.evaluate(line)
    write(experiment, new, 0.0001, first=32, last=40)
    page.wait_for_function(f"(before) => ({line})() !== before || ({CURVE})({new}) === 40", arg=before)


def test_the_table_follows_once_it_is_seen(live: Live) -> None:
    page, experiment = live
    row = f"() => window.dash_ag_grid.getApi('table').getRowNode('{TRIALS + 52}')"
    before = page.viewport_size
    page.set_viewport_size({"width": 1280, "height": 500})
    write(experiment, TRIALS + 52, 0.9)
    page.wait_for_function(f"() => window.tunePage.row({TRIALS + 52})")
    page.wait_for_timeout(1_000)
    assert page.evaluate("() => document.querySelector('#table').getBoundingClientRect().top > window.innerHeight")
    assert page.evaluate(f"() => ({row})() === undefined"), "nobody sees it"
    page.locator("#table").scroll_into_view_if_needed()
    page.wait_for_function(f"() => ({row})() !== undefined")
    write(experiment, TRIALS + 52, 0.8, first=4, last=5)
    page.wait_for_function(f"() => ({row})().data.step === 5")
    page.evaluate("() => window.scrollTo(0, 0)")
    page.set_viewport_size(before)


def test_numbers_follow_and_nothing_else_is_asked_for(live: Live) -> None:
    page, experiment = live
    rest(page, LARGE=1e9, LACKING=1e9, LONGEST=1e9)
    page.wait_for_timeout(3_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    number = """() => Number([...document.querySelectorAll('.fact')]
        .find((each) => /^trials/.test(each.lastChild.textContent)).firstChild.textContent)"""
    before = page.evaluate(number)
    assert before >= TRIALS
    for each in range(3):
        write(experiment, TRIALS + 55 + each, 0.9)
        page.wait_for_function(f"(least) => ({number})() >= least", arg=before + 1 + each)
    assert set(asked) == {"live"}
    assert page.locator("#insights li").count() >= 1
    # Another best trial has the section drawn, which has its config.
    write(experiment, TRIALS + 58, 0.00001)
    page.wait_for_function(f"() => document.querySelector('#facts a').textContent === 'trial {TRIALS + 58}'")
    page.evaluate("(revision) => window.tuneLive.watch({name: 'many', trial: null, metrics: 1}, revision)", 0)
    page.wait_for_function("() => document.querySelector('#best-pyth')")


def test_a_metric_that_comes_late_can_be_chosen(live: Live) -> None:
    page, experiment = live
    seq = experiment.last_seq() + 1
    told = [ReportRow(TRIALS + 59, 1, seq, time.time(), {"loss": 0.9, "late": 1.0})]
    row = trial_row(TRIALS + 59, "RUNNING", config=dict.fromkeys("abcdef", 0.5), step=1, best=0.9,
                    metrics={"loss": 0.9, "late": 1.0}, ended=None)  # fmt: skip
    log = [LogRow(seq, time.time(), "reported", TRIALS + 59, {"attempt": 1, "first": 1, "last": 1})]
    experiment.append(log, told, [row])
    page.wait_for_timeout(3_000)
    page.get_by_role("textbox", name="Metric", exact=True).click()
    page.get_by_role("option", name="late", exact=True).wait_for()
    page.keyboard.press("Escape")
    page.locator("#aggregate").click()
    page.get_by_role("option", name="late: greatest").wait_for(state="attached")
    page.keyboard.press("Escape")


def test_a_figure_that_does_not_follow_says_how_old_it_is(live: Live) -> None:
    page, experiment = live
    page.get_by_role("tab", name="Objectives").click()
    page.wait_for_selector("#edf .js-plotly-plot .main-svg")
    age = "() => document.querySelector('#edf').closest('figure').querySelector('.age').textContent"
    for number in range(TRIALS + 60, TRIALS + 63):
        write(experiment, number, 0.8)
        page.wait_for_timeout(2_000)
    page.wait_for_function(f"() => /^as of [0-9]+ s ago$/.test(({age})())")
