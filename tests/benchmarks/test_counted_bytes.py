"""The communication figures of docs/performance.md, counted and by formula."""

from __future__ import annotations

import pytest

from benchmarks.counted_bytes import measure_bytes


@pytest.mark.parametrize(
    ("strategy", "updates"),
    [
        ({"name": "all_reduce"}, 2),
        ({"name": "local_sgd", "period": 4}, 8),
        ({"name": "diloco", "period": 4}, 8),
        ({"name": "lsgd", "period": 8}, 16),
        ({"name": "easgd", "period": 4}, 16),
    ],
)
@pytest.mark.parametrize("workers", [2, 4])
def test_counted_bytes_are_the_formulas_within_one_per_cent(
    strategy: dict[str, object], updates: int, workers: int
) -> None:
    counted, formula = measure_bytes(strategy, updates, workers)
    assert counted == pytest.approx(formula, rel=0.01)
    assert counted > 0


def test_lsgd_sends_at_most_a_hundredth_of_all_reduce() -> None:
    pulled, _ = measure_bytes({"name": "lsgd", "period": 64}, 64)
    reduced, _ = measure_bytes({"name": "all_reduce"}, 2)
    assert pulled / reduced <= 0.01
