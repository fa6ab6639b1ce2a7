"""The page of the schedulers says what is there: each name, how long its file is, and a figure of what it does."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import tune_platform.schedulers
from tune_platform.registry import SCHEDULERS

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "schedulers.md").read_text()
#: What several share: `_name.py` (lines ...)
SHARED = dict(re.findall(r"`(_\w+)\.py` \((\d+)", PAGE))
#: | `name` | ... | lines here / in Ray Tune |
ROWS = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) / [\d-]+ \|$", PAGE, re.MULTILINE))


def test_each_scheduler_is_in_the_table() -> None:
    assert {SCHEDULERS.builtin[name] for name in ROWS} == set(SCHEDULERS.builtin.values())


def test_the_files_are_as_long_as_the_table_says() -> None:
    """By a tenth: it says how simple one is, and need not follow each change."""
    folder = Path(str(tune_platform.schedulers.__file__)).parent
    files = {**ROWS, **SHARED}
    lines = {name: len((folder / f"{name}.py").read_text().splitlines()) for name in files}
    assert set(SHARED) == {file.stem for file in folder.glob("_*.py")} - {"__init__"}
    assert {name: told for name, told in files.items() if abs(int(told) - lines[name]) > lines[name] / 10} == {}


def test_each_has_a_figure_that_is_shown() -> None:
    shown = set(re.findall(r"\(figures/schedulers/(\w+)\.png\)", PAGE))
    assert shown == set(ROWS) - {"fifo", "replay"}
    assert all((DOCS / "figures" / "schedulers" / f"{name}.png").is_file() for name in shown)


def test_ray_tunes_files_are_as_long_as_the_table_says() -> None:
    """Whole files as they are installed, those of several for pb2; of fifo and replay the class alone."""
    told = dict(re.findall(r"^\| `(\w+)` \|.*\| \d+ / (\d+) \|$", PAGE, re.MULTILINE))
    folder = Path(str(find_spec("ray").origin)).parent / "tune" / "schedulers"  # type: ignore[union-attr]
    files = {"asha": ["async_hyperband"], "median": ["median_stopping_rule"], "pb2": ["pb2", "pb2_utils"]}
    classes = {"fifo": ("trial_scheduler", "FIFOScheduler"), "replay": ("pbt", "PopulationBasedTrainingReplay")}
    found = {}
    for name in told:
        if name in classes:
            file, wanted = classes[name]
            nodes = ast.walk(ast.parse((folder / f"{file}.py").read_text()))
            [lines] = [n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, ast.ClassDef) and n.name == wanted]  # type: ignore[operator]
        else:
            lines = sum(len((folder / f"{file}.py").read_text().splitlines()) for file in files.get(name, [name]))
        found[name] = lines
    assert {name: lines for name, lines in found.items() if abs(int(told[name]) - lines) > lines / 10} == {}
