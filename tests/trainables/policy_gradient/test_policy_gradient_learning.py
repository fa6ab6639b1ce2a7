"""The study of agents without a baseline: pairs begin alike, and its table says what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_platform.trainables.policy_gradient import learning
from tune_platform.trainables.stats import paired_ratio
from tune_platform.trainables.studies.results import Results


def test_a_pair_begins_with_the_same_episodes_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"variant": "ppo", "envs": 2, "minibatches": 2, "horizon": 4}
    monkeypatch.setattr(learning, "SETTINGS", small)
    value, zero = (learning.train(job) for job in learning.jobs(["CartPole-v1"], 1, 1))
    assert value["train_return"][0] == zero["train_return"][0]
    assert len(value["train_return"]) == 1
    assert value["kl"][0] != zero["kl"][0]


def test_the_table_pairs_agents_and_leaves_out_those_without_a_partner(tmp_path: Path) -> None:
    results = Results(tmp_path / "learning.jsonl")
    levels = {"value": [30.0, 50.0, 70.0, 1e9], "zero": [20.0, 25.0, 50.0]}
    for job in learning.jobs(["Hopper-v5"], 4):
        of_kind = levels[job["baseline"]]
        if job["seed"] < len(of_kind):
            last = of_kind[job["seed"]]
            results.add(job, {"train_return": [1.0] * 190 + [last] * 10})
    text = learning.table(results)
    found = paired_ratio(levels["value"][:3], levels["zero"])
    assert f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]" in text
    assert "| 3 of 3" in text
    assert "Walker2d" not in text
    learning.draw(results, tmp_path)
    assert (tmp_path / "learning_baseline.png").stat().st_size > 5000
