"""PBT replay: the schedule of a winner, run again as one trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tune_platform import PBT, Replay, SearchSpec, Trainable, load, run, uniform
from tune_platform.cli import main
from tune_platform.errors import SpecError
from tune_platform.testing.schedulers import SchedulerContract

POLICY = [
    {"from": 0, "config": {"x": 0.5}},
    {"from": 2, "trial": 3, "config": {"x": 0.6}},
    {"from": 5, "trial": 4, "config": {"x": 0.7}},
]


class TestReplay(SchedulerContract):
    def make_scheduler(self) -> Replay:
        return Replay(policy=POLICY)


class Walk(Trainable):
    """Its weights tell with which rates, and in which order, they were trained."""

    def setup(self, config: dict[str, Any]) -> None:
        self.weights: list[float] = []

    def step(self) -> dict[str, Any]:
        self.weights = [*self.weights, self.config["rate"]]
        return {"loss": -sum(self.weights), "weights": self.weights}

    def get_state(self) -> Any:
        return self.weights

    def set_state(self, state: Any) -> None:
        self.weights = state


def spec(folder: Path, name: str, scheduler: Any, trials: int) -> SearchSpec:
    return SearchSpec(
        name=name, trainable=Walk, param_space={"rate": uniform(0, 1)}, metric="loss", mode="min", num_samples=trials,
        scheduler=scheduler, backend={"name": "inline", "num_cpus": 6}, storage=str(folder), stop={"step": 12},
    )  # fmt: skip


@pytest.mark.parametrize("synchronous", [False, True])
def test_the_schedule_of_the_winner_run_again_trains_the_same_weights(tmp_path: Path, synchronous: bool) -> None:
    pbt = PBT(interval=3, quantile=0.34, resample=0.5, synchronous=synchronous)
    first = run(spec(tmp_path, "first", pbt, 6), progress="off")
    winner = first.best()
    path = tmp_path / "winner.yaml"
    told = CliRunner().invoke(
        main, ["lineage", "first", str(winner.trial), "--export", str(path), "--storage", str(tmp_path)]
    )
    assert told.exit_code == 0, told.output
    assert yaml.safe_load(path.read_text()) == first.schedule(winner.trial)
    assert len(first.schedule(winner.trial)) > 1
    again = run(spec(tmp_path, "again", {"name": "pbt_replay", "policy": str(path)}, 1), progress="off")
    assert again.trial(0).metrics["weights"] == winner.metrics["weights"]
    change = first.schedule(winner.trial)[1]
    reasons = [line.reason for line in again.why(0)]
    assert any(
        reason.endswith(f" at step {change['from']}, as trial {change['trial']} did") and "rate " in reason
        for reason in reasons
    ), reasons
    path.unlink()  # what is stored of the search is the schedule itself
    assert json.dumps(load("again", storage=str(tmp_path)).lineage()["step"].tolist()) == json.dumps(
        [row["from"] for row in first.schedule(winner.trial)[1:]]
    )


def test_export_needs_a_trial(tmp_path: Path) -> None:
    run(spec(tmp_path, "e", "fifo", 1), progress="off")
    told = CliRunner().invoke(main, ["lineage", "e", "--export", "x.yaml", "--storage", str(tmp_path)])
    assert told.exit_code == 2
    assert "--export needs TRIAL" in told.output


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("nowhere.yaml", "the policy 'nowhere.yaml' cannot be read"),
        ([], "policy must be a list of"),
        ([{"from": 0}], "policy must be a list of"),
        ([{"from": 1, "config": {}}], r"must begin with 0 and rise, got \[1\]"),
        ([{"from": 0, "config": {}}, {"from": 0, "config": {}}], r"must begin with 0 and rise, got \[0, 0\]"),
    ],
)
def test_a_policy_that_is_none(policy: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Replay(policy=policy)
