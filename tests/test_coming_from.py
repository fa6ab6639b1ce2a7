"""What the pages for newcomers change: at most ten lines of a script, which runs before and after; rows have tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ray_examples import EXAMPLES

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests" / "tune_platform"
PAGES = ("from_ray_tune", "from_optuna")
MOST = 10


def text(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")


def changes(page: str) -> list[list[str]]:
    """Return the lines of each block that says what is changed."""
    return [block.splitlines() for block in re.findall(r"^```diff\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)]


def rows(page: str, head: str) -> list[list[str]]:
    """Return the cells of each row of the table whose head begins so."""
    lines = text(page).split(f"\n| {head} |", 1)[1].splitlines()[2:]
    table = lines[: next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


@pytest.mark.parametrize("page", PAGES)
def test_few_lines_are_changed(page: str) -> None:
    assert changes(page)
    for lines in changes(page):
        assert {line[:1] for line in lines if line} <= {"+", "-", " "}
        assert 0 < sum(line[0] in "+-" for line in lines if line) <= MOST


@pytest.mark.slow
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("page", PAGES)
def test_the_first_of_them_runs_before_and_after(page: str, side: str, tmp_path: Path) -> None:
    other = {"before": "+", "after": "-"}[side]
    script = "\n".join(line[1:] for line in changes(page)[0] if not line.startswith(other))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"RAY_ADDRESS": "local", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_example_has_a_row() -> None:
    found = {cells[0].strip("`").removesuffix(".py") for cells in rows("from_ray_tune", "example")}
    assert found == set(EXAMPLES)  # all of which run in ray_tune/test_ray_examples.py


def test_every_row_of_optunas_page_has_its_test() -> None:
    code = (TESTS / "integrations" / "test_optuna_objective.py").read_text(encoding="utf-8")
    names = re.findall(r"^def test_(\w+)", code, re.MULTILINE)
    for *_, test in rows("from_optuna", "with Optuna"):
        pattern = re.compile(test.strip("`").replace("...", ".*"))
        assert any(pattern.fullmatch(name) for name in names), test
