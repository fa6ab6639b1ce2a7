"""One derivation of all seeds: the same for ever, 64 bits, and no two alike."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np

from tune_platform.protocol.seeds import derive, rng


def test_a_seed_is_the_same_for_ever() -> None:
    assert derive(0) == 9523843951405948789
    assert derive(7, "trial", 3) == 5935294677521535344
    assert rng(7, 3).integers(1 << 30) == 15747557


def test_seeds_differ_and_use_all_bits() -> None:
    seeds = [derive(seed, "trial", trial) for seed in range(50) for trial in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 64 for seed in seeds)
    ones = [sum(seed >> bit & 1 for seed in seeds) / len(seeds) for bit in range(64)]
    assert 0.47 < min(ones) <= max(ones) < 0.53
    assert len({derive(1, "a"), derive(1, "b"), derive(1, "a", 0), derive(2, "a"), derive(-1, "a")}) == 5


def test_a_purpose_has_draws_of_its_own() -> None:
    draws = [rng(seed, number, purpose).random() for seed in range(5) for number in range(5) for purpose in "ab"]
    assert len(set(draws)) == 50


def test_generators_take_64_bits() -> None:
    largest = (1 << 64) - 1
    random.Random(largest)
    np.random.default_rng(largest)
    np.random.RandomState(largest % 2**32)


def test_deriving_needs_no_numpy() -> None:
    code = "import sys, tune_platform.protocol.seeds as s; s.derive(1, 'a'); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
