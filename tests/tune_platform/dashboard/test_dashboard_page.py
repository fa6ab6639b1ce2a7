"""What the page says: filter, table, what is sent when something changes, and its sections."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash.development.base_component import Component

from tests.tune_platform.dashboard.conftest import MARKUP, SPEC, trial_row, write
from tune_platform.dashboard import versus
from tune_platform.dashboard.drawing import draw
from tune_platform.dashboard.filtering import names, passing
from tune_platform.dashboard.layout import TABS, body, experiment_page
from tune_platform.dashboard.sections import SECTIONS, Scene
from tune_platform.dashboard.source import Picture, Source
from tune_platform.dashboard.table import pack
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.plots import FIGURES
from tune_platform.store.records import LogRow
from tune_platform.store.sql import open_store


@pytest.fixture
def source(storage: Path) -> Source:
    return Source(str(storage))


@pytest.fixture
def picture(source: Source) -> Picture:
    return source.picture("small")


def said(part: Any) -> str:
    """Return all texts of a part, as Dash sends them."""
    return json.dumps(part, default=lambda each: each.to_plotly_json(), ensure_ascii=False)


# ------------------------------------------------------------------------------------------ filter


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None),
        ("  ", None),
        ("loss < 0.25", [0, 1]),
        ('loss < 0.45 and optimizer == "adam" and state == "completed"', [0, 2]),
        ('state in ["failed", "running"]', [3, 4]),
        ("not trial > 0", [0]),
        ("lr * 100 >= 5", [3, 4]),
        ('optimizer < 3', []),  # no trial passes a comparison that cannot be made
        ("seconds == 10", [0, 1, 2, 3]),
        ("best <= 0.1", [0]),
    ],
)  # fmt: skip
def test_the_filter_is_the_language_of_constraints(picture: Picture, text: str, found: list[int] | None) -> None:
    assert passing(text, picture.table) == found


@pytest.mark.parametrize(
    "text", ["__import__('os').system('x')", "loss.__class__", "lambda: 1", "loss <", "(x := 1)", "[t for t in loss]"]
)
def test_the_filter_runs_no_code(picture: Picture, text: str) -> None:
    with pytest.raises(SpecError):
        passing(text, picture.table)


def test_a_misspelt_name_is_told(picture: Picture) -> None:
    with pytest.raises(SpecError, match="did you mean 'optimizer'"):
        passing('optimiser == "adam"', picture.table)
    assert {"loss", "epoch", "lr", "optimizer", "trial", "state"} <= set(names(picture.table))


# ------------------------------------------------------------------------------------------ table and revisions


def test_the_table_has_plain_cells_and_shows_what_varies(picture: Picture) -> None:
    columns = picture.table.columns
    assert columns["state"] == ["completed", "completed", "completed", "failed", "running"]
    assert columns["best"] == pytest.approx([0.1, 0.2, 0.3, None, 0.5])
    assert columns["config/optimizer"][3] == MARKUP
    assert {len(cells) for cells in columns.values()} == {5}
    json.dumps(columns, allow_nan=False)
    assert "config/lr" in picture.table.shown
    assert "worker" not in picture.table.shown  # the same everywhere
    order = [name for name in picture.table.shown if name in ("step", "reason", "config/lr", "seconds")]
    assert order == ["step", "reason", "config/lr", "seconds"]


def test_only_what_changed_is_sent(source: Source, storage: Path) -> None:
    before = source.picture("small")
    assert source.picture("small") is before
    with open_store(storage) as store, store.open("small") as experiment:
        row = LogRow(before.view.revision + 1, 200.0, "moved", 4, {"status": "STOPPED", "reason": "rung 1"})
        experiment.append([row], (), [trial_row(4, "STOPPED", reason="rung 1")])
    after = source.picture("small")
    assert after.view.revision == before.view.revision + 1
    assert after.since(before.view.revision).columns["trial"] == [4]
    assert after.since(before.view.revision).columns["state"] == ["stopped"]


def test_a_replaced_experiment_is_read_anew(source: Source, storage: Path) -> None:
    source.picture("small")
    with pytest.raises(ExperimentError, match="did you mean 'small'"):
        source.picture("smal")
    with pytest.raises(ExperimentError):
        source.picture("../small")


# ------------------------------------------------------------------------------------------ sections


def scene(source: Source, *, trial: int | None = None, chosen: tuple[int, ...] = (), control: bool = False) -> Scene:
    return Scene(source, source.picture("small").view, trial, chosen, control)


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_no_text_of_a_trial_is_markup(source: Source, name: str) -> None:
    """Dash shows children as text; nothing goes in any other way."""
    made = SECTIONS[name](scene(source, trial=3, chosen=(2, 3), control=True))

    def look(part: Any) -> None:
        if isinstance(part, Component):
            assert type(part).__name__ not in ("Markdown", "DangerouslySetInnerHTML", "Iframe")
            assert not hasattr(part, "dangerously_allow_html")
            for value in part.to_plotly_json()["props"].values():
                look(value)
        elif isinstance(part, (list, tuple)):
            for each in part:
                look(each)

    look(made)
    said(made)


def test_the_overview_has_the_best_config_in_three_forms(source: Source) -> None:
    text = said(SECTIONS["overview"](scene(source)))
    assert "config = {'lr': 0.01, 'optimizer': 'adam'}" in text
    assert "lr: 0.01\\noptimizer: adam" in text
    assert "lr=0.01 optimizer=adam" in text


def test_the_overview_says_why_a_search_does_not_run(source: Source) -> None:
    there = scene(source)

    def overview(status: str, reason: str) -> str:
        view = replace(there.view, status=status, reason=reason)
        return said(SECTIONS["overview"](replace(there, view=view)))

    assert "driver" not in overview("running", "its driver is gone")
    assert "all 5 trials are done" in overview("finished", "all 5 trials are done")
    assert "It is crashed: its driver is gone. To go on with it: tune-platform resume small" in overview(
        "crashed", "its driver is gone"
    )


def test_the_page_of_a_trial_has_its_gpus(source: Source) -> None:
    there = scene(source, trial=0)
    assert "GPU" not in said(SECTIONS["trial"](there))
    with open_store(source.storage) as store, store.open("small") as experiment:
        row = LogRow(experiment.last_seq() + 1, 200.0, "moved", 0, {"status": "COMPLETED"})
        experiment.append([row], (), [trial_row(0, worker="ada:4711 gpu 0,1")])
    assert "ada gpu 0, ada gpu 1" in said(SECTIONS["trial"](there))


def test_the_page_of_a_trial_says_why_it_is_where_it_is(source: Source) -> None:
    assert f"ValueError: {MARKUP}" in said(SECTIONS["trial"](scene(source, trial=3)))
    assert "launched" in said(SECTIONS["why"](scene(source, trial=3)))
    assert "/files/small/0/checkpoint/3" in said(SECTIONS["trial"](scene(source, trial=0)))


def test_failures_are_grouped_by_what_they_say(source: Source) -> None:
    text = said(SECTIONS["failures"](scene(source)))
    assert f"ValueError: {MARKUP}" in text
    assert "lr 0.1;" in text


def test_trials_are_compared_by_what_differs(source: Source) -> None:
    text = said(SECTIONS["compare"](scene(source, chosen=(0, 2))))
    assert "One parameter is the same" in text
    assert "lr" in text
    assert "Select two" in said(SECTIONS["compare"](scene(source, chosen=(0,))))


def test_there_are_buttons_only_for_who_may_press_them(source: Source) -> None:
    assert '"act"' not in said(SECTIONS["trial"](scene(source, trial=4)))
    assert '"act"' in said(SECTIONS["trial"](scene(source, trial=4, control=True)))
    assert '"act"' not in said(SECTIONS["trial"](scene(source, trial=0, control=True)))
    form = said(SECTIONS["control"](scene(source, control=True)))
    assert "0.0001 to 0.1, log" in form


def test_the_state_of_the_page_comes_from_its_address(picture: Picture) -> None:
    page = said(
        experiment_page(picture, {"tab": "failures", "filter": "loss < 1", "trials": "1,2,x", "columns": "best"})
    )
    assert '"value": "failures"' in page
    assert '"value": "loss < 1"' in page
    assert '"ids": ["1", "2"]' in page
    assert '"value": ["best"]' in page


def test_each_tab_has_something(picture: Picture) -> None:
    for tab in TABS:
        assert said(body(tab, picture))
    assert "history" in FIGURES


def test_an_experiment_without_trials(tmp_path: Path) -> None:
    with (
        open_store(tmp_path) as store,
        store.create("none", {"objective": {"metric": "x", "mode": "max"}}, time.time()),
    ):
        pass
    source = Source(str(tmp_path))
    here = source.picture("none")
    assert passing("trial > 1", here.table) == []
    for name in set(SECTIONS) - {"trial", "why"}:
        said(SECTIONS[name](Scene(source, here.view, None, (), False)))
    assert said(experiment_page(here, {}))


# ------------------------------------------------------------------------------------------ figures, columns, compare


def test_a_figure_is_drawn_once_a_revision(source: Source, storage: Path) -> None:
    before = source.picture("small")
    first = draw(before, "history", "light")
    assert draw(source.known("small"), "history", "light") is first
    assert draw(before, "history", "light", text="loss < 0.25").key != first.key
    assert "2 trials" in draw(before, "curves", "light", trials=[0, 1]).summary
    with open_store(storage) as store, store.open("small") as experiment:
        row = LogRow(before.view.revision + 1, 200.0, "moved", 4, {"status": "STOPPED"})
        experiment.append([row], (), [trial_row(4, "STOPPED")])
    assert source.known("small") is before
    assert draw(source.picture("small"), "history", "light") is not first


@pytest.mark.parametrize(
    "cells",
    [
        [1, 2.5, None], ["a", "a", "b", "a"], ["1", 1, True], [None, None], [2**60, 1], [], [3, 3, 3], [True, True],
        [1, 1.0], [-128, 127], [-129, 0], [40_000, -1], [2**31, 0], [float("inf"), 1.0],
    ],
)  # fmt: skip
def test_a_packed_column_has_what_the_column_had(cells: list[Any]) -> None:
    packed = json.loads(json.dumps(pack(cells)))
    if isinstance(packed, dict) and "n" in packed:
        packed = packed["of"] * packed["n"]
    elif isinstance(packed, dict):
        numbers = np.frombuffer(base64.b64decode(packed["b"]), f"<{packed['t']}").tolist()
        named = packed.get("of")
        packed = [named[each] if named else None if each != each else each for each in numbers]
    assert packed == cells


def test_experiments_that_differ_in_their_seed_are_one_family(tmp_path: Path) -> None:
    specs = {"a1": (1, 0.1), "a2": (2, 0.1), "b": (1, 0.2)}
    for name, (seed, high) in specs.items():
        spec = {**SPEC, "space": {"lr": {"type": "float", "low": 0.0, "high": high}}, "search": {"seed": seed}}
        with open_store(tmp_path) as store, store.create(name, spec, created=time.time()) as experiment:
            write(experiment, tmp_path / name)
    source = Source(str(tmp_path))
    views = [source.picture(name).view for name in specs]
    assert {name: [each.name for each in of] for name, of in versus.families(views).items()} == {
        "a1": ["a1", "a2"], "b": ["b"]
    }  # fmt: skip
    figure, told = versus.drawn(source, list(specs), "cost", "light")
    assert any("2 seeds" in (trace.name or "") for trace in figure.data)
    assert told.startswith("Of 2 experiments")
    assert "no experiment" in versus.drawn(source, ["c"], "cost", "light")[1]
    assert '"value": "time"' in said(versus.page(source, {"of": "b,c", "by": "time"}))
