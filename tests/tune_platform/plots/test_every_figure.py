"""Every figure on every odd experiment: it draws or says why not, as JSON without markup of the user's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.odd_experiments import ODD, write
from tune_platform.plots import FIGURES, View, insights, plotlyjs

_VIEWS: dict[str, View] = {}
_SMALL = sorted(set(ODD) - {"many"})


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, View]:
    storage = tmp_path_factory.mktemp("odd")
    return {name: View.of(write(name, storage), storage=storage) for name in _SMALL}


def check(view: View, name: str, theme: str) -> None:
    kind = FIGURES[name]
    drawn = kind.draw(view, theme=theme)
    form = json.loads(drawn.to_json())
    assert form["layout"]["meta"]["name"] == name
    assert form["layout"]["title"]["text"] == kind.title
    told = kind.summary(view)
    assert told == form["layout"]["meta"]["summary"]
    assert told.endswith("."), told
    assert "nan" not in re.findall(r"\w+", told)
    if why := kind.needs(view):
        assert not form["data"]
        assert form["layout"]["annotations"]
        assert told == why
    else:
        assert form["data"] or form["layout"]["annotations"]
    assert {trace["type"] for trace in form["data"]} <= plotlyjs.traces(), "the browser's plotly.js cannot draw it"
    inside = json.dumps(form["data"]) + json.dumps(
        {k: v for k, v in form["layout"].items() if k not in ("meta", "uirevision")}
    )
    assert "<script" not in inside, "text of the user's as markup"
    assert "<b>loss</b>" not in inside


@pytest.mark.parametrize("odd", _SMALL)
@pytest.mark.parametrize("name", sorted(FIGURES))
def test_every_figure_on_every_odd_experiment(views: dict[str, View], name: str, odd: str) -> None:
    check(views[odd], name, "dark" if odd == "normal" else "light")


@pytest.mark.parametrize("odd", _SMALL)
def test_insights_name_figures_that_can_be_drawn(views: dict[str, View], odd: str) -> None:
    for each in insights(views[odd]):
        assert not FIGURES[each.figure].needs(views[odd])
        assert each.text.endswith(".")


@pytest.mark.slow
def test_every_figure_of_a_hundred_thousand_trials(tmp_path: Path) -> None:
    view = View.of(write("many", tmp_path), storage=tmp_path)
    assert len(view.trials) == 100_000
    for name in FIGURES:
        check(view, name, "light")
    assert len(FIGURES["history"].draw(view).to_json()) < 8_000_000


def test_two_figures_of_optuna_may_be_the_first_ones_at_once(tmp_path: Path) -> None:
    """The page asks for several at once, from threads; Optuna is loaded for the first."""
    name = write("normal", tmp_path)
    code = f"""
import threading
from tune_platform.plots import View
from tune_platform.plots.registry import FIGURES
view, begin, said = View.of({name!r}, storage={str(tmp_path)!r}), threading.Barrier(4), []
def draw(name):
    begin.wait()
    try:
        FIGURES[name].draw(view)
    except Exception as error:
        said.append(repr(error))
threads = [threading.Thread(target=draw, args=(name,)) for name in ("contour", "rank", "importance", "contour")]
for each in threads: each.start()
for each in threads: each.join()
assert not said, said
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
