"""All generators of random draws, derived from (seed, number, purpose)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def rng(seed: int, number: int, purpose: str = "suggest") -> np.random.Generator:
    """Return the generator for one trial and one purpose: the same for the same arguments, always."""
    import numpy as np  # worker processes import this module, and few of them need numpy

    return np.random.default_rng([seed, number, *purpose.encode()])
