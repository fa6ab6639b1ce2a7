"""How peers are driven on the virtual clock, and how runs are ranked; the race itself is a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.search_quality import Run, drive, ranks
from tune_platform.curves.table import CurveTable
from tune_platform.space import Space, choice


class InTurn:
    """Tries the configs in turn, and stops those of x = 0 after a step."""

    def __init__(self) -> None:
        self.asked, self.ends = 0, list[tuple[int, int, bool]]()

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        self.asked += 1
        return self.asked, {"x": (self.asked - 1) % 2}

    def report(self, trial: int, step: int, value: float) -> bool:
        return trial % 2 == 0

    def done(self, trial: int, step: int, value: float, stopped: bool) -> None:
        self.ends.append((trial, step, stopped))


def test_a_peer_is_driven_by_the_seconds_of_the_table() -> None:
    table = CurveTable(
        space=Space({"x": choice([0, 1])}),
        metric="loss",
        mode="min",
        configs=[{"x": 0}, {"x": 1}],
        values={"loss": np.array([[5, 0], [4, 3]], dtype=np.float32)},
        seconds=np.array([[1, 1], [2, 2]], dtype=np.float32),
    )
    peer = InTurn()
    # Trials of one step of 1 second and of two steps of 2 seconds take turns on one worker.
    assert drive(peer, table, workers=1, seconds=10) == [(1, 5), (3, 4), (5, 3)]
    assert peer.ends == [(1, 1, True), (2, 2, False), (3, 1, True), (4, 2, False)]


def test_who_came_there_first_is_first_and_who_did_not_is_ranked_by_value() -> None:
    runs = {"a": Run(3.0, None, 0.1), "b": Run(None, None, 0.5), "c": Run(None, None, 0.4), "d": Run(3.0, 4.0, 0.2)}
    assert ranks(runs) == {"a": 1.5, "d": 1.5, "c": 3.0, "b": 4.0}
