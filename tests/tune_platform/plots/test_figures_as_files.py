from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.odd_experiments import write
from tune_platform.cli import main
from tune_platform.errors import SpecError, TunePlatformError
from tune_platform.plots import FIGURES, View, plotlyjs
from tune_platform.plots.report import page, write_figure
from tune_platform.results import Results


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.sources: list[str] = []
        self.figures: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag == "figure":
            self.figures.append(dict(attrs).get("id") or "")
        self.sources += [value or "" for name, value in attrs if name == "src" or (name == "href" and tag == "link")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_a_page_loads_nothing_and_shows_all_text_as_text(tmp_path: Path) -> None:
    view = View.of(write("unicode", tmp_path), storage=tmp_path)
    text = page(view, ["history", "failures", "curves", "lineage"])
    tags = _Tags()
    tags.feed(text)
    assert tags.figures == ["history", "failures", "curves"], "lineage cannot be drawn here"
    assert not tags.sources
    assert tags.scripts == 1 + 3, "plotly.js, and one of each figure: none of a trial's"
    assert "<script>alert" not in text
    assert "<script>alert(1)</script>" in tags.cells, "the table shows it as it is"
    assert "default-src 'none'" in text


def test_a_page_of_nothing_says_so(tmp_path: Path) -> None:
    text = page(View.of(write("none", tmp_path), storage=tmp_path))
    assert "trials: none yet" in text
    assert re.findall(r'<figure id="(\w+)"', text) == ["decisions"], "its log alone has rows"


def test_results_have_the_figures(tmp_path: Path) -> None:
    results = Results(write("normal", tmp_path), storage=tmp_path)
    drawn = results.plot.curves(top=2)
    assert [trace.name for trace in drawn.data] == [f"trial {n}" for n in View.of(results).ranking[:2]]
    assert set(results.plot()) == set(FIGURES) <= set(dir(results.plot))
    with pytest.raises(AttributeError, match="did you mean 'curves'"):
        results.plot.curvs()


def test_plot_says_which_figures_there_are_and_writes_one(tmp_path: Path) -> None:
    write("normal", tmp_path)
    run = CliRunner().invoke
    listed = run(main, ["plot", "normal", "--storage", str(tmp_path)]).stdout
    assert [name for name in FIGURES if f"\n{name} " in listed] == list(FIGURES)
    file = tmp_path / "it.html"
    done = run(main, ["plot", "normal", "curves", "--set", "top=2", "-o", str(file), "--storage", str(tmp_path)])
    assert done.exit_code == 0, done.output
    text = file.read_text()
    found = re.findall(r"trial (\d+), step %\{customdata\}", text)
    assert list(map(int, found)) == View.of("normal", storage=tmp_path).ranking[:2]
    assert plotlyjs.source() in text, "our own plotly.js, half as large as the whole"
    assert text.count("<script") == 2
    assert "script-src 'unsafe-inline'" in text
    wrong = run(main, ["plot", "normal", "curvs", "--storage", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "did you mean 'curves'" in wrong.output
    wrong = run(main, ["plot", "normal", "curves", "--set", "tp=2", "--storage", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "has no such option: tp" in wrong.output


def test_export_writes_a_page(tmp_path: Path) -> None:
    write("one", tmp_path)
    file = tmp_path / "one.html"
    done = CliRunner().invoke(main, ["export", "one", "--format", "html", "-o", str(file), "--storage", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "<h1>one</h1>" in file.read_text()


def test_what_is_no_form_is_refused(tmp_path: Path) -> None:
    view = View.of(write("one", tmp_path), storage=tmp_path)
    with pytest.raises(SpecError, match=r"allowed: \.html, \.png, \.svg"):
        write_figure(FIGURES["history"].draw(view), tmp_path / "it.bmp")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium")
@pytest.mark.parametrize(("form", "begins"), [("png", b"\x89PNG"), ("svg", b"<svg ")])
def test_a_figure_as_a_picture(tmp_path: Path, form: str, begins: bytes) -> None:
    view = View.of(write("normal", tmp_path), storage=tmp_path)
    file = tmp_path / f"it.{form}"
    write_figure(FIGURES["history"].draw(view), file)
    assert file.read_bytes().startswith(begins)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium")
def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    """With plotly.js of the file itself: the page's policy forbids to load anything."""
    file = tmp_path / "it.html"
    names = ["history", "rungs", "slice"]
    file.write_text(page(View.of(write("normal", tmp_path), storage=tmp_path), names), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    for name in names:
        part = done.stdout.split(f'<figure id="{name}"')[1].split("</figure>")[0]
        assert 'class="main-svg"' in part, name


def test_without_a_browser_one_line_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = FIGURES["history"].draw(View.of(write("one", tmp_path), storage=tmp_path))

    def fails(**_: object) -> bytes:
        raise RuntimeError("Kaleido requires Google Chrome to be installed.\nMore lines")

    monkeypatch.setattr(drawn, "to_image", fails, raising=False)
    with pytest.raises(TunePlatformError) as error:
        write_figure(drawn, tmp_path / "it.png")
    assert "needs Chrome or Chromium" in str(error.value)
    assert "\n" not in str(error.value)
