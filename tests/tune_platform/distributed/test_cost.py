from __future__ import annotations

from pathlib import Path

import pytest

from tests.tune_platform.distributed.recipes import Recipe
from trainables.strategies import STRATEGIES
from tune_platform import Resources, SearchSpec, run
from tune_platform.backends.simulated import SimulatedBackend
from tune_platform.distributed.cost import StepCost

N = 1_000_000


def test_bytes_and_seconds_are_those_of_the_formulas() -> None:
    cost = StepCost(STRATEGIES, parameters=N, workers=4, compute_s=0.5, bytes_per_s=1e6, steps=10)
    assert cost.bytes_per_step({"strategy": "all_reduce"}) == 8 * N * 3
    assert cost({"strategy": "all_reduce"}, 1) == pytest.approx(10 * (0.5 + 6.0))
    local = {"strategy": {"name": "local_sgd", "period": 8}}
    assert cost.bytes_per_step(local) == pytest.approx(8 * N * 3 / 8)
    assert cost({}, 1) == pytest.approx(5.0)  # independent workers send nothing
    by_config = StepCost(STRATEGIES, parameters=N, workers=lambda config: int(config["workers"]))
    assert by_config.bytes_per_step({"strategy": "all_reduce", "workers": 2}) == 8 * N


def test_gangs_on_the_simulated_backend_take_the_time_of_their_strategy(tmp_path: Path) -> None:
    cost = StepCost(STRATEGIES, parameters=N, workers=2, compute_s=1.0, bytes_per_s=1e6)
    spec = SearchSpec(
        trainable=Recipe,
        param_space={"strategy": {"name": "local_sgd", "period": 4}},
        metric="loss",
        mode="min",
        num_samples=2,
        storage=str(tmp_path),
        resources=Resources(cpu=1, workers=2),
        backend=SimulatedBackend(
            lambda config, step: {"loss": 1.0 / step} if step <= 5 else None, workers=2, step_time=cost
        ),
    )
    results = run(spec)
    durations = [trial.duration for trial in results.trials()]
    assert durations == pytest.approx([5 * (1.0 + 1.0)] * 2, abs=2.1)  # one after the other: two CPUs, two each
