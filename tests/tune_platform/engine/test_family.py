"""Every scheduler through the whole engine, on the virtual clock, with faults and persons, cut anywhere."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from tests.support import Run, Scenario
from tests.tune_platform.engine.test_invariants import check_cut, check_end
from tune_platform.backends.simulated import Faults

KINDS = (
    "fifo",
    "stopping",
    "promotion",
    "fronts",
    "halving",
    "hyperband",
    "brackets",
    "pasha",
    "median",
    "median-soft",
    "members",
    "generation",
    "frequencies",
    "bandits",
    "forecasts",
)
#: Of all kinds together, in the slow form; `benchmarks/soak.py` plays as many as there is time for.
SEEDS = int(os.environ.get("TUNE_PLATFORM_SEEDS", "4000"))


def scenario(kind: str, seed: int, *, trials: int = 14) -> Scenario:
    """Circumstances that are a function of the seed, with at most so many trials."""
    draw = random.Random(f"{kind} {seed}")
    trials = draw.randint(1, trials)
    rate = draw.choice((0.0, 0.05, 0.15))
    plan: list[Any] = []
    for after in sorted(draw.sample(range(1, 60), draw.randint(0, 5))):
        action = draw.choice(("pause", "unpause", "stop", "pause", "unpause", "extend"))
        number, data = (None, {"trials": 2}) if action == "extend" else (draw.randrange(trials), {})
        plan.append((after, action, number, data))
    plan += [(10**9, "unpause", None, {}), (10**9, "cancel", None, {})]  # where all wait for a person
    changes: list[Any] = []
    if draw.random() < 0.5:  # nodes come and go, and others want some of them
        at = 0.0
        for _ in range(draw.randint(1, 4)):
            at += draw.uniform(0.3, 6.0)
            found = [({},), ({"cpu": 1.0},), ({"cpu": 2.0}, {"cpu": 1.0}), ()]
            changes.append((at, draw.choice(found), draw.choice(("", "its node is drained"))))
        changes.append((at + 5.0, ({"cpu": 2.0}, {"cpu": 2.0}), ""))
    return Scenario(
        changes=changes,
        scheduler=kind,
        trials=trials,
        nodes=draw.choice([({"cpu": 1.0},), ({"cpu": 3.0},), ({"cpu": 2.0}, {"cpu": 4.0})]),
        mode=draw.choice(("min", "max")),
        seed=seed,
        faults=Faults(exception=rate, worker_died=rate, nan=rate / 3, hang=rate / 3),
        choices=draw.choice([{}, {"length": [1, 4, 9]}]),
        plan=plan,
        settings={"retries": draw.choice([{}, {"exception": 1, "worker_died": 3, "timeout": 1}]), "step_timeout": 20.0},
        batch=draw.choice((1, 16)),
        checkpoint_every=draw.randint(0, 2),
    )


def ended(run: Run) -> None:
    check_end(run)
    finished = run.controller.finished
    assert finished is not None
    # A search has failed only where none of its trials has ended well.
    assert finished.status != "failed" or not run.controller.state.first.good, finished.reason


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_whatever_fails(kind: str) -> None:
    for seed in range(12):
        ended(scenario(kind, seed).run())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_after_any_row_changes_nothing(kind: str) -> None:
    one = scenario(kind, 1)
    whole = one.run()
    length = len(whole.log.rows)
    for seq in range(0, length + 1, max(1, length // 40)):
        check_cut(one, whole, seq)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_whatever_fails_for_many_seeds(kind: str) -> None:
    """Some thousand short experiments, of all kinds together; each twentieth is cut somewhere, and gone on with."""
    for seed in range(100 + KINDS.index(kind), 100 + SEEDS, len(KINDS)):
        one = scenario(kind, seed, trials=4)
        whole = one.run()
        ended(whole)
        if seed // len(KINDS) % 20 == 0:
            check_cut(one, whole, random.Random(seed).randint(0, len(whole.log.rows)))
