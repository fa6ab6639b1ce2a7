from __future__ import annotations

from pathlib import Path

import pytest

from tests.tune_platform.distributed.recipes import Recipe
from tune_platform import Resources, SearchSpec, run
from tune_platform.backends.simulated import SimulatedBackend
from tune_platform.distributed.cost import StepCost
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies import STRATEGIES

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


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_has_a_price_at_its_defaults(name: str) -> None:
    cost = StepCost(STRATEGIES, parameters=N, workers=4, updates=1000)
    assert (cost.bytes_per_step({"strategy": name}) > 0) == (name != "independent")


@pytest.mark.parametrize("name", ["local_sgd", "post_local_sgd", "slowmo", "diloco", "easgd", "downpour", "lsgd"])
@pytest.mark.parametrize(("share", "steps"), [(0.01, 4), (0.0001, 1)])
def test_a_share_of_the_training_costs_what_its_steps_cost(name: str, share: float, steps: int) -> None:
    def config(period: float) -> dict[str, object]:
        return {"strategy": {"name": name, "period": period}}

    cost = StepCost(STRATEGIES, parameters=N, workers=4, updates=350)  # 3.5 steps are rounded as a training does it
    assert cost.bytes_per_step(config(share)) == cost.bytes_per_step(config(steps))
    own = StepCost(STRATEGIES, parameters=N, workers=4)
    assert own.bytes_per_step({**config(share), "updates": 350}) == cost.bytes_per_step(config(steps))
    with pytest.raises(SpecError, match=r"depend on 'updates', .*give updates, .*StepCost\(\.\.\., updates=\.\.\.\)"):
        own.bytes_per_step(config(share))


def test_two_periods_that_are_shares_are_rounded_together() -> None:
    cost = StepCost(STRATEGIES, parameters=N, workers=4, updates=350)
    shares = {"name": "lsgd", "period": 0.01, "global_period": 0.02, "group_size": 2}
    steps = {**shares, "period": 4, "global_period": 8}
    assert cost.bytes_per_step({"strategy": shares}) == cost.bytes_per_step({"strategy": steps})


def test_codistillation_costs_copies_every_period_or_logits_at_each_step() -> None:
    cost = StepCost(STRATEGIES, parameters=N, workers=2, updates=5000, logits=320)
    assert cost.bytes_per_step({"strategy": "codistillation"}) == pytest.approx(2 * 4 * N / 50)
    predictions = {"strategy": {"name": "codistillation", "exchange": "predictions"}}
    assert cost.bytes_per_step(predictions) == 2 * 4 * 320
    with pytest.raises(SpecError, match=r"'codistillation': .* depend on 'updates', .*give updates"):
        StepCost(STRATEGIES, parameters=N)({"strategy": "codistillation"}, 1)
    with pytest.raises(SpecError, match=r"'codistillation': .* depend on 'logits', .*give logits"):
        StepCost(STRATEGIES, parameters=N, updates=5000)(predictions, 1)


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
