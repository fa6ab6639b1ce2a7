"""All random draws, derived from the search's seed and what they are for: none changes one for another purpose."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def derive(seed: int, *keys: str | int) -> int:
    """Return the seed of an independent stream, 0 ... 2**64 - 1: the BLAKE2 hash of `seed` and `keys`, always the same.

    The keys say what the stream is for; they are told apart as text between slashes, so ("a/b",) is ("a", "b").
    """
    text = "/".join(map(str, (seed, *keys)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def rng(seed: int, number: int, purpose: str = "suggest") -> np.random.Generator:
    """Return the generator for one trial and one purpose: the same for the same arguments, always."""
    import numpy as np  # worker processes import this module, and few of them need numpy

    return np.random.default_rng(derive(seed, purpose, number))
