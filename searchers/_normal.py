"""The normal distribution in NumPy, for models: scores of ranks, and the expected improvement."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from tune_platform.space.encoding import Floats

_erf = np.vectorize(math.erf, otypes=[np.float64])
_quantile = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])


def normal_scores(values: Floats) -> Floats:
    """Return the normal quantiles of the ranks of values, (n,): what is left of them is their order; ties are equal.

    Quantile transform of Salinas, Shen and Perrone (ICML 2020, section 3).
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    scores: Floats = _quantile(middle / len(values))[place]
    return scores


def improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Return the expected improvement below `best` of values that are normally distributed, (n,)."""
    z = (best - mean) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    found: Floats = (best - mean) * 0.5 * (1 + _erf(z / math.sqrt(2))) + deviation * density
    return found


def normal_mass(low: float, high: float) -> float:
    """Return the share of a standard normal distribution between two values."""
    return (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
