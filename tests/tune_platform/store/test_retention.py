from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_platform.engine.retention import retention
from tune_platform.errors import SpecError

LIST = [(1, 0.5), (2, 0.1), (3, None), (4, 0.9), (5, math.nan)]


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "mode", "dropped"),
    [
        (None, None, "min", []),
        (2, None, "min", [1, 2, 3]),
        (None, 1, "min", [1, 3, 4]),
        (None, 1, "max", [1, 2, 3]),
        (1, 2, "min", [3, 4]),
        (0, 0, "min", [1, 2, 3, 4]),
        (9, None, "min", []),
        (None, 9, "min", [3]),
    ],
)
def test_what_is_dropped(
    keep_last: int | None, keep_best: int | None, mode: Literal["min", "max"], dropped: list[int]
) -> None:
    assert retention(list(reversed(LIST)), keep_last, keep_best, mode) == dropped


def test_of_equal_values_the_newer_stays() -> None:
    assert retention([(1, 0.5), (2, 0.5), (3, 0.7)], None, 1, "min") == [1]
    assert retention([], 1, 1, "max") == []


def test_mistakes_are_named() -> None:
    with pytest.raises(SpecError, match="keep_last must be None"):
        retention(LIST, -1, None, "min")
    with pytest.raises(SpecError, match="mode must be 'min' or 'max'"):
        retention(LIST, 1, None, "best")  # type: ignore[arg-type]


COUNT = st.none() | st.integers(0, 5)


@given(
    st.dictionaries(st.integers(0, 50), st.none() | st.floats()),
    COUNT,
    COUNT,
    st.sampled_from(["min", "max"]),
)
def test_always(
    values: dict[int, float | None], keep_last: int | None, keep_best: int | None, mode: Literal["min", "max"]
) -> None:
    dropped = retention(list(values.items()), keep_last, keep_best, mode)
    kept = [step for step in values if step not in dropped]
    assert dropped == sorted(set(dropped) & set(values))
    if values:
        assert max(values) in kept
        assert len(kept) >= min(len(values), keep_last or 0)
    if keep_last is not None or keep_best is not None:
        assert len(kept) <= max(1, keep_last or 0) + (keep_best or 0)
