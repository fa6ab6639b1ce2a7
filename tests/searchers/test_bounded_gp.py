"""Optuna's Gaussian process sees a bounded number of trials; and QMC says nothing of conditional parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from tune_platform.protocol.searcher import Outcome, PastTrial
from tune_platform.registry import make_searcher
from tune_platform.space import Space, choice, uniform, when

SPACE = Space({"x": uniform(0, 1), "y": uniform(0, 1)})


def outcome(value: float, status: str, config: dict[str, Any]) -> Outcome:
    return Outcome(status, value, 1, (value,), config, 1.0, ((1.0, value),))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_it_sees_the_best_the_newest_and_others_of_all_ranks(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = make_searcher("gp")
    searcher.setup(SPACE, mode=[mode], seed=0)
    generator = np.random.default_rng(0)
    values = generator.permutation(1000) / 1000.0
    past = []
    for number, value in enumerate(values):
        config, status = SPACE.sample(generator), "stopped" if number % 4 else "completed"
        past.append(PastTrial(number, config, None, outcome(float(value), status, config)))
    searcher.restore(past)
    seen: list[set[float]] = []

    def watched(self: Any, study: Any, trial: Any, space: Any) -> dict[str, Any]:
        seen.append({one.value for one in study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,))})
        return {"x": 0.5, "y": 0.5}

    monkeypatch.setattr(optuna.samplers.GPSampler, "sample_relative", watched)
    assert searcher.ask(1000) is not None
    completed = [float(value) for value in values[::4]]
    assert 60 <= len(seen[0]) <= 80
    assert set(sorted(completed, reverse=mode == "max")[:20]) <= seen[0]
    assert set(completed[-20:]) <= seen[0]
    assert (max if mode == "min" else min)(completed) in seen[0]  # the worst is one of the spread


def test_qmc_is_silent_about_conditional_parameters(capfd: pytest.CaptureFixture[str]) -> None:
    searcher = make_searcher("qmc")
    searcher.setup(Space({"k": choice(["a", "b"]), "m": when(uniform(0, 1), {"k": "a"})}), mode=["min"], seed=0)
    for number in range(6):
        assert searcher.ask(number) is not None
    assert capfd.readouterr().err == ""
