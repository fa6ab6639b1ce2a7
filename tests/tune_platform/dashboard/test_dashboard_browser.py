"""The page in Chromium: one browser and one search for all of it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import axe_playwright_python
import pytest

from tests.tune_platform.dashboard.conftest import MARKUP, SPEC, trial_row, write
from tune_platform.dashboard.server import serving
from tune_platform.store.records import LogRow
from tune_platform.store.sql import SqlExperiment, open_store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
LIMIT = 30_000  # milliseconds; a machine may be busy


class Open(NamedTuple):
    """A page of the browser, the address without its token, and the experiment that it shows."""

    page: Any
    base: str
    experiment: SqlExperiment
    said: list[str]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    from playwright.sync_api import sync_playwright

    storage = tmp_path_factory.mktemp("page")
    with open_store(storage) as store, store.create("small", SPEC, created=time.time()) as experiment:
        experiment.acquire()
        write(experiment, storage / "small")
        with serving(str(storage), "small", control=True) as (server, address), sync_playwright() as play:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(LIMIT)
            said: list[str] = []
            page.on("pageerror", lambda each: said.append(str(each)))
            # What the content security policy has refused, too.
            page.on("console", lambda each: said.append(each.text) if each.type == "error" else None)
            page.on("dialog", lambda each: said.append(f"dialog: {each.message}"))
            page.goto(address)
            yield Open(page, address.partition("#")[0], experiment, said)
            browser.close()
            server.shutdown()
            thread.join()


def until(what: Callable[[], bool]) -> None:
    """Wait for something that another process or thread does."""
    end = time.monotonic() + LIMIT / 1000
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def rows(page: Any) -> Any:
    return page.locator("#table .ag-center-cols-container .ag-row")


def test_the_first_view_has_history_curves_and_table(opened: Open) -> None:
    page = opened.page
    page.wait_for_selector("#history .main-svg")
    page.wait_for_selector("#curves .js-plotly-plot")
    page.wait_for_function("() => document.querySelectorAll('#table .ag-center-cols-container .ag-row').length == 5")
    assert "#token" not in page.url
    assert page.get_by_text(MARKUP).count() >= 1  # as text
    assert page.locator("#history").get_attribute("aria-label") == "Optimization history"
    assert opened.said == []


def test_a_filter_leaves_the_trials_that_pass_and_stands_in_the_address(opened: Open) -> None:
    page = opened.page
    page.get_by_label("Filter").first.fill("loss < 0.25")
    page.wait_for_function("() => document.querySelectorAll('#table .ag-center-cols-container .ag-row').length == 2")
    page.get_by_text("2 of 5 trials pass").wait_for()
    assert "filter=loss" in page.url
    page.reload()
    page.get_by_text("2 of 5 trials pass").wait_for()
    page.get_by_label("Filter").first.fill("")
    page.wait_for_function("() => document.querySelectorAll('#table .ag-center-cols-container .ag-row').length == 5")


def test_rows_are_configs_and_a_trial_is_a_link(opened: Open) -> None:
    page = opened.page
    assert page.locator("#table a[href='/e/small/t/1']").count() == 1
    assert page.locator("#table .ag-row").get_by_text("✕ failed").count() == 1, "a sign and a word"
    page.get_by_label("Rows").first.click()
    page.get_by_role("option", name="configs (seeds)").click()
    page.wait_for_selector("#table .ag-header-cell-text >> text=runs")
    assert "rows=configs" in page.url
    page.get_by_label("Rows").first.click()
    page.get_by_role("option", name="trials").click()
    page.wait_for_function("() => !document.querySelector('#table').innerText.includes('runs')")


def column(page: Any, name: str) -> Any:
    """Return the texts of a column of the table, as it is sorted."""
    cells = page.locator(f"#table .ag-center-cols-container .ag-row [col-id='{name}']")
    return [
        text
        for _, text in sorted(cells.evaluate_all("(all) => all.map((x) => [x.getBoundingClientRect().y, x.innerText])"))
    ]


def test_runs_of_a_config_are_one_row_with_their_mean_and_spread(opened: Open) -> None:
    columns = {
        "trial": [0, 1, 2, 3], "state": ["completed", "completed", "completed", "failed"],
        "best": [0.2, 0.4, 0.3, None],
        "config/lr": [0.1, 0.1, 0.2, 0.2], "config/model/seed": [1, 2, 1, 2], "metrics/loss": [0.5, 1.5, None, None],
        "worker": ["a", "b", "a", "a"],
    }  # fmt: skip
    told = {"name": "seeds", "since": 0, "revision": 1, "columns": columns}
    first, second = opened.page.evaluate("(told) => window.dash_clientside.page.rows(told, null, 'configs')", told)
    assert first == {
        "trial": 0, "runs": 2, "members": [0, 1], "state": "completed", "best": pytest.approx(0.3),
        "deviation": pytest.approx(0.02**0.5), "config/lr": 0.1, "metrics/loss": 1.0, "worker": None,
    }  # fmt: skip
    assert second == {
        "trial": 2, "runs": 2, "members": [2, 3], "state": "1 completed, 1 failed", "best": 0.3, "deviation": None,
        "config/lr": 0.2, "metrics/loss": None, "worker": "a",
    }  # fmt: skip
    (alone,) = opened.page.evaluate("(told) => window.dash_clientside.page.rows({...told}, [3], 'configs')", told)
    assert (alone["runs"], alone["best"]) == (1, None)
    opened.page.reload()
    opened.page.wait_for_function(
        "() => document.querySelectorAll('#table .ag-center-cols-container .ag-row').length == 5"
    )


def test_what_is_missing_is_last_either_way(opened: Open) -> None:
    page = opened.page
    head = page.locator("#table .ag-header-cell[col-id='best'] .ag-header-cell-label")
    head.click()
    page.wait_for_selector("#table .ag-header-cell[col-id='best'][aria-sort='ascending']")
    assert column(page, "best") == ["0.1", "0.2", "0.3", "0.5", ""]
    head.click()
    page.wait_for_selector("#table .ag-header-cell[col-id='best'][aria-sort='descending']")
    assert column(page, "best") == ["0.5", "0.3", "0.2", "0.1", ""]
    head.click()
    page.wait_for_selector("#table .ag-header-cell[col-id='best'][aria-sort='none']")


def test_the_filter_is_completed_at_its_last_word(opened: Open) -> None:
    page = opened.page
    field = page.get_by_label("Filter").first
    field.fill("loss < 0.25 and opti")
    page.get_by_role("option", name="loss < 0.25 and optimizer").click()
    assert field.input_value() == "loss < 0.25 and optimizer"
    field.fill('loss < 0.25 and optimizer == "sgd"')
    page.get_by_text("1 of 5 trials pass").wait_for()
    assert page.get_by_role("option").count() == 0
    field.fill("")
    page.wait_for_function("() => document.querySelectorAll('#table .ag-center-cols-container .ag-row').length == 5")


def test_a_metric_has_an_aggregate_of_its_own(opened: Open) -> None:
    page = opened.page
    field = page.get_by_label("Metrics").first
    field.click()
    page.get_by_role("option", name="loss: greatest", exact=True).click()
    page.keyboard.press("Escape")
    page.wait_for_function("() => new URLSearchParams(location.search).get('metrics') === 'max:loss'")
    page.wait_for_function(
        """() => window.dash_ag_grid.getApi('table').getRowNode('0').data['metrics/loss'].toFixed(3) === '0.300'"""
    )
    page.reload()
    rows(page).first.wait_for()
    page.wait_for_function(
        """() => window.dash_ag_grid.getApi('table').getRowNode('0').data['metrics/loss'].toFixed(3) === '0.300'"""
    )
    page.goto(opened.base)
    page.wait_for_selector("#history .nsewdrag")


def test_the_mouse_on_a_curve_shows_the_row_of_its_trial(opened: Open) -> None:
    page = opened.page
    page.wait_for_selector("#curves .lines path")
    page.evaluate(
        """() => {
            const drawing = document.querySelector("#curves .js-plotly-plot");
            const at = drawing._fullData.findIndex((each) => each.meta === 1);
            drawing.emit("plotly_hover", {points: [{
                curveNumber: at, pointNumber: 0, pointIndex: 0, x: 1, y: 1, data: drawing.data[at],
                fullData: drawing._fullData[at],
            }]});
        }"""
    )
    page.wait_for_function(
        "() => /^trial 1 · state completed · best 0.2 ·.* lr 0.02 · optimizer sgd/.test("
        "document.querySelector('#curves').closest('figure').querySelector('.row').innerText)"
    )


def test_a_change_in_the_store_comes_and_the_selection_stays(opened: Open) -> None:
    page = opened.page
    rows(page).nth(1).click()
    page.get_by_text("1 selected").wait_for()
    new = LogRow(opened.experiment.last_seq() + 1, 200.0, "launched", 5, {"attempt": 1, "nodes": [0]})
    opened.experiment.append([new], (), [trial_row(5, "RUNNING", ended=None)])
    page.wait_for_function("() => document.querySelectorAll('#table .ag-center-cols-container .ag-row').length == 6")
    assert page.get_by_text("1 selected").count() == 1


def test_figures_and_table_follow_the_store_and_the_zoom_and_the_filter_stay(opened: Open) -> None:
    page = opened.page
    drawn = """(many) => document.querySelector("#history .js-plotly-plot")._fullData
        .filter((each) => each.mode === "markers").reduce((sum, each) => sum + each.x.length, 0) === many"""
    quick = "() => Object.assign(window.tuneLive.rests, {LARGE: 1, LACKING: 1, WHOLE: 1})"
    page.evaluate(quick)  # however busy the machine is
    page.get_by_label("Filter").first.fill("trial >= 4")
    page.get_by_text("2 of 6 trials pass").wait_for()
    page.get_by_label("Filter").first.fill("trial >= 0")
    page.wait_for_function(drawn, arg=6)
    page.locator("#history").scroll_into_view_if_needed()  # what nobody sees is not drawn
    page.wait_for_function("() => !document.querySelector('#history .dash-graph--pending')")
    page.locator("#history .nsewdrag").first.wait_for()
    box = page.locator("#history .nsewdrag").first.bounding_box()
    assert box is not None
    across = "() => document.querySelector('#history .js-plotly-plot').layout.xaxis.range"
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.9 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_function("() => document.querySelector('#history .js-plotly-plot').layout.xaxis.autorange === false")
    zoomed = page.evaluate(across)
    page.evaluate(
        """() => {
            const real = window.fetch;
            window.told = [];
            window.fetch = async (...given) => {
                const answer = await real(...given);
                if (given[0] === "/live" && answer.status === 200) window.told.push(await answer.clone().json());
                return answer;
            };
        }"""
    )
    for number in (6, 7, 8):  # the first one's figure may be sent whole, later ones by what has changed
        row = LogRow(opened.experiment.last_seq() + 1, 200.0, "launched", number, {"attempt": 1, "nodes": [0]})
        opened.experiment.append([row], (), [trial_row(number, best=0.05 * number)])
        page.wait_for_function(drawn, arg=number + 1)
        page.get_by_text(f"{number + 1} of {number + 1} trials pass").wait_for()
        page.locator("#table").scroll_into_view_if_needed()  # it follows where it is seen
        page.wait_for_function(
            "(many) => document.querySelectorAll('#table .ag-center-cols-container .ag-row').length == many",
            arg=number + 1,
        )
        page.locator("#history").scroll_into_view_if_needed()
    told = page.evaluate("() => window.told.map((each) => each.figures?.history || {})")
    assert any(each.get("changes") for each in told)
    assert page.evaluate(across) == zoomed
    page.get_by_text("6 completed").wait_for()
    page.get_by_label("Filter").first.fill("")
    assert opened.said == []


def test_a_brush_in_the_history_selects_in_the_table(opened: Open) -> None:
    page = opened.page
    page.evaluate(
        """() => {
            const drawing = document.querySelector("#history .js-plotly-plot");
            drawing.emit("plotly_selected", {points: [0, 1].map((at) => ({
                curveNumber: 0, pointNumber: at, pointIndex: at, x: at, y: at, data: drawing.data[0],
                fullData: drawing._fullData[0], customdata: drawing._fullData[0].customdata[at],
            }))});
        }"""
    )
    page.get_by_text("2 selected").wait_for()


def test_a_choice_of_a_figure_draws_it_anew_and_stands_in_the_address(opened: Open) -> None:
    page = opened.page
    choice = page.locator("#history").locator("xpath=..").get_by_label("Over")
    choice.click()
    page.get_by_role("option", name="hours").click()
    page.wait_for_function("() => document.querySelector('#history .xtitle')?.textContent === 'hours'")
    assert "history.x=time" in page.url
    page.reload()
    page.wait_for_function("() => document.querySelector('#history .xtitle')?.textContent === 'hours'")


def test_a_figure_is_saved_as_a_picture_and_as_data(opened: Open) -> None:
    page = opened.page
    for form, begins in (("SVG", b"<svg"), ("PNG", b"\x89PNG"), ("its data as CSV", b"trace,")):
        with page.expect_download() as download:
            page.get_by_label(f"Optimization history{':' if 'CSV' in form else ' as'} {form}").click()
        assert download.value.path().read_bytes().startswith(begins)


def test_failed_trials_are_tried_again_from_the_page(opened: Open) -> None:
    page = opened.page
    page.goto(f"{opened.base}?tab=failures")
    page.get_by_role("button", name="Try these 1 again").click()
    page.get_by_text("Asked: 1 new trial").wait_for()
    asked = opened.experiment.requests(0)[-1]
    assert asked.action == "enqueue"
    assert asked.data == {"config": {"lr": 0.1, "optimizer": MARKUP}, "retries": 3, "by": "dashboard"}


def test_the_keyboard_reaches_the_content_and_the_tabs(opened: Open) -> None:
    page = opened.page
    page.goto(opened.base)
    page.wait_for_selector("#history .main-svg")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "content"
    page.get_by_role("tab", name="Overview").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#parallel")
    assert page.evaluate("() => document.activeElement.textContent") == "Parameters"


@pytest.mark.parametrize(("scheme", "rules"), [("light", []), ("dark", ["color-contrast"])])
def test_axe_finds_nothing_serious(opened: Open, scheme: Any, rules: list[str]) -> None:
    axe = Path(axe_playwright_python.__file__).parent / "axe.min.js"
    context = opened.page.context.browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    context.add_init_script(path=axe)
    page = context.new_page()
    page.set_default_timeout(LIMIT)
    found = []
    for path, there in [
        ("?tab=overview", "#history .main-svg"), ("?tab=parameters", "#slice .main-svg"),
        ("?tab=failures", "#failures .main-svg"),
        ("/t/3", "#curves .main-svg"),
    ]:  # fmt: skip
        page.goto(opened.base + path)
        page.wait_for_selector(there)
        told = page.evaluate(
            "(only) => axe.run({resultTypes: ['violations'], ...(only.length ? {runOnly: only} : {})})", rules
        )
        found += [
            (path, each["id"], each["nodes"][0]["html"])
            for each in told["violations"]
            if each["impact"] in ("serious", "critical")
        ]
    context.close()
    assert found == []


def test_a_trial_is_stopped_from_its_page(opened: Open) -> None:
    page = opened.page
    page.goto(f"{opened.base}/t/4")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("stop at once, trial 4").wait_for()
    until(lambda: ("cancel", 4) in [(each.action, each.trial) for each in opened.experiment.requests(0)])
    page.goto(f"{opened.base}?tab=control")
    page.get_by_text("Audit trail").wait_for()
    page.get_by_role("cell", name="cancel").wait_for()


def test_a_failed_trial_shows_its_traceback_as_text(opened: Open) -> None:
    page = opened.page
    page.goto(f"{opened.base}/t/3")
    page.get_by_text(f"ValueError: {MARKUP}").first.wait_for()
    assert opened.said == []


def test_a_narrow_screen_needs_no_scrolling_sideways(opened: Open) -> None:
    page = opened.page
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(opened.base)
    page.wait_for_selector("#history .main-svg")
    page.wait_for_function("() => document.documentElement.scrollWidth <= 390")


def test_each_tab_draws_without_an_error(opened: Open) -> None:
    page = opened.page
    page.set_viewport_size({"width": 1280, "height": 900})
    failed: list[str] = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 500 else None)
    page.goto(opened.base)
    page.wait_for_selector("#history .main-svg")
    for name in page.get_by_role("tab").all_inner_texts():
        page.get_by_role("tab", name=name).click()
        page.wait_for_load_state("networkidle")
    assert failed == []
    assert opened.said == []
