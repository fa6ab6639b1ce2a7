"""Under every scheduler a value that is no number ends its trial or does not count, and nobody waits for ever."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tune_platform import Budget, SearchSpec, Trainable, run, uniform
from tune_platform.errors import SpecError
from tune_platform.registry import SCHEDULERS, make_scheduler

OPTIONS: dict[str, dict[str, Any]] = {
    "asha": {"max": 9},
    "async_hyperband": {"max": 9},
    "fifo": {},
    "freeze_thaw": {"max": 9, "interval": 3},
    "hyperband": {"max": 9},
    "median": {},
    "mf_pbt": {"interval": 2, "max": 9},
    "mo_asha": {"max": 9},
    "pasha": {"max": 9},
    "pb2": {"interval": 3, "max": 9},
    "pbt": {"interval": 3, "max": 9},
    "successive_halving": {"max": 9},
}
#: The same under other names, and those that pause their trials to judge them at once.
CASES = [
    *OPTIONS.items(),
    ("asha", {"max": 9, "type": "promotion"}),
    ("pbt", {"interval": 3, "max": 9, "synchronous": True}),
    ("pbt", {"interval": 1, "max": 9, "synchronous": True, "selection": "binary_tournament"}),
]


class Diverging(Trainable):
    """Every third trial has no number: from some step on, at one step, or at all."""

    def setup(self, config: dict[str, Any]) -> None:
        self.x, self.at = config["x"], 0

    def step(self) -> dict[str, float]:
        self.at += 1
        bad = (self.x > 0.8, self.x < 0.2 and self.at == 3, 0.4 < self.x < 0.5 and self.at >= 3)
        loss = math.nan if any(bad) else self.x / self.at
        return {"loss": loss, "cost": -loss, "done": self.at == 9}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "at").write_text(str(self.at))

    def load_checkpoint(self, directory: Path) -> None:
        self.at = int((directory / "at").read_text())


def test_no_scheduler_is_left_out() -> None:
    told = {SCHEDULERS.builtin[name] for name in OPTIONS}  # several names may mean one; a replay has its own tests
    assert told == {target for target in SCHEDULERS.builtin.values() if not target.endswith(":Replay")}


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - {"fifo"}))
@pytest.mark.parametrize("resource", [3, "", None, ["step"]])
def test_a_resource_that_is_no_name_is_refused(name: str, resource: Any) -> None:
    with pytest.raises(SpecError, match=r"resource must be the name of what trials report .* got "):
        make_scheduler(name, **{**OPTIONS[name], "resource": resource})


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mode", ["prune", "ignore"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: case if isinstance(case, str) else len(case))
@pytest.mark.parametrize("places", [1, 4])
def test_the_search_comes_to_its_end(
    tmp_path: Path, name: str, options: dict[str, Any], mode: Any, places: int
) -> None:
    several = name == "mo_asha"
    spec = SearchSpec(
        name="bad",
        trainable=Diverging,
        param_space={"x": uniform(0, 1)},
        metric=["loss", "cost"] if several else "loss",
        mode="min",
        scheduler={"name": name, **options},
        on_bad_metric=mode,
        budget=Budget(trials=9),
        backend={"name": "inline", "num_cpus": places},
        storage=str(tmp_path),
        seed=1,
        progress="off",
    )
    results = run(spec)
    assert results.status == "finished", results.finish.reason
    counts = results.counts
    assert len(results) == 9
    assert set(counts) <= {"COMPLETED", "STOPPED", "FAILED"}
    bad = [trial for trial in results.trials() if any(math.isnan(v) for _, v in results.curves().get(trial.number, []))]
    assert bad
    if mode == "ignore":
        assert counts.get("FAILED", 0) == 0
    if mode == "prune":
        assert all(trial.status == "STOPPED" for trial in bad), counts
