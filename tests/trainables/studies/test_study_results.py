"""The package that all studies share: what is there is not measured again, and tables find their place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tune_platform.trainables.studies.results import Results, measure
from tune_platform.trainables.studies.tables import markdown, put_into


def doubled(job: Any) -> dict[str, Any]:
    if job["x"] == 13:
        raise RuntimeError("unlucky")
    return {"y": 2 * job["x"], "odd": math.nan, "far": math.inf, "trace": [1 / 3]}


def jobs(*values: int) -> list[dict[str, Any]]:
    return [{"task": "a", "x": x, "seed": x} for x in values]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_there_is_not_measured_again(tmp_path: Path, processes: int) -> None:
    path, said = tmp_path / "deep" / "results.jsonl", list[str]()
    measure(jobs(2, 1), doubled, Results(path), processes=processes, say=said.append)
    before = path.read_text()
    measure(jobs(1, 2, 3), doubled, Results(path), processes=processes, say=said.append)
    after = Results(path)
    assert path.read_text().startswith(before)
    assert len(path.read_text().splitlines()) == 3
    assert [(row["x"], row["y"]) for row in after.rows(task="a")] == [(1, 2), (2, 4), (3, 6)]
    assert "2 of 3 are there already" in said
    found = after.found(jobs(1)[0])
    assert math.isnan(found.pop("odd"))
    assert found == {"y": 2, "trace": [0.333333], "far": math.inf}


def test_other_inputs_are_another_measurement(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    results.add({"x": 1, "config": {"lr": 0.1, "sizes": (1, 2)}}, {"y": 1})
    assert {"config": {"sizes": [1, 2], "lr": 0.1}, "x": 1} in results
    assert {"x": 1, "config": {"lr": 0.2, "sizes": (1, 2)}} not in results
    with pytest.raises(KeyError):
        results.found({"x": 2})


def test_an_error_keeps_what_was_done_before_it(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(RuntimeError, match="unlucky"):
        measure(jobs(1, 13, 2), doubled, Results(path), say=lambda text: None)
    assert [row["x"] for row in Results(path).rows()] == [1]


def test_half_a_line_of_a_killed_study_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Results(path).add({"x": 1}, {"y": 2})
    path.write_text(path.read_text() + '{"inputs": {"x": 2}, "fou')
    results = Results(path)
    assert len(results) == 1
    results.add({"x": 2}, {"y": 4})
    assert [row["y"] for row in Results(path).rows()] == [2, 4]


def test_tables_find_their_place_in_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- b -->\nafter\n")
    text = markdown(["name", "value"], [["long name", 1], ["x", 22]])
    put_into(page, ("<!-- a -->", "<!-- b -->"), text)
    put_into(page, ("<!-- a -->", "<!-- b -->"), text)
    assert page.read_text() == f"before\n<!-- a -->\n\n{text}\n\n<!-- b -->\nafter\n"
    assert {len(line) for line in text.splitlines()} == {21}
    with pytest.raises(ValueError, match="no place for tables"):
        put_into(page, ("<!-- c -->", "<!-- b -->"), text)
