"""What the benchmark of a page beside a run makes of its turns."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.beside import BLOCK, Block, Turn, Used, block_of, loss_of, told


def block(on: float, off: float) -> Block:
    return Block(on, off, 0.012, 0.01, 0.02, 0.06)


def test_a_block_has_what_was_done_and_used_in_its_turns() -> None:
    begins = np.array([100.0, 105.0, 110.0, 115.0])
    before = [Used(50.0 + at, 3.0, 4.0 + 2 * at) for at in range(5)]
    turns = [
        Turn(on, t, t + 4, before[at], before[at + 1]) for at, (on, t) in enumerate(zip(BLOCK, begins, strict=True))
    ]
    times = np.concatenate([t + np.linspace(0, 3.9, 10 if on else 20) for on, t in zip(BLOCK, begins, strict=True)])
    found = block_of(turns, np.append(times, [99.0, 104.5, 130.0]))
    assert found == pytest.approx((2.5, 5.0, 0.1, 0.05, 0.0, 0.5))
    with pytest.raises(SystemExit, match="longer --turn"):
        block_of(turns, np.array([100.5]))


def test_the_loss_is_that_within_the_blocks_with_its_interval() -> None:
    line = told([block(0.98 * rate, rate) for rate in (50.0, 60.0, 100.0)] + [block(96.0, 100.0)] * 3, [1.0, 3.0])
    assert line["loss"] == pytest.approx(1 - (0.96 * 0.98) ** 0.5, abs=1e-4)
    assert line["loss_interval"][0] < line["loss"] < line["loss_interval"][1]
    assert line["ratios"] == [0.98, 0.98, 0.98, 0.96, 0.96, 0.96]
    assert (line["opening_s"], line["browser_cores"]) == (2.0, 0.06)


def test_the_loss_has_two_parts() -> None:
    """The run has 1.2 times as much of a processor, each trial needs 1.25 times as much of it."""
    line = told([Block(0.96 * rate, rate, 0.0125, 0.01, 0.02, 0.06) for rate in (50.0, 60.0, 100.0)], [1.0])
    assert (line["loss"], line["less_running"]) == (pytest.approx(0.04), pytest.approx(-0.2))
    assert line["more_processor_time"] == pytest.approx(1 - 1 / 1.25)
    assert line["less_running_interval"] == [pytest.approx(-0.2)] * 2


def test_one_block_has_no_interval() -> None:
    line = told([block(50.0, 50.0)], [1.0])
    assert json.loads(json.dumps(line, allow_nan=False))["loss_interval"] == [None, None]


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_the_interval_covers_what_was_planted_as_often_as_it_says(loss: float) -> None:
    """The rates drift as a random walk within a run, and one block in ten is disturbed: 95 % of 800 intervals cover."""
    random = np.random.default_rng(0)
    inside = []
    for _ in range(800):
        rates = 60 * np.exp(np.cumsum(random.normal(0, 0.01, (24, 4)).ravel()).reshape(24, 4))
        rates *= np.where(np.array(BLOCK), 1 - loss, 1.0)
        rates *= np.where(random.random((24, 1)) < 0.1, random.uniform(0.7, 1.0, (24, 4)), 1.0)
        counts = random.poisson(5 * rates)
        found = loss_of([float((each[1] + each[2]) / (each[0] + each[3])) for each in counts])
        inside.append(found.low <= loss <= found.high)
    assert 0.92 <= np.mean(inside) <= 0.98
