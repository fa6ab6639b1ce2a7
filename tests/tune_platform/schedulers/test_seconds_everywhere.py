"""Every scheduler counts in seconds where it is told to: a slow config gets as many seconds, and so fewer steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tune_platform.schedulers.test_bad_metric_everywhere import OPTIONS
from tune_platform import Budget, SearchSpec, Trainable, choice, run, uniform

LONGEST = 18.0
#: In seconds: judged after 2 or every 6.
SECONDS: dict[str, dict[str, Any]] = {
    "async_hyperband": {"min": 2},
    "asha": {"min": 2},
    "freeze_thaw": {"interval": 6},
    "hyperband": {"min": 2},
    "median": {"interval": 6},
    "mf_pbt": {"interval": 3},
    "mo_asha": {"min": 2},
    "pasha": {"min": 2},
    "pb2": {"interval": 6},
    "pbt": {"interval": 6},
    "successive_halving": {"min": 2},
}


class Timed(Trainable):
    """Says itself how many seconds it has trained: one a step, or three."""

    def setup(self, config: dict[str, Any]) -> None:
        self.x, self.pace, self.at, self.seconds = config["x"], config["pace"], 0, 0.0

    def step(self) -> dict[str, float]:
        self.at += 1
        self.seconds += self.pace
        return {"loss": self.x + 1 / self.at, "cost": -self.x, "time_total_s": self.seconds}

    def get_state(self) -> Any:
        return self.at

    def set_state(self, state: Any) -> None:
        self.at, self.seconds = state, self.pace * state


def test_no_scheduler_is_left_out() -> None:
    assert set(SECONDS) == set(OPTIONS) - {"fifo"}, "which judges nothing"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", SECONDS)
def test_it_counts_in_seconds(tmp_path: Path, name: str) -> None:
    population = name in ("pbt", "pb2", "mf_pbt")  # where a clone takes the pace over
    spec = SearchSpec(
        name="seconds",
        trainable=Timed,
        param_space={"x": uniform(0, 1), "pace": 3 if population else choice([1, 3])},
        metric=["loss", "cost"] if name == "mo_asha" else "loss",
        mode="min",
        searcher="random",
        scheduler={"name": name, "resource": "time_total_s", "max": LONGEST, **SECONDS[name]},
        budget=Budget(trials=12),
        backend={"name": "inline", "num_cpus": 4},
        storage=str(tmp_path),
        seed=1,
        progress="off",
    )
    results = run(spec)
    assert results.status == "finished", results.finish.reason
    trials = results.trials()
    seconds = {trial.number: trial.last["time_total_s"] for trial in trials}
    assert max(seconds.values()) <= LONGEST, "nobody trains beyond max"
    ends = [trial for trial in trials if "reached max" in trial.reason]
    assert name == "pasha" or ends
    assert all(seconds[trial.number] == LONGEST for trial in ends)
