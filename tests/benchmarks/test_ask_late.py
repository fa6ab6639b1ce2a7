"""The figures of the benchmark are what it says that they are."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ask_late import measure, ratio_of_medians, valley


def test_the_valley() -> None:
    assert valley({"w": 1.0, "x": 1.0, "y": 1.0, "z": 1.0}, 1) == {"loss": 0.0}
    assert valley({"w": -1.0, "x": 2.0}, 1) == {"loss": 4.0 + 100.0}
    assert valley({"w": 1.0, "x": 1.0}, 2) is None


def test_the_ratio_and_its_interval() -> None:
    none = np.exp(np.random.default_rng(0).normal(size=400))
    ratio, low, high = ratio_of_medians(list(3 * none), list(none), draws=500)
    assert [ratio, low, high] == pytest.approx([3.0, 3.0, 3.0])  # seed by seed the same
    other = np.exp(np.random.default_rng(1).normal(size=400))
    ratio, low, high = ratio_of_medians(list(2 * other), list(none), draws=500)
    assert 1.5 < low < ratio < high < 2.7


def test_one_that_does_not_learn_loses_nothing() -> None:
    for row in measure("random", 2, 16, 2).values():
        assert row["ratio"] == row["low"] == row["high"] == 1.0
