"""What an open page is told: the trials that changed, the changes of its figures, the end of a log, or nothing."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from tests.tune_platform.dashboard.conftest import trial_row
from tune_platform.dashboard import drawing
from tune_platform.dashboard.guard import Guard
from tune_platform.dashboard.live import Asked, changes
from tune_platform.dashboard.patches import difference
from tune_platform.dashboard.server import make_app
from tune_platform.dashboard.source import Source
from tune_platform.dashboard.words import WORDS
from tune_platform.dashboard.words import told as words_told
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.results import logs
from tune_platform.store.records import LogRow, ReportRow
from tune_platform.store.sql import open_store


@pytest.fixture
def source(storage: Path) -> Source:
    return Source(str(storage))


def change(storage: Path, number: int, status: str, *, step: int = 3, **more: Any) -> None:
    """Write one row of the log, which changes one trial."""
    with open_store(storage) as store, store.open("small") as experiment:
        seq = experiment.last_seq() + 1
        told = [ReportRow(number, step, seq, 200.0 + step, {"loss": 0.05, "epoch": step})] if step > 3 else []
        row = trial_row(number, status, step=step, **more)
        experiment.append([LogRow(seq, 200.0, "moved", number, {"status": status})], told, [row])


def ask(source: Source, **more: Any) -> dict[str, Any] | None:
    return changes(source, Asked.of({"name": "small", **more}))


def decoded(column: Any) -> list[Any]:
    """Do what the page does with a packed column."""
    if isinstance(column, list):
        return column
    if "n" in column:
        return list(column["of"]) * int(column["n"])
    cells = np.frombuffer(base64.b64decode(column["b"]), f"<{column['t']}").tolist()
    return [column["of"][each] for each in cells] if "of" in column else cells


def changed(figure: dict[str, Any], steps: list[Any]) -> dict[str, Any]:
    """Do what the page does with the changes of a figure."""
    for what, path, *rest in steps:
        if what == "traces":
            figure["data"] = [figure["data"][each] if isinstance(each, int) else each for each in rest[0]]
            continue
        *outer, last = path
        place: Any = figure
        for key in outer:
            place = place[key]
        if what == "set":
            place[last] = rest[0]
        else:
            first, removed, cells = rest
            before = plain(place[last])
            place[last] = before[:first] + decoded(cells) + before[first + removed :]
    return figure


def plain(value: Any) -> Any:
    """Return a figure, or a part of one, with all its numbers as lists."""
    if isinstance(value, dict):
        if "bdata" in value:
            return np.frombuffer(base64.b64decode(value["bdata"]), f"<{value['dtype']}").tolist()
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


# ------------------------------------------------------------------------------------------ what is told


def test_who_has_everything_is_told_nothing(source: Source) -> None:
    first = ask(source)
    assert first is not None
    word, told, sign, _ = first["state"]
    assert (word, told, sign) == ("running", " · 3 completed, 1 failed, 1 running", "▶")
    assert len(decoded(first["rows"]["columns"]["trial"])) == 5
    assert ask(source, revision=first["revision"], state=word + told) is None


def test_only_trials_that_changed_are_told_and_which_of_them_pass(source: Source, storage: Path) -> None:
    revision = source.picture("small").view.revision
    assert source.picture("small").passing("loss < 0.45") == [0, 1, 2]
    change(storage, 4, "STOPPED", metrics={"loss": 0.2})
    change(storage, 0, "COMPLETED", step=4, metrics={"loss": 0.9})
    told = ask(source, revision=revision, filter="loss < 0.45")
    assert told is not None
    assert decoded(told["rows"]["columns"]["trial"]) == [0, 4]
    assert decoded(told["rows"]["columns"]["state"]) == ["completed", "stopped"]
    assert told["passing"] == [4]
    assert told["said"] == "3 of 5 trials pass"
    assert source.known("small").passing("loss < 0.45") == [1, 2, 4]


def test_aggregates_of_trials_that_changed_are_those_of_all(source: Source, storage: Path) -> None:
    revision = source.picture("small").view.revision
    change(storage, 2, "COMPLETED", step=4)
    for by in ("min", "max", "mean", "best"):
        part = ask(source, revision=revision, by=by)
        whole = ask(source, by=by)
        assert part is not None
        assert whole is not None
        loss, all_of_it = (decoded(each["rows"]["columns"]["metrics/loss"]) for each in (part, whole))
        assert loss == [all_of_it[2]]


def test_a_figure_that_changed_is_told_by_its_changes(source: Source, storage: Path) -> None:
    first = ask(source, figures={"history": {}, "curves": {}})
    assert first is not None
    had = first["figures"]
    keys = {name: {"key": each["key"], "known": True} for name, each in had.items()}
    change(storage, 4, "COMPLETED", metrics={"loss": 0.01}, best=0.01)
    told = ask(source, revision=first["revision"], figures=keys)
    assert told is not None
    assert "whole" not in told["figures"]["history"]
    wanted = drawing.draw(source.known("small"), "history", "light").plain
    assert plain(changed(plain(had["history"]["whole"]), told["figures"]["history"]["changes"])) == plain(wanted)
    again = ask(source, revision=told["revision"], figures={"history": {"key": told["figures"]["history"]["key"]}})
    assert again is not None
    assert again["figures"] == {}


def test_curves_stay_while_those_that_are_shown_do(source: Source, storage: Path) -> None:
    first = ask(source, figures={"curves": {"top": "5"}})
    assert first is not None
    curves = {"key": first["figures"]["curves"]["key"], "top": "5", "known": True}
    before = drawing.draw(source.known("small"), "curves", "light", top=5)
    change(storage, 5, "PENDING", step=0, metrics={}, best=None, best_step=None)
    told = ask(source, revision=first["revision"], figures={"curves": curves})
    assert told is not None
    assert told["figures"] == {}
    assert drawing.draw(source.known("small"), "curves", "light", top=5).figure is before.figure
    change(storage, 2, "COMPLETED", step=4)
    told = ask(source, revision=told["revision"], figures={"curves": curves})
    assert told is not None
    assert told["figures"]["curves"]["changes"]


def test_numbers_and_insights_come_where_they_changed(
    source: Source, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_platform.dashboard.source.REST", 0)

    def words(**marks: str) -> dict[str, Any]:
        return ((ask(source, words=marks) or {}).get("words")) or {}

    first = words(facts="", insights="")
    facts = {name[0]: value for value, name in first["facts"]["lines"]}
    assert facts["best loss (min), at step 3"] == ("0.1", None)
    assert facts["best trial"] == ("trial 0", "/e/small/t/0")
    assert facts["failed"] == ("1", "/e/small?show=failures#failures")
    assert facts["reports"] == ("12", None)
    assert first["insights"]["lines"] == [[("Nothing stands out.", None)]]
    marks = {name: each["mark"] for name, each in first.items()}
    assert words(**marks) == {}
    change(storage, 4, "STOPPED")
    later = words(**marks)
    assert list(later) == ["facts"], "the insights are the same"
    assert {name[0]: value for value, name in later["facts"]["lines"]}["stopped"] == ("1", None)


def test_words_rest_so_long_as_they_took_and_come_afterwards(
    source: Source, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("tune_platform.dashboard.source.time.monotonic", lambda: now[0])

    def slow(source: Source, picture: Any) -> list[Any]:
        now[0] += 0.1
        return [[[str(picture.view.revision), None]]]

    monkeypatch.setitem(WORDS, "insights", slow)

    def told(mark: str) -> Any:
        picture = replace(source.picture("small"), view=replace(source.picture("small").view, status="running"))
        return words_told(source, picture, "insights", mark)

    first = told("")
    change(storage, 4, "STOPPED")
    assert told(first["mark"]) is None
    now[0] += 299 * 0.1
    assert told(first["mark"]) is None
    now[0] += 2 * 0.1
    assert told(first["mark"])["lines"] == [[[str(source.picture("small").view.revision), None]]]


def test_the_overview_is_drawn_anew_when_another_trial_is_the_best(source: Source, storage: Path) -> None:
    shown = (ask(source, overview="") or {})["overview"]
    assert "overview" not in (ask(source, overview=shown) or {})
    change(storage, 2, "COMPLETED", step=4)
    assert "overview" not in (ask(source, overview=shown) or {})
    change(storage, 1, "COMPLETED", best=0.01)
    assert (ask(source, overview=shown) or {})["overview"] != shown


def test_metrics_that_come_later_can_be_chosen(source: Source, storage: Path) -> None:
    known = len(source.picture("small").view.metric_names)
    assert "choices" not in (ask(source, metrics=known) or {})
    with open_store(storage) as store, store.open("small") as experiment:
        seq = experiment.last_seq() + 1
        told = [ReportRow(4, 4, seq, 204.0, {"loss": 0.4, "late": 1.0})]
        row = trial_row(4, "RUNNING", step=4, metrics={"loss": 0.4, "late": 1.0})
        experiment.append([LogRow(seq, 200.0, "moved", 4, {"status": "RUNNING"})], told, [row])
    news = ask(source, metrics=known) or {}
    assert news["metrics"] == known + 1
    fields = {each if isinstance(each, str) else f"{each['name']}.{each['of']}": data for each, data in news["choices"]}
    assert list(fields) == ["aggregate", "curves.metric", "curves.x"]
    assert {"value": "max:late", "label": "late: greatest"} in fields["aggregate"]
    assert {"value": "late", "label": "late"} in fields["curves.metric"]
    assert {"value": "late", "label": "late"} in fields["curves.x"]


def test_what_a_trial_prints_comes_once(source: Source, storage: Path) -> None:
    first = ask(source, trial=0)
    assert first is not None
    assert first["log"].startswith("epoch 1")
    assert "rows" not in first
    state = first["state"][0] + first["state"][1]
    assert ask(source, trial=0, revision=first["revision"], state=state, log=first["mark"]) is None
    with (storage / "small" / "trials" / "trial-00000" / "log.txt").open("a") as file:
        file.write("epoch 2\n")
    change(storage, 4, "STOPPED")
    told = ask(source, trial=0, revision=first["revision"], state=state, log=first["mark"])
    assert told is not None
    assert told["log"].endswith("epoch 2\n")
    assert "changed" not in told, "another trial has changed"
    change(storage, 0, "COMPLETED", reason="the end")
    assert ask(source, trial=0, revision=told["revision"], log=told["mark"])["changed"]  # type: ignore[index]


def test_the_last_attempt_of_a_long_log_is_looked_for_in_what_is_shown(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"x" * 79 + b"\n")
    os.truncate(path, 1 << 30)
    reads: list[int] = []
    monkeypatch.setattr(logs, "CHUNK", 1 << 16)

    class Counted:
        """A file that notes what is read of it."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def read(self, size: int) -> bytes:
            reads.append(size)
            return bytes(self.file.read(size))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    with path.open("rb") as file:
        assert logs.last_attempt(Counted(file), (1 << 30) - (64 << 10)) == 0  # type: ignore[arg-type]
    assert len(reads) <= 2


# ------------------------------------------------------------------------------------------ what may be asked


@pytest.mark.parametrize(
    "given",
    [
        None, [], "x", {}, {"name": 1}, {"name": "small", "revision": "1"}, {"name": "small", "figures": {"no": {}}},
        {"name": "small", "figures": {"history": 1}}, {"name": "small", "selection": ["1"]},
        {"name": "small", "command": "rm"},
    ],
)  # fmt: skip
def test_anything_else_is_no_question(given: Any) -> None:
    with pytest.raises(SpecError, match="no question"):
        Asked.of(given)


def test_the_address_of_it_answers_and_refuses(source: Source) -> None:
    client = make_app(source, Guard(80, control=False)).test_client()

    def post(body: Any, **headers: str) -> Any:
        return client.post("/live", json=body, headers={"Host": "127.0.0.1:80", **headers})

    found = post({"name": "small"})
    assert found.status_code == 200
    state = "".join(found.json["state"][:2])
    assert post({"name": "small", "revision": found.json["revision"], "state": state}).status_code == 204
    assert post({"name": "../small"}).status_code == 404
    assert post({"name": "small", "trial": 99}).status_code == 404
    assert post([1]).status_code == 400
    assert post({"name": "small"}, Origin="http://evil.example").status_code == 403
    with pytest.raises(ExperimentError):
        ask(source, name="smal")


# ------------------------------------------------------------------------------------------ changes of figures


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        ([1, 2, 3], [1, 2, 3], []),
        ([1.0, float("nan"), 3.0], [1.0, float("nan"), 3.0, 4.0], ["cut"]),
        ([1, 2, 3, 4, 5], [1, 2, 9, 3, 4, 5], ["cut"]),
        ([1, 2, 3, 4, 5], [1, 2, 5], ["cut"]),
        ([1, 2], [300, 400], ["set"]),
        ([1, 2, 3, 4], [1, 2, 3, 4, 40_000], ["cut"]),
        (["a", "b", None, "c"], ["a", "b", None, "d", "c"], ["cut"]),
        ([1, 1, 1], [1, 1, 1, 1], ["cut"]),
        ([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6], [7, 8]], ["cut"]),
    ],
)  # fmt: skip
def test_changes_make_the_new_figure_of_the_old(old: list[Any], new: list[Any], kinds: list[str]) -> None:
    for wrap in (list, np.array) if all(isinstance(each, (int, float)) for each in [*old, *new]) else (list,):
        before, after = (go.Figure(go.Scatter(y=wrap(each), name="a")).to_dict() for each in (old, new))
        steps = difference(before, after)
        assert steps is not None
        assert [each[0] for each in steps] == kinds
        assert repr(plain(changed(plain(before), steps))) == repr(plain(after))


def test_traces_come_and_go_and_change_places() -> None:
    named = {name: go.Scatter(y=[1, 2, at], name=name) for at, name in enumerate("abcd")}
    for old, new in (("abc", "ac"), ("ab", "cab"), ("ab", "ba"), ("", "a"), ("a", "b")):
        before, after = (go.Figure([named[name] for name in each]).to_dict() for each in (old, new))
        steps = difference(before, after)
        assert steps is not None
        assert plain(changed(plain(before), steps)) == plain(after)
        sent = [each for each in steps[0][2] if not isinstance(each, int)]
        assert [each["name"] for each in sent] == [name for name in new if name not in old]
        assert len(steps) == 1


def test_a_figure_that_lacks_what_it_had_or_looks_otherwise_is_sent_whole() -> None:
    one = go.Figure(go.Scatter(y=[1, 2], name="a"), layout={"title": {"text": "x"}})
    assert difference(one.to_dict(), go.Figure(go.Scatter(y=[1, 2], name="a")).to_dict()) is None
    dark = go.Figure(one).update_layout(template="plotly_dark")
    assert difference(one.to_dict(), dark.to_dict()) is None


def test_two_traces_of_one_name_are_not_taken_for_one_another() -> None:
    one, two = (go.Figure([go.Scatter(y=[1, 2 + at], name="a") for at in range(many)]).to_dict() for many in (1, 2))
    for old, new in ((one, two), (two, one)):
        steps = difference(old, new)
        assert steps is not None
        assert plain(changed(plain(old), steps)) == plain(new)
