"""The interval that `benchmarks/ray_tune.py` gives holds the median as often as it says."""

from __future__ import annotations

import math

import pytest

from benchmarks.ray_tune import interval


@pytest.mark.parametrize("count", [7, 8, 15, 40])
def test_it_holds_the_median_in_95_of_100_cases_and_no_wider_one_is_given(count: int) -> None:
    low, high = interval([float(value) for value in range(count)][::-1])
    assert low + high == count - 1  # as many are left out below as above

    def outside(left_out: float) -> float:
        # The median is not within where at most `left_out` of the values lie on one side of it.
        cases: int = sum(math.comb(count, below) for below in range(int(left_out) + 1))
        return 2.0 * cases / float(2**count)

    assert outside(low) <= 0.05 < outside(low + 1)


def test_too_few_values_give_their_ends() -> None:
    assert interval([3.0, 1.0, 2.0]) == [1.0, 3.0]
