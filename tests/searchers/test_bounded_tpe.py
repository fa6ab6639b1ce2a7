"""TPE is fitted to a bounded set of trials: the best, and an even choice of the others."""

from __future__ import annotations

import pytest

pytest.importorskip("optuna")

from optuna.samplers._tpe.sampler import _split_trials
from optuna.study import create_study
from optuna.trial import FrozenTrial, TrialState

from tune_platform.protocol.searcher import Outcome
from tune_platform.registry import make_searcher
from tune_platform.searchers._optuna_study import Judged, Storage, frozen_trial, step_of
from tune_platform.space import Space, uniform


def trials(count: int) -> list[FrozenTrial]:
    """Completed, pruned, running, and pruned without a value, in turns; their values have no order."""
    found = []
    for number in range(count):
        value = float(number * 7919 % 1009)
        judged = (
            Judged(TrialState.COMPLETE, [value]),
            Judged(TrialState.PRUNED, [value], {step_of(1 + number % 3): value}),
            Judged(TrialState.PRUNED),
            Judged(TrialState.RUNNING),
        )[number % 4]
        trial = frozen_trial(judged)
        trial.number = number
        found.append(trial)
    return found


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_good_ones_are_those_that_optuna_would_take_of_all(mode: str) -> None:
    everything = trials(1200)
    storage = Storage(100, 1 if mode == "min" else -1)
    study = create_study(storage=storage, direction="minimize" if mode == "min" else "maximize")
    for trial in trials(1200):
        storage.add(study._study_id, trial)
    kept = study.get_trials(deepcopy=False)
    finished = [t for t in kept if t.state is not TrialState.RUNNING]
    assert len(finished) == 100
    assert len(kept) - len(finished) == 300, "those that run are all there"
    assert [t.number for t in kept] == sorted(t.number for t in kept)
    best = [
        {t.number for t in _split_trials(study, [t for t in each if t.state is not TrialState.RUNNING], 25)[0]}
        for each in (everything, kept)
    ]
    assert best[0] == best[1]


def test_tpe_is_shown_no_more() -> None:
    searcher = make_searcher("tpe")
    searcher.setup(Space({"x": uniform(0, 1)}), mode=["min"], seed=0)
    for number in range(800):
        x = number / 800
        searcher.observe(number, {"x": x})
        searcher.tell(number, Outcome("completed", abs(x - 0.3), 1, (abs(x - 0.3),), {"x": x}, 1.0, ((1.0, x),)))
    near = [found.config["x"] for number in range(10) if (found := searcher.ask(800 + number))]
    shown = searcher._study.get_trials(deepcopy=False)  # type: ignore[attr-defined]
    assert len([t for t in shown if t.state.is_finished()]) == 300
    assert sum(abs(x - 0.3) < 0.1 for x in near) >= 8
