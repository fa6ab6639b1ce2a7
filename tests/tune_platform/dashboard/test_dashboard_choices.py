"""What a person chooses of figures and tables, the list of experiments, and odd experiments through the whole page."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dash import no_update
from plotly.utils import PlotlyJSONEncoder

from tests.odd_experiments import ODD, Experiment, Made
from tests.odd_experiments import store as store_odd
from tests.odd_experiments import write as write_odd
from tests.tune_platform.dashboard.conftest import SPEC, trial_row
from tune_platform.dashboard import listing
from tune_platform.dashboard.actions import asked, extension, tag
from tune_platform.dashboard.drawing import draw
from tune_platform.dashboard.layout import TABS, body, column_defs, experiment_page, news
from tune_platform.dashboard.options import OPTIONS, in_address, read
from tune_platform.dashboard.parts import proof
from tune_platform.dashboard.sections import SECTIONS, Scene
from tune_platform.dashboard.source import Picture, Source
from tune_platform.dashboard.table import aggregated
from tune_platform.dashboard.words import WORDS, budgets
from tune_platform.errors import SpecError
from tune_platform.plots import FIGURES
from tune_platform.plots.data import as_csv
from tune_platform.plots.observations import same_config
from tune_platform.results.spent import spent_of
from tune_platform.spec import SearchSpec
from tune_platform.store.records import ExperimentRow, LogRow
from tune_platform.store.sql import open_store


@pytest.fixture
def source(storage: Path) -> Source:
    return Source(str(storage))


@pytest.fixture
def picture(source: Source) -> Picture:
    return source.picture("small")


def said(part: Any) -> str:
    """Return all texts of a part, as Dash sends them."""
    return json.dumps(part, cls=PlotlyJSONEncoder, ensure_ascii=False)


def test_choices_are_read_from_text_and_others_are_left_out() -> None:
    assert read("curves", {"x": "time", "smoothing": "0.9", "bands": "yes", "top": "5", "evil": "1", "log": "no"}) == {
        "x": "time", "smoothing": 0.9, "bands": True, "top": 5, "log": False
    }  # fmt: skip
    assert read("parallel", {"top": 100}) == {}
    assert read("parallel", {"top": 20}) == {"top": 0.2}
    assert read("curves", {"top": "many"}) == {}
    assert in_address({"curves.x": "time", "curves.evil": "1", "tab": "overview", "nothing.x": "1"}) == {
        "curves": {"x": "time"}
    }


def test_each_choice_of_each_figure_draws_or_says_why_not(picture: Picture) -> None:
    for figure, options in OPTIONS.items():
        for option in options:
            for value, _ in option.choices(picture.view):
                assert draw(picture, figure, "light", **read(figure, {option.name: value})).summary
    assert "no trial has a parameter" not in draw(picture, "parallel", "light", invert="nothing").summary


def test_a_slow_figure_rests_while_the_experiment_goes_on(source: Source, storage: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tune_platform.dashboard.drawing.AT_ONCE", -1.0)
    monkeypatch.setattr("tune_platform.dashboard.drawing.REST", 1e9)
    before = draw(source.picture("small"), "importance", "light")
    with open_store(storage) as store, store.open("small") as experiment:
        seq = experiment.last_seq() + 1
        row = LogRow(seq, 200.0, "moved", 4, {"status": "STOPPED"})
        experiment.append([row], (), [trial_row(4, "STOPPED")])
    later = source.picture("small")
    assert later.view.revision == seq
    assert draw(later, "importance", "light") is before
    assert draw(later, "importance", "light", text="loss < 0.3") is not before
    monkeypatch.setattr("tune_platform.dashboard.drawing.time.monotonic", lambda: 1e300)
    assert draw(later, "importance", "light") is not before


def test_a_metric_is_shown_as_its_last_best_least_greatest_or_mean(picture: Picture) -> None:
    def loss(by: str) -> Any:
        return aggregated(picture.view, by).get("metrics/loss", picture.table.columns["metrics/loss"])

    assert aggregated(picture.view, "last") == {}
    assert aggregated(picture.view, "no such") == {}
    assert loss("min") == pytest.approx([0.1, 0.2, 0.3, None, 0.5])
    assert loss("max") == pytest.approx([0.3, 0.4, 0.5, None, 0.7])
    assert loss("mean") == pytest.approx([0.2, 0.3, 0.4, None, 0.6])
    assert loss("best") == pytest.approx([0.1, 0.2, 0.3, None, 0.5])
    assert loss("min:epoch") == loss("last")
    assert loss("min\nmax:loss") == loss("max")
    assert aggregated(picture.view, "min\nlast:loss").keys() == {"metrics/epoch"}
    assert news(picture, 0, "max")["by"] == "max"  # type: ignore[index]


def test_the_list_tells_how_far_each_is_and_finds_by_words(source: Source) -> None:
    text = said(listing.rows(source, "small LOSS"))
    assert "40% of 10" in text or "50% of 10" in text
    assert "/files/small/sparkline.svg?trials=" in text
    assert "None of 1 experiments" in said(listing.rows(source, "small resnet"))
    counts = {"COMPLETED": 2, "RUNNING": 3}
    row = ExperimentRow(name="x", spec={"budget": {"trials": 10}}, status="running", created=100.0, counts=counts)
    assert listing.progress(row, now=120.0) == "20% of 10, 1.3 min left"
    assert listing.progress(replace(row, status="finished"), now=120.0) == "20% of 10"
    assert listing.progress(replace(row, spec={}), now=120.0) == "2 ended"
    assert listing.expected({"budget": {"trials": None, "num_samples": 8}}) == 8
    assert listing.expected({"budget": {"num_samples": 8}, "space": {"x": {"type": "grid", "values": [1, 2]}}}) is None


def test_runs_of_one_config_are_put_together(tmp_path: Path) -> None:
    rows = [
        trial_row(n, config={"lr": 0.1 * (1 + n // 2), "seed": n}, best=loss, metrics={"loss": loss})
        for n, loss in enumerate([0.5, 0.7, 0.2, 0.4, 0.9])
    ]
    with open_store(tmp_path) as store, store.create("seeds", SPEC, created=time.time()) as experiment:
        log = [LogRow(n + 1, 100.0 + n, "launched", n, {"attempt": 1, "nodes": [0]}) for n in range(5)]
        experiment.append(log, (), rows)
    source = Source(str(tmp_path))
    view = source.picture("seeds").view
    assert same_config(view) == [[0, 1], [2, 3]]
    text = said(SECTIONS["repeated"](Scene(source, view, None, (), False)))
    assert text.index("0.3") < text.index("0.6"), "the better mean first"
    assert "0.14142" in text


def test_an_insight_links_to_its_figure(source: Source) -> None:
    page = said(experiment_page(source.picture("small"), {"show": "timeline"}))
    assert '"value": "timeline"' in page
    for name in FIGURES:
        if any(name in inside for _, inside in TABS.values()):
            assert proof("small", name).endswith(f"?show={name}#{name}")


@pytest.mark.parametrize("odd", sorted(set(ODD) - {"many"}))
def test_the_page_of_an_odd_experiment(odd: str, tmp_path: Path) -> None:
    source = Source(str(tmp_path))
    picture = source.picture(write_odd(odd, tmp_path))
    for tab in TABS:
        said(experiment_page(picture, {"tab": tab}))
    for name in set(SECTIONS) - {"trial", "why"}:
        said(SECTIONS[name](Scene(source, picture.view, None, (), True)))
    for name in WORDS:
        assert all(isinstance(text, str) for line in WORDS[name](source, picture) for text, _ in line)
    for name in FIGURES:
        made = draw(picture, name, "dark")
        assert made.summary
        as_csv(made.figure)
    for trial in picture.view.trials.number[:3].tolist():
        for name in ("trial", "why"):
            said(SECTIONS[name](Scene(source, picture.view, trial, (), True)))
    json.dumps(news(picture, 0, "mean"), allow_nan=False)
    said(listing.rows(source, ""))


def test_a_text_of_a_trial_is_no_formula_of_a_spreadsheet(picture: Picture) -> None:
    figure = draw(picture, "history", "light").figure
    figure.data[0].name, figure.data[0].customdata = "=HYPERLINK(1)", ["-1", "@x", "1"]
    text = as_csv(figure)
    assert "'=HYPERLINK(1)" in text
    assert "'@x" in text
    assert "'-1" not in text, "a number is left as it is"


def test_limits_of_what_may_be_spent_are_shown_and_can_be_extended(source: Source, picture: Picture) -> None:
    of = {"gpu_hours": 10.0, "cost": 50.0, "deadline": time.time() + 7200.0}
    spent = {"seconds": [0.0, 3600.0], "held": [0.0, 2.0], "of": of}
    told = spent_of(time.time(), spent, {"cpu": 0.0, "gpu": 4.0}, now=time.time())
    shown = dict(budgets(told))
    assert (shown["GPU hours of 10"], shown["cost of 50"]) == ("1", "4")
    assert shown["until the deadline, at this rate"] == "2.0 h"
    assert budgets(None) == []
    with open_store(source.storage) as store, store.open("small") as experiment:
        row = LogRow(picture.view.revision + 1, time.time(), "moved", 4, {"status": "PAUSED", "spent": spent})
        experiment.append([row], (), ())
    scene = Scene(source, picture.view, None, (), True)
    assert "GPU hours of 10" in json.dumps(WORDS["facts"](source, source.picture("small")))
    form = said(SECTIONS["control"](scene))
    assert [word for word in ("More trials", "More GPU hours", "More cost") if word in form] == [
        "More trials", "More GPU hours", "More cost",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ the list, tags, the budget


def test_the_list_is_sent_only_what_has_changed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for age, name in enumerate(("small", "other"), start=2):
            store.create(name, SPEC, created=time.time() - age * 1e6).close()
    source = Source(str(tmp_path))
    whole, marks = listing.lines(source, "", {})
    assert "small" in said(whole)
    assert "other" in said(whole)
    again, same = listing.lines(source, "", marks)
    assert again is no_update
    assert same == marks
    tag(str(tmp_path), "other", ["paper"])
    changed, after = listing.lines(source, "", marks)
    (operation,) = json.loads(said(changed))["operations"]
    assert operation["location"][-1] == 1, "the second line alone"
    assert "paper" in json.dumps(operation["params"])
    assert listing.lines(source, "", after)[0] is no_update
    assert "other" not in said(listing.lines(source, "small", after)[0]), "another search is another list"


def test_tags_are_found_and_stand_in_the_audit_trail(storage: Path, source: Source) -> None:
    assert tag(str(storage), "small", ["paper", " draft "]) == "Tags: draft, paper"
    assert tag(str(storage), "small", ["paper", "draft"]) == "The tags are as they were."
    assert tag(str(storage), "small", ["paper", "<b>"]) == "Tags: <b>, paper"
    assert asked(str(storage), "small")[0]["data"] == {"add": ["<b>"], "remove": ["draft"], "by": "dashboard"}
    assert "small" in said(listing.rows(source, "paper"))
    assert "None of 1" in said(listing.rows(source, "draft"))
    with pytest.raises(SpecError, match="1 to 40 letters"):
        tag(str(storage), "small", ["x" * 41])
    scene = Scene(source, source.picture("small").view, None, (), True)
    assert '"value": ["<b>", "paper"]' in said(SECTIONS["control"](scene))


def test_tags_of_the_spec_are_there_from_the_start_and_can_be_taken_off(tmp_path: Path) -> None:
    spec = SearchSpec(trainable="my:train", metric="loss", mode="min", tags=("paper",))
    assert spec.tags == ("paper",)
    written = spec.to_dict()
    assert written["tags"] == ["paper"]
    with open_store(tmp_path) as store, store.create("tagged", written, created=time.time()) as experiment:
        assert experiment.row().tags == ("paper",)
    source = Source(str(tmp_path))
    assert "tagged" in said(listing.rows(source, "paper"))
    assert tag(str(tmp_path), "tagged", ["draft"]) == "Tags: draft"
    assert "None of 1" in said(listing.rows(source, "paper"))


def test_the_budget_is_extended_by_time_and_to_a_deadline() -> None:
    found = extension(
        {"trials": "5", "time": "30m", "deadline": "2030-01-31T18:00+00:00", "cost": " ", "gpu_hours": ""}
    )
    assert found == {"trials": 5, "time": 1800.0, "deadline": 1896112800.0}
    for field, text, why in (
        ("trials", "1.5", "trials: got '1.5'; a number is wanted"),
        ("time", "soon", "time: .*soon"),
        ("deadline", "tomorrow", "deadline: .*a date with a time is wanted"),
    ):
        with pytest.raises(SpecError, match=why):
            extension({field: text})


def test_a_tab_has_the_figures_that_there_can_be(tmp_path: Path) -> None:
    places = {
        name: said(body("scheduler", Source(str(tmp_path)).picture(write_odd(name, tmp_path))))
        for name in ("normal", "pbt")
    }
    assert "Family of the population" in places["pbt"]
    assert "Family of the population" not in places["normal"]
    several = Source(str(tmp_path)).picture(write_odd("several", tmp_path))
    assert "Pareto front" in said(body("objectives", several))
    assert "Pareto front" not in said(body("objectives", Source(str(tmp_path)).picture("normal")))


def test_the_table_of_configs_has_how_many_runs_and_no_seeds(tmp_path: Path) -> None:
    made = Experiment(
        trials=[Made(config={"lr": 0.1, "seed": n}, curve=[{"loss": 1.0 + n}]) for n in range(3)],
    )
    table = Source(str(tmp_path)).picture(store_odd("seeds", made, tmp_path)).table
    names = [
        each["field"] for each in column_defs(table, ["trial", "state", "best", "config/lr", "config/seed"], "configs")
    ]
    assert names == ["trial", "runs", "state", "best", "deviation", "config/lr"]
    assert "cellRenderer" in column_defs(table, ["state"])[0]
