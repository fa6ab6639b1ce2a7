"""The benchmark that kills parts of a running search, in its short form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.faults import __main__ as faults
from benchmarks.faults.record import Record
from benchmarks.faults.search import SEARCHES


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_survives_a_kill_of_each_kind_with_its_store_whole() -> None:
    said: list[str] = []
    folder = os.environ["RAY_TMPDIR"]
    found = faults.measure({"driver": 1, "worker": 1, "raylet": 1, "node": 1, "gcs_back": 1}, 1, said.append)
    assert found["what"] == []
    assert (found["kills"], found["violations"], len(said)) == (5, 0, 5)
    assert found["recovery_median_s"] > 0
    left = [name for name in os.environ if name.startswith("RAY_gcs")]
    assert (left, os.environ["RAY_TMPDIR"]) == ([], folder), "a Ray that is started here later would take them over"


def test_kills_are_divided_among_the_searches() -> None:
    parts = {kind: [faults._part(kind, name, 5) for name in SEARCHES] for kind in ("worker", "rank")}
    assert parts == {"worker": [2, 2, 1], "rank": [0, 0, 5]}


def test_kills_that_the_record_has_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scene is a stand-in: its second kill of a worker goes wrong."""
    made: list[str] = []

    class Stand:
        def __init__(self, name: str, folder: Path) -> None:
            self.name = name

        def until(self, what: str, happened: object) -> float:
            return 0.0

        def revive(self) -> None:
            made.append("revived")

        def end(self) -> list[str]:
            return []

    def kill(scene: object, kind: str, draw: object) -> float:
        made.append(kind)
        if made.count("worker") == 2:
            raise RuntimeError("nobody went on")
        return float(len(made))

    monkeypatch.setattr(faults, "Scene", Stand)
    monkeypatch.setattr(faults, "kill", kill)
    monkeypatch.setattr(faults, "violations", lambda scene: [])
    monkeypatch.setattr(faults, "SEARCHES", {"asha": {}})
    path = tmp_path / "kills.jsonl"
    first = faults.measure({"worker": 2}, 1, print, record=Record(path))
    assert made == ["worker", "worker", "revived"]
    assert (first["kills"], first["violations"], first["recovery_median_s"]) == (2, 1, 1.0)
    assert first["what"] == ["asha, worker: RuntimeError: nobody went on"]
    again = faults.measure({"worker": 3, "node": 1}, 1, print, record=Record(path))
    assert sorted(made[3:]) == ["node", "worker"]
    assert again["kills_by_kind"] == {"worker": 3, "node": 1}
    assert again["violations"] == 1
    late = faults.measure({"worker": 9}, 1, print, seconds_left=0.0, record=Record(path))
    assert (late["kills"], late["left_out"]) == (3, 6)
