"""Attacks on the page: other hosts, other sites, guessed tokens, paths that lead out, texts that would be markup."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from plotly.utils import PlotlyJSONEncoder

from tests.tune_platform.dashboard.conftest import MARKUP, trial_row
from tune_platform.dashboard import files, listing
from tune_platform.dashboard.guard import BODY_LIMIT, Guard
from tune_platform.dashboard.server import make_app
from tune_platform.dashboard.source import Source
from tune_platform.store.records import LogRow
from tune_platform.store.sql import open_store

HOST = {"Host": "127.0.0.1:8000"}


class Page:
    """The application, and a browser that says what it is told to say."""

    def __init__(self, storage: Path, *, control: bool = False) -> None:
        self.guard = Guard(8000, control=control)
        self.client = make_app(Source(str(storage)), self.guard).test_client()

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers=HOST | {k.replace("_", "-"): v for k, v in headers.items()})

    def post(self, path: str, body: Any, **headers: str) -> Any:
        given = HOST | {k.replace("_", "-"): v for k, v in headers.items()}
        return self.client.post(path, json=body, headers=given)

    def press(self, action: str, trial: int, *, tags: Sequence[str] = (), **headers: str) -> Any:
        """Do what Dash does when somebody presses a button."""
        place = {"type": "act", "action": action, "trial": trial}
        chosen = [{"id": {"type": "tags", "name": "tags"}, "property": "value", "value": list(tags)}]
        where = {"id": "where", "property": "data", "value": {"name": "small", "trial": None}}
        body = {
            "output": "said.children", "outputs": {"id": "said", "property": "children"},
            "inputs": [[{"id": place, "property": "n_clicks", "value": 1}]],
            "changedPropIds": [json.dumps(place, separators=(",", ":"), sort_keys=True) + ".n_clicks"],
            "state": [[], [], [], [], chosen, where],
        }  # fmt: skip
        return self.post("/_dash-update-component", body, **headers)


@pytest.fixture
def page(storage: Path) -> Page:
    return Page(storage, control=True)


def requests(storage: Path) -> list[tuple[str, int | None]]:
    with open_store(storage) as store, store.open("small", readonly=True) as experiment:
        return [(each.action, each.trial) for each in experiment.requests(0)]


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "127.0.0.1", "127.0.0.1:8001", "127.0.0.1.evil.example:8000", ""]
)
def test_a_name_that_was_made_to_point_here_is_refused(page: Page, host: str) -> None:
    assert page.client.get("/", headers={"Host": host}).status_code == 403
    assert page.client.get("/files/small/trials.csv", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8000", "http://127.0.0.1:8001"])
def test_a_request_of_another_site_is_refused(page: Page, storage: Path, origin: str) -> None:
    page.post("/login", {"token": page.guard.token})  # a browser would send the cookie
    assert page.press("stop", 4, Origin=origin).status_code == 403
    assert page.get("/files/small/trials.csv", Origin=origin).status_code == 403
    assert requests(storage) == []


def test_another_site_may_link_here_but_not_embed_or_fetch(page: Page) -> None:
    assert page.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status_code == 200
    assert page.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status_code == 403
    answer = page.get("/", Origin="http://127.0.0.1:8000")
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["X-Frame-Options"] == "DENY"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    scripts = next(part for part in policy.split(";") if "script-src" in part)
    assert "unsafe" not in scripts
    assert "http:" not in policy


@pytest.mark.parametrize("path", ["/live", "/login", "/_dash-update-component"])
def test_a_body_that_is_too_large_is_not_read(page: Page, path: str) -> None:
    assert page.post(path, {"token": "x" * BODY_LIMIT}).status_code == 413


def test_tags_of_many_letters_lines_or_numbers_are_refused_and_markup_is_text(page: Page, storage: Path) -> None:
    page.post("/login", {"token": page.guard.token})

    def tagged(*tags: str) -> str:
        return str(page.press("tag", -1, tags=list(tags)).text)

    for wrong in (["x" * 41], ["two\nlines"], [str(n) for n in range(21)]):
        assert "tag: " in tagged(*wrong)
    assert requests(storage) == []
    assert "Tags: " in tagged(MARKUP)
    shown = json.dumps(listing.rows(Source(str(storage)), ""), cls=PlotlyJSONEncoder)
    assert json.dumps({"children": MARKUP})[1:-1] in shown, "a child of React is text"


def test_who_has_no_cookie_cannot_steer(page: Page, storage: Path) -> None:
    answer = page.press("stop", 4, Origin="http://127.0.0.1:8000")
    assert "may not steer" in answer.text
    assert requests(storage) == []


def test_the_token_is_exchanged_for_a_cookie_that_no_script_reads(page: Page, storage: Path) -> None:
    answer = page.post("/login", {"token": page.guard.token})
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert page.guard.token not in cookie
    assert "Asked (1)" in page.press("stop", 4).text
    assert "Asked (2)" in page.press("pause", -1).text
    assert requests(storage) == [("cancel", 4), ("pause", None)]


def test_a_trial_that_has_ended_is_not_stopped(page: Page, storage: Path) -> None:
    page.post("/login", {"token": page.guard.token})
    assert "has ended already" in page.press("stop", 0).text
    assert "no action" in page.press("rm -rf", -1).text
    assert requests(storage) == []


@pytest.mark.parametrize("token", ["", "x", None, 7, ["a"], "é"])
def test_a_guessed_token_is_refused(page: Page, token: Any) -> None:
    answer = page.post("/login", {"token": token})
    assert answer.status_code == 403
    assert "Set-Cookie" not in answer.headers


def test_without_allow_control_there_is_no_token_and_nothing_to_steer_by(storage: Path) -> None:
    page = Page(storage)
    assert page.guard.token is None
    assert page.post("/login", {"token": None}).status_code == 403
    assert page.post("/login", {"token": "None"}).status_code == 403
    assert "may not steer" in page.press("stop", 4).text
    assert requests(storage) == []


def test_failed_trials_are_asked_for_again_with_their_configs(page: Page, storage: Path) -> None:
    assert "may not steer" in page.press("retry", -1).text
    page.post("/login", {"token": page.guard.token})
    assert "trial 0 has not failed" in page.press("retry", 0).text
    assert "1 new trial" in page.press("retry", 3).text
    assert "1 new trial" in page.press("retry-group", 3).text
    assert "1 new trial" in page.press("retry", -1).text
    with open_store(storage) as store, store.open("small", readonly=True) as experiment:
        asked = experiment.requests(0)
    assert [(each.action, each.data["config"]) for each in asked] == [("enqueue", {"lr": 0.1, "optimizer": MARKUP})] * 3


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["..", "../small", "%2e%2e", "..%2fsmall", "small/..", "/etc", "smal"])
def test_a_name_is_no_path(page: Page, name: str) -> None:
    for path in (f"/files/{name}/trials.csv", f"/files/{name}/0/log", f"/files/{name}/0/checkpoint/3"):
        assert "Content-Disposition" not in page.get(path).headers  # a page that says so, but no file


def test_logs_and_checkpoints_are_sent(page: Page) -> None:
    answer = page.get("/files/small/0/log")
    assert answer.text == f"epoch 1\n{MARKUP}\n"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    sent = zipfile.ZipFile(io.BytesIO(page.get("/files/small/0/checkpoint/3").data))
    assert {name: sent.read(name) for name in sent.namelist()} == {"files/model.bin": b"weights"}


def test_a_link_leads_nowhere_else(page: Page, storage: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("secret")
    log = storage / "small" / "trials" / "trial-00000" / "log.txt"
    log.unlink()
    log.symlink_to(secret)
    assert page.get("/files/small/0/log").status_code == 404
    (storage / "small" / "checkpoints" / "trial-00000" / "files" / "more").symlink_to(secret)
    assert page.get("/files/small/0/checkpoint/3").status_code == 404


def test_of_a_log_of_a_gigabyte_the_end_is_sent(page: Page, storage: Path) -> None:
    with (storage / "small" / "trials" / "trial-00000" / "log.txt").open("wb") as file:
        file.truncate(1 << 30)  # a hole: it takes no room
        file.seek(0, io.SEEK_END)
        file.write(b"\nthe end\n")
    results = Source(str(storage)).results("small")
    assert files.log_of(results, 0, 1000) == "the end\n"
    assert len(page.get("/files/small/0/log").data) <= files.LOG_LIMIT


def test_a_checkpoint_that_is_too_large_is_told(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHECKPOINT_LIMIT", 6)
    answer = page.get("/files/small/0/checkpoint/3")
    assert answer.status_code == 404
    assert "7 bytes" in answer.text


def test_tables_are_downloaded(page: Page) -> None:
    lines = page.get("/files/small/trials.csv").text.splitlines()
    assert len(lines) == 6
    assert "config/lr" in lines[0]
    assert page.get("/files/small/trials.json").headers["Content-Type"].startswith("application/json")
    assert page.get("/files/small/trials.parquet").data[:4] == b"PAR1"
    assert page.get("/files/small/trials.exe").status_code == 404


def test_no_text_of_the_table_of_trials_is_a_formula(page: Page, storage: Path) -> None:
    with open_store(storage) as store, store.open("small") as experiment:
        odd = trial_row(5, config={"=1+1": "=HYPERLINK(0)", "word": "-1e-3", "lr": -0.5}, reason="@SUM(A1)")
        experiment.append([LogRow(experiment.last_seq() + 1, 200.0, "moved", 5, {"status": "STOPPED"})], (), [odd])
    head, *rows = csv.reader(page.get("/files/small/trials.csv").text.splitlines())
    row = dict(zip(head, rows[-1], strict=True))
    assert (row["config/=1+1"], row["reason"]) == ("'=HYPERLINK(0)", "'@SUM(A1)")
    assert (row["config/word"], row["config/lr"]) == ("-1e-3", "-0.5")


def test_the_data_of_a_figure_are_text_in_cells(page: Page) -> None:
    answer = page.get("/files/small/figure/history.csv?filter=loss%20%3C%200.25")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert answer.text.splitlines()[0] == "trace,x,y,trial"
    assert "completed,0,0.1,0" in answer.text
    assert page.get("/files/small/figure/nothing.csv").status_code == 404
    assert "trace" not in page.get("/files/..%2fsmall/figure/history.csv").text
    picture = page.get("/files/small/sparkline.svg")
    assert picture.headers["Content-Type"].startswith("image/svg+xml")
    assert picture.text.startswith("<svg")
    assert page.get("/files/smal/sparkline.svg").status_code == 404
