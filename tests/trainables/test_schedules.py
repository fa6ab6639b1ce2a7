"""How rates go over the steps of a training."""

from __future__ import annotations

import math

import pytest

from tune_platform.trainables.schedules import SCHEDULES, rate_factor


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_rate_is_never_above_its_peak_nor_below_zero(schedule: str) -> None:
    for warmup in (0.0, 0.25):
        rates = [rate_factor(schedule, step, 40, warmup) for step in range(41)]
        assert max(rates) == pytest.approx(1, abs=1e-9)
        assert min(rates) >= 0


def test_each_goes_as_it_is_said() -> None:
    assert [rate_factor("constant", step, 8, 0.5) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [rate_factor("step", step, 8) for step in (3, 4, 5, 6)] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert [rate_factor("constant", step, 8, drops=[0.25]) for step in (1, 2)] == pytest.approx([1, 0.1])
    assert rate_factor("cosine", 5, 8, 0.25) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert rate_factor("cosine", 8, 8) == pytest.approx(0)
    assert rate_factor("one_cycle", 0, 1000) == pytest.approx(0.04 + 0.96 / 300)
    assert rate_factor("one_cycle", 0, 1000, 0.5) == pytest.approx(0.04 + 0.96 / 500)
    assert rate_factor("one_cycle", 650, 1000) == pytest.approx(0.5)
