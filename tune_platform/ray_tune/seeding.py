"""Ray Tune's parts draw from the generators of the process, which are put to a seed of the search for each call."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np

from tune_platform.protocol.seeds import rng


@contextlib.contextmanager
def drawn_from(seed: int, number: int, purpose: str) -> Iterator[None]:
    """Have `random` and `numpy.random` draw from (seed, number, purpose) inside, and go on as before behind it."""
    before, numpy_before = random.getstate(), np.random.get_state()  # noqa: NPY002
    start = int(rng(seed, number, purpose).integers(2**32))
    random.seed(start)
    np.random.seed(start)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)  # noqa: NPY002
