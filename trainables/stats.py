"""Intervals and tests for studies over seeds: paired where the seeds are, two-sided, with the Student t.

A study states its claim as one of three kinds: *superiority* (an interval of the paired difference or ratio
that leaves out zero or one), *equivalence* (two one-sided tests against a margin that is stated beforehand), or
*exact* (no statistics). `holm` corrects a table of several claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tune_platform.extras import require

require("an interval or a test", "scipy")

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """An estimate with its confidence interval and the two-sided p-value against no effect."""

    mean: float
    low: float
    high: float
    p: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean of `values` with its t interval; `p` is against a mean of zero. One value: no interval (NaN)."""
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"an interval takes at least one finite number, got {list(values)!r}")
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, float("nan"), float("nan"), float("nan"), 1)
    error = float(x.std(ddof=1) / np.sqrt(len(x)))
    if error == 0:
        return Interval(mean, mean, mean, 1.0 if mean == 0 else 0.0, len(x))
    reach = float(stats.t.ppf(0.5 + level / 2, len(x) - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, len(x) - 1))
    return Interval(mean, mean - reach, mean + reach, p, len(x))


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean of a - b over paired seeds, with its t interval. Raises ValueError for unequal lengths."""
    return mean_interval([x - y for x, y in zip(a, b, strict=True)], level)


def paired_ratio(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """Return the geometric mean of a / b over paired seeds, with the t interval of its logarithm."""
    if min(*a, *b) <= 0:
        raise ValueError("a ratio takes positive values")
    logs = mean_interval([float(np.log(x / y)) for x, y in zip(a, b, strict=True)], level)
    mean, low, high = (float(np.exp(value)) for value in logs[:3])
    return Interval(mean, low, high, logs.p, logs.n)


def equivalent(a: Sequence[float], b: Sequence[float], margin: float, alpha: float = 0.05) -> tuple[bool, float]:
    """Return whether the mean of a - b lies within +-margin by two one-sided t tests, and the larger p-value."""
    if margin <= 0:
        raise ValueError(f"the margin is a positive number, got {margin!r}")
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    n = len(difference)
    error = float(difference.std(ddof=1) / np.sqrt(n))
    mean = float(difference.mean())
    if error == 0:
        return abs(mean) < margin, float(abs(mean) >= margin)
    p = max(float(stats.t.sf((mean + margin) / error, n - 1)), float(stats.t.cdf((mean - margin) / error, n - 1)))
    return p < alpha, p


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for the number of tests by Holm's step-down rule, in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(scaled, 1.0)
    return [float(value) for value in corrected]
