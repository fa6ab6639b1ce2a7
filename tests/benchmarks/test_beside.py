"""What the benchmark of a page beside a run makes of its rounds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.beside import Found, Part, Used, found_in, told


def found(rate: float) -> Found:
    return Found(rate, 0.01, 0.02, 0.06, 1.0)


def test_a_part_has_what_was_done_and_used_in_it() -> None:
    part = Part(100.0, 110.0, 130.0, Used(50.0, 3.0, 4.0), Used(68.0, 4.0, 6.0))
    times = np.array([101.0, 102.0, 103.0, *np.linspace(110.0, 129.0, 40)])
    assert found_in(part, times, rate=2.0, alone=1.0) == pytest.approx((2.0, 18.0 / 40.0, 0.05, 0.1, 7.0))


def test_the_loss_is_that_within_the_rounds_with_its_interval() -> None:
    slow = {"alone": found(50.0), "watched": found(48.0), "asked": found(50.0)}
    fast = {"alone": found(100.0), "watched": found(98.0), "asked": found(99.0)}
    line = told([slow, fast, slow, fast])
    assert line["loss"] == pytest.approx(1 - (0.96 * 0.98) ** 0.5, abs=1e-4)
    assert line["loss_interval"][0] < line["loss"] < line["loss_interval"][1]
    assert line["ratios"] == [0.96, 0.98, 0.96, 0.98]
    assert (line["opening_s"], line["browser_cores"]) == (1.0, 0.06)


def test_one_round_has_no_interval() -> None:
    line = told([{kind: found(50.0) for kind in ("alone", "watched", "asked")}])
    assert json.loads(json.dumps(line, allow_nan=False))["loss_interval"] == [None, None]
