"""The benchmark that kills parts of a running search, in its short form."""

from __future__ import annotations

import pytest

from benchmarks import faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_search_survives_a_kill_of_each_kind_with_its_store_whole() -> None:
    said: list[str] = []
    found = faults.measure({"driver": 1, "worker": 1, "raylet": 1, "node": 1}, 1, said.append)
    assert found["what"] == []
    assert (found["kills"], found["violations"], len(said)) == (4, 0, 4)
    assert found["recovery_median_s"] > 0


def test_kills_are_divided_among_the_searches() -> None:
    parts = {kind: [faults._part(kind, name, 5) for name in faults.SEARCHES] for kind in ("worker", "rank")}
    assert parts == {"worker": [2, 2, 1], "rank": [0, 0, 5]}
