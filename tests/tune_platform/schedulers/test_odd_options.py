"""Whatever stands in an option of a scheduler, it is either taken or refused at once, by the option's name."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import numpy as np
import pytest

from tests.tune_platform.schedulers.test_bad_metric_everywhere import OPTIONS
from tune_platform.errors import SpecError
from tune_platform.registry import SCHEDULERS

ODD: list[Any] = [
    None, True, False, 0, -1, -0.5, 0.3, 1, 2, 1.5, 1.0000001, 10**6, 1e9, 1e12, 1e30, 1e308, 1e-308, 10**100,
    math.nan, math.inf, -math.inf, "", "3", [], [1], [1, 2], [0], [math.nan], [math.inf], [True], {}, {"x": 1}, {1: 2},
    b"x", 1j, (1, 3), object(), range(1, 3), np.array([1.2, 0.8]), np.int64(3), np.float64(0.3), np.bool_(True),
]  # fmt: skip
GIVEN = {**OPTIONS, "replay": {"policy": [{"from": 0, "config": {"x": 1}}]}}
CASES = [(name, option) for name in GIVEN for option in inspect.signature(SCHEDULERS.factory(name)).parameters]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "option"), CASES)
def test_an_odd_value_is_taken_or_refused_by_name(name: str, option: str) -> None:
    refused = []
    for value in ODD:
        try:
            scheduler = SCHEDULERS.build(name, **{**GIVEN[name], option: value})
        except SpecError as error:
            refused.append(str(error))
            continue
        for told in ("forecast", "outline"):  # what `check` prints
            if hasattr(scheduler, told):
                getattr(scheduler, told)(100)
        if hasattr(scheduler, "to_spec"):  # what is stored
            again = json.loads(json.dumps(scheduler.to_spec()))
            SCHEDULERS.build(again.pop("name"), **again)
    for said in refused:
        assert said.startswith(f"{name}: "), said
        assert option in said, said
        assert "not supported between" not in said, "it says what is allowed, not where Python gave up"
        assert len(said) < 400


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("freeze_thaw", {"max": 10**9}, r"interval 1 makes 1000000000 slices up to max 1e\+09"),
        ("hyperband", {"max": 9, "eta": 1.0001}, "hyperband: eta .* from 1.01 on, got 1.0001"),
        ("async_hyperband", {"min": 0}, "async_hyperband: min .* must be above 0, got 0"),
        ("asha", {"max": 1e19}, r"asha: max must be at most 1e\+18"),
        ("asha", {"min": 1e-10}, "asha: min must be at least 1e-09"),
        ("successive_halving", {"max": 1}, r"max must be above min \(1\), got 1"),
        ("median", {"grace": None}, "median: grace must be a number, got None"),
        ("pbt", {"interval": 1, "factors": [math.inf]}, "factors must be numbers above 0"),
    ],
)
def test_what_would_never_come_to_an_end_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        SCHEDULERS.build(name, **options)
