import math

import numpy as np
import pytest
from scipy import stats as reference

from tune_platform.trainables.stats import equivalent, holm, mean_interval, paired_difference, paired_ratio


def test_interval_is_scipys() -> None:
    values = [1.0, 2.0, 4.0, 4.5]
    ours, theirs = mean_interval(values), reference.ttest_1samp(values, 0.0)
    low, high = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high, ours.p) == pytest.approx((low, high, theirs.pvalue))
    assert ours.mean == pytest.approx(2.875)
    assert ours.half == pytest.approx((high - low) / 2)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = [
        interval.low <= 3.0 <= interval.high
        for interval in (mean_interval(rng.normal(3.0, 2.0, 6).tolist()) for _ in range(2000))
    ]
    assert 0.93 < np.mean(covered) < 0.97


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    assert mean_interval([2.0]).mean == 2.0
    assert math.isnan(mean_interval([2.0]).low)
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="at least one finite number"):
            mean_interval(bad)


def test_pairs() -> None:
    a, b = [3.0, 5.0, 9.0], [1.0, 2.0, 5.0]
    assert paired_difference(a, b).mean == pytest.approx(3.0)
    ratio = paired_ratio(a, b)
    assert ratio.mean == pytest.approx((3.0 * 2.5 * 1.8) ** (1 / 3))
    assert ratio.low < ratio.mean < ratio.high
    with pytest.raises(ValueError, match="positive"):
        paired_ratio([1.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0], [1.0, 2.0])


def test_equivalence_needs_a_difference_that_is_small_and_known() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(0.97, 0.01, 16)
    near = base + rng.normal(0.0, 0.002, 16)
    assert equivalent(near.tolist(), base.tolist(), margin=0.005)[0]
    assert not equivalent((near + 0.006).tolist(), base.tolist(), margin=0.005)[0]
    noisy = base + rng.normal(0.0, 0.05, 16)
    assert not equivalent(noisy.tolist(), base.tolist(), margin=0.005)[0]
    with pytest.raises(ValueError, match="positive number"):
        equivalent([1.0, 2.0], [1.0, 2.0], margin=0.0)


def test_holm_against_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
