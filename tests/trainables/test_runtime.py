import pytest
import torch

from tune_platform.trainable import TrialContext
from tune_platform.trainables.runtime import autocast, generator, stream_seed, use_threads


def test_streams_differ_by_purpose_and_repeat_by_seed() -> None:
    seeds = {stream_seed(seed, purpose) for seed in range(50) for purpose in ("attack", "lipschitz")}
    assert len(seeds) == 100
    first, second = (torch.rand(3, generator=generator("cpu", 7, "attack", 2)) for _ in range(2))
    assert torch.equal(first, second)


def test_a_stream_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(5, generator=generator("cpu", 1, "probe"))
    assert torch.equal(before, torch.get_rng_state())


def test_autocast_computes_in_the_precision_that_is_asked_for() -> None:
    x, w = torch.ones(2, 2), torch.ones(2, 2)
    with autocast("cpu", "bfloat16"):
        assert (x @ w).dtype == torch.bfloat16
    with autocast("cpu", "float32"):
        assert (x @ w).dtype == torch.float32
    with pytest.raises(ValueError, match="precision is one of float32, bfloat16, float16, got 'fp8'"):
        autocast("cpu", "fp8")


def test_threads_are_those_of_the_lease() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(TrialContext(resources={"cpu": 3.0}))
        assert torch.get_num_threads() == 3
        use_threads(TrialContext(resources={"cpu": 0.5}))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
