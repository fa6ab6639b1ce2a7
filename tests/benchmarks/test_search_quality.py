"""How peers are driven on the virtual clock, and how runs are ranked; the race itself is a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from benchmarks.search_peers import drive, random_draws
from benchmarks.search_quality import DEFAULT, Race, Run, goals, own_seconds, ranks, to_best_peer, to_default
from tune_platform.curves.table import CurveTable
from tune_platform.registry import make_searcher
from tune_platform.space import Space, choice, uniform


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


def two_rows(mode: str = "min") -> CurveTable:
    return CurveTable(
        space=Space({"x": choice([0, 1])}),
        metric="loss",
        mode=mode,
        configs=[{"x": 0}, {"x": 1}],
        values={"loss": np.array([[5, 0], [4, 3]], dtype=np.float32)},
        seconds=np.array([[1, 1], [2, 2]], dtype=np.float32),
    )


def test_a_peer_is_driven_by_the_seconds_of_the_table() -> None:
    table, peer = two_rows(), InTurn()
    # Trials of one step of 1 second and of two steps of 2 seconds take turns on one worker.
    assert drive(peer, table, workers=1, seconds=10) == [(1, 5), (3, 4), (5, 3)]
    assert peer.ends == [(1, 1, True), (2, 2, False), (3, 1, True), (4, 2, False)]


def test_who_came_there_first_is_first_and_who_did_not_is_ranked_by_value() -> None:
    runs = {"a": Run(3.0, None, 0.1), "b": Run(None, None, 0.5), "c": Run(None, None, 0.4), "d": Run(3.0, 4.0, 0.2)}
    assert ranks(runs) == {"a": 1.5, "d": 1.5, "c": 3.0, "b": 4.0}


def test_a_peer_ends_at_the_goal() -> None:
    assert drive(InTurn(), two_rows(), workers=1, seconds=10, goal=4.0) == [(1, 5), (3, 4)]
    assert drive(InTurn(), two_rows("max"), workers=1, seconds=10, goal=5.0) == [(1, 5)]


def test_a_goal_is_the_best_step_of_the_best_configs_and_less_is_better() -> None:
    assert goals(two_rows()) == (3, 3)  # of two configs the best 1 % is the next one up, as no value lies between
    assert goals(two_rows("max")) == (-4, -4)


def test_a_config_needs_its_own_seconds_to_the_goal() -> None:
    assert own_seconds(two_rows()) == 3  # 0 after two steps of 1 second, 3 after two of 2 seconds
    assert own_seconds(two_rows("max")) == 1.5  # 5 after a step of 1 second, 4 after one of 2 seconds


def test_peers_that_draw_at_random_have_the_draws_of_our_random_search() -> None:
    table = CurveTable(
        space=Space({"x": uniform(0, 1)}), metric="loss", mode="min", configs=[{"x": 0.5}],
        values={"loss": np.ones((1, 1), dtype=np.float32)}, seconds=np.ones((1, 1), dtype=np.float32),
    )  # fmt: skip
    searcher = make_searcher("random")
    searcher.setup(table.space, mode=["min"], seed=3)
    draw = random_draws(table, 3)
    wanted = [found.config for number in range(5) if (found := searcher.ask(number))]
    assert [draw() for _ in range(5)] == wanted


def test_the_best_peer_is_that_of_the_least_median_time() -> None:
    slow, fast = "Ray Tune: ASHA, random", "Optuna: TPE, median"
    races = [
        Race("t", 8, seed, 10.0, {DEFAULT: Run(3.0, None, 0.0), slow: Run(5.0 + seed, None, 0.0), fast: late})
        for seed, late in enumerate([Run(4.0, None, 0.0), Run(4.0, None, 0.0), Run(None, None, 9.0)])
    ]
    ratio, low, high = to_best_peer(races)
    assert ratio == pytest.approx(0.75)
    assert low <= ratio <= high


def test_a_pairing_is_compared_with_the_default_by_the_geometric_mean_over_tables() -> None:
    def races(table: str, times: float) -> list[Race]:
        return [
            Race(table, 8, seed, 10.0, {DEFAULT: Run(1.0, None, 0.0), "other, asha": Run(times, None, 0.0)})
            for seed in range(3)
        ]

    assert to_default([*races("t", 4.0), *races("u", 1.0)], "other, asha") == pytest.approx((2.0, 2.0, 2.0))
