"""A searcher that learns, under a scheduler that pauses: what is paused must count for something."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tune_platform import ASHA, Budget, SearchSpec, run, uniform
from tune_platform.backends.simulated import SimulatedBackend

NAMES = ("a", "b", "c", "d")
#: Virtual seconds, one for each step on each of the four workers.
TIME = 150.0


def bowl(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    """A quadratic bowl, approached as 1/step."""
    return {"loss": sum((config[name] - 0.3) ** 2 for name in NAMES) + 1 / step} if step <= 27 else None


@pytest.mark.parametrize("seed", range(4))
def test_tpe_beats_random_search_under_promotion_asha(tmp_path: Path, seed: int) -> None:
    """Promotion ends few trials, so a searcher that hears only of those would be left guessing."""

    def best(searcher: str) -> float:
        spec = SearchSpec(
            name=searcher, trainable="benchmarks.null:simulated", metric="loss", mode="min",
            param_space={name: uniform(0, 1) for name in NAMES}, searcher=searcher, num_samples=-1,
            scheduler=ASHA(min=1, max=27, eta=3, type="promotion"),
            budget=Budget(time=TIME), seed=seed, backend=SimulatedBackend(bowl, workers=4), storage=str(tmp_path),
        )  # fmt: skip
        found = run(spec).best().best
        assert found is not None
        return found

    assert best("tpe") < best("random")
