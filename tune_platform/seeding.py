"""Independent streams of random numbers from one seed: a draw for one purpose changes none for another."""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, *purpose: str | int) -> int:
    """Return the seed of an independent stream: 63 bits of the BLAKE2 hash of seed and purpose."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
