"""The long run with faults, in a very short form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import soak


def test_schedules_go_on_where_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[int] = []

    def play(kind: str, seed: int, *, cut: bool) -> None:
        played.append(seed)
        if seed == 5:
            raise AssertionError("stuck")

    monkeypatch.setattr(soak, "play", play)
    said: list[str] = []
    work = tmp_path / "progress.json"
    first = soak.schedules(8, work, said.append)
    assert first["found"] == [["hyperband", 5, "AssertionError: stuck"]]
    assert any("hyperband, seed 5: AssertionError: stuck" in line for line in said)
    again = soak.schedules(10, work, said.append)
    assert played == list(range(10))
    assert (again["schedules"], again["schedules_now"], again["found"]) == (10, 2, first["found"])
    assert json.loads(work.read_text())["next"] == 10
    assert soak.schedules(4, work, said.append)["schedules_now"] == 0


def test_a_few_schedules_of_each_scheduler_hold() -> None:
    found = soak.measure(soak.QUICK._replace(schedules=60), ["schedules"], None, print)
    assert found == {"violations": 0, "schedules": 60, "schedules_now": 60, "found": []}


@pytest.mark.slow
def test_a_simulated_search_survives_the_death_of_its_driver() -> None:
    found = soak.simulated(1_000, 100, 2, print)
    assert found["simulated_wrong"] == []
    assert found["simulated_kills"] == 2


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    soak.drive_simulated(str(tmp_path), 20, 4)
    assert soak._wrong(str(tmp_path), 20) == []
    assert soak._wrong(str(tmp_path), 21) == ["20 trials instead of 21"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_search_on_four_nodes_of_ray_in_little() -> None:
    found = soak.on_ray(100, 4, print)
    assert found["ray_wrong"] == []
    assert len(found["driver_mb"]) >= 3
